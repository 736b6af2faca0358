"""What the gate does for other spreads between seeds and other numbers of seeds.

`vivero simulate-gates` answers it for one recipe; this table is for choosing a margin before a
recipe was measured. The report has the metrics of the demo's model (docs/experiments.md); only the
spread between seeds and the number of seeds that it was measured on are varied.

Run: python -m bench.seed_spreads
"""

import sys
from typing import Any

import numpy as np
from tqdm import tqdm

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, project_dir
from vivero.config.schema import JudgeConfig
from vivero.evaluation.spread import SeedSpread, SeedSpreads
from vivero.registry.gate_simulation import Plan, Simulation, power
from vivero.registry.gate_targets import Target, target_of_better, target_of_equal, target_of_rows

FD, LABELS, LOSS = "fd.efficientnet_lite0.5k", "label_agreement.small_cnn.5k", "denoising_loss.mean"
SPREADS, NUM_SEEDS = (0.01, 0.02, 0.03, 0.05), (3, 6, 12)
OTHER_SPREAD = 0.005  # of label agreement and loss
PLAN = Plan(trials=300, retrains=20, rows=100, seed=0)
GAIN_STEP, MIN_POWER = 0.01, 0.8


def demo_report() -> dict[str, Any]:
    """Values per image with the demo's means and standard errors."""
    rng = np.random.default_rng(0)
    influences = rng.normal(size=5000)
    influences *= 2.93 * 5000**0.5 / influences.std()
    per_image = {
        FD: (influences - influences.mean()).astype(np.float32),
        LABELS: rng.permutation(np.arange(5000) < 0.913 * 5000),
        LOSS: (0.1535 + 0.05 * rng.normal(size=1000)).astype(np.float32),
    }
    means = {FD: 219.7, LABELS: 0.913, LOSS: float(per_image[LOSS].mean())}
    metrics = {
        name: {
            "value": mean,
            "std_error": float(per_image[name].std()) / len(per_image[name]) ** 0.5,
            "n": len(per_image[name]),
            "better": "higher" if name == LABELS else "lower",
        }
        for name, mean in means.items()
    }
    return {"lineage": {"weights_sha256": "demo"}, "metrics": metrics, "per_image": per_image}


def spreads(relative_std: float, num_seeds: int) -> SeedSpreads:
    """As if this number of seeds had shown exactly this spread."""
    steps = np.linspace(-1, 1, num_seeds)
    steps /= steps.std(ddof=1)

    def spread(of_one: float) -> SeedSpread:
        return SeedSpread({seed: 1 + of_one * float(step) for seed, step in enumerate(steps)})

    return SeedSpreads(
        {FD: spread(relative_std), LABELS: spread(OTHER_SPREAD), LOSS: spread(OTHER_SPREAD)}
    )


def detectable_gain(report: dict[str, Any], config: JudgeConfig, found: SeedSpreads) -> float:
    """The smallest gain, in steps, that the distance alone promotes in 80 % of cases; computed."""
    metric = report["metrics"][FD]
    image_error = 2**0.5 * metric["std_error"] / metric["value"]
    gains = np.arange(GAIN_STEP, 0.95, GAIN_STEP)
    powers = [power(gain, image_error, found.by_metric[FD], config) for gain in gains]
    return float(gains[np.argmax(np.asarray(powers) >= MIN_POWER)])


def main() -> int:
    """Print the table; 1 when an equal retrain promotes too often or a row drifts too far."""
    config = load_config(project_dir() / PARAMS).judge
    report, all_found = demo_report(), list[Target]()
    cells = [(spread, number) for spread in SPREADS for number in NUM_SEEDS]
    sys.stdout.write(
        "| spread between seeds | seeds | gain found in 80 %, computed | promoted at that gain |"
        " equal promoted | 20 in a row | the same, spread uncertain: equal | 20 in a row |\n"
        + "| --- " * 8
        + "|\n"
    )
    for relative_std, num_seeds in tqdm(cells, disable=None):
        found = spreads(relative_std, num_seeds)
        gain = detectable_gain(report, config, found)
        rule = config.model_copy(update={"detectable_relative_gain": gain})
        simulation = Simulation([report], rule, found)
        row = [f"{relative_std:.0%}", str(num_seeds), f"{gain:.0%}"]
        for is_uncertain in (False, True):
            trials = simulation.run_trials(PLAN, lambda: None, is_spread_uncertain=is_uncertain)
            rows = simulation.run_rows(PLAN, lambda: None, is_spread_uncertain=is_uncertain)
            some = [target_of_equal(trials), target_of_rows(rows, PLAN)]
            if not is_uncertain:
                some.insert(0, target_of_better(trials, gain))
            row += [f"{t.found:.2%} [{t.low:.2%}, {t.high:.2%}]" for t in some]
            all_found += some[-2:]
        sys.stdout.write("| " + " | ".join(row) + " |\n")
        sys.stdout.flush()
    return 0 if all(target.is_met for target in all_found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
