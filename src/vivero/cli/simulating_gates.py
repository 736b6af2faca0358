"""What `vivero simulate-gates` does: reports drawn from real features, judged by the real rule."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, project_dir, work_dir
from vivero.evaluation.classifier import NAME as CLASSIFIER
from vivero.evaluation.classifier import load_classifier
from vivero.evaluation.metrics import label_hits
from vivero.evaluation.reference import CLASSIFIER_NAME
from vivero.evaluation.usability import unusable_images
from vivero.files import write_json
from vivero.registry.gate_simulation import ROW_QUANTILE, Outcome, Plan, Pool, simulate
from vivero.registry.gate_simulation_plot import plot_outcome
from vivero.registry.gate_targets import Target, targets
from vivero.stages.evaluate import Exhibit, read_exhibit

RETRAINS, CHAINS = 20, 500


def simulate_gates(trials: int, draws: int, seed: int) -> int:
    """Simulate, print the table, write work/simulate_gates.

    Returns:
        0, or 1 when a target was missed.
    """
    root = project_dir()
    config = load_config(root / PARAMS)
    pool = pool_of(read_exhibit(config, root))
    plan = Plan(draws, trials, RETRAINS, CHAINS, seed)
    with tqdm(total=2 * draws, desc="models judged", unit="model", disable=None) as bar:
        outcome = simulate(pool, plan, config.judge, bar.update)
    found = targets(outcome, plan)
    folder = work_dir(root) / "simulate_gates"
    write_json(folder / "gates.json", record(outcome, plan, found))
    plot_outcome(outcome, config.judge, folder / "gates.png")
    _print(outcome, plan, found, folder, root)
    return 0 if all(target.is_met for target in found) else 1


def pool_of(exhibit: Exhibit) -> Pool:
    """The samples and the held-out real images, with all that can be told of each alone."""
    reference, samples, test = exhibit.reference, exhibit.samples, exhibit.test
    features = exhibit.features.features
    count = len(features)
    unusable = unusable_images(
        samples.images, features, reference.features, reference.held_out[:count]
    )
    rest = np.zeros(len(reference.held_out) - len(unusable.held_out), dtype=np.bool_)
    shares = {
        "unusable_share.simulated": np.concatenate([unusable.samples, unusable.held_out, rest])
    }
    path = exhibit.reference_dir / CLASSIFIER_NAME
    if path.exists():
        network = load_classifier(path)
        shares[f"label_agreement.{CLASSIFIER}"] = np.concatenate(
            [
                label_hits(network, samples.images, samples.labels),
                label_hits(network, np.asarray(test.images), np.asarray(test.labels)),
            ]
        )[: count + len(reference.held_out)]
    return Pool(torch.cat([features, reference.held_out]), shares, count, reference.moments)


def record(outcome: Outcome, plan: Plan, found: list[Target]) -> dict[str, Any]:
    """All figures, for programs."""
    return {
        "plan": asdict(plan),
        "targets": [{**asdict(target), "is_met": target.is_met} for target in found],
        **asdict(outcome),
        "changed_share": outcome.changed_share,
        "large_change": outcome.large_change,
    }


def _print(outcome: Outcome, plan: Plan, found: list[Target], folder: Path, root: Path) -> None:
    table = Table("what", "found", "95 %, as if independent", "asked for", "n", "")
    for target in found:
        interval = f"{target.low:.2%} to {target.high:.2%}"
        mark = "met" if target.is_met else "MISSED"
        table.add_row(
            target.what, f"{target.found:.2%}", interval, target.asked_for, str(target.n), mark
        )
    console = Console(width=max(120, Console().width))
    console.print(table)
    changes, naive_changes = outcome.changes
    sys.stdout.write(
        f"The rule 'not worse than the champion' promotes {outcome.naive / plan.trials:.0%} "
        f"of equal models, {naive_changes:.1f} times in {plan.retrains} retrains, and moves the "
        f"recorded figure by {outcome.recorded[1][-1]:.2%}; the gate promotes "
        f"{np.mean(changes):.2f} times, at least once in {outcome.changed_share:.0%} of rows, and "
        f"{ROW_QUANTILE:.0%} of rows move by at most {outcome.large_change:.2%}. "
        f"Better by {outcome.true_gain:.0%} means {outcome.real_share:.1%} real images.\n"
        f"All figures in {(folder / 'gates.json').relative_to(root)}, picture in gates.png\n"
    )
