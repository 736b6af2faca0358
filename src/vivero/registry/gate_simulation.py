"""What the gate does in the long run: the real rule on reports drawn from a real one.

A model is a report (values per image) and a seed effect: each metric is multiplied by exp(r z),
with r the relative spread between seeds and z standard normal. "Equal" means another seed of the
same recipe. Judging a model draws its images with replacement; of a Frechet distance, which is no
mean, the influences are drawn, which is exact to first order (evaluation/frechet.py). Two models
share no noise, which is the worst case: real ones are sampled from the same noise.

Letters: N images.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
from scipy import stats

from vivero.config.schema import JudgeConfig
from vivero.errors import DataError
from vivero.evaluation.paired import Gain, add_seed_variance
from vivero.evaluation.spread import SeedSpread, SeedSpreads
from vivero.registry.differences import (
    DISTANCES,
    MEASURE_SEEDS,
    Difference,
    Measurements,
    difference_gates,
    differences,
)
from vivero.registry.gates import ruler_hash
from vivero.registry.seed_variance import measure_seed_variance, spreads_for

Report = Mapping[str, Any]
MIN_REAL_MODELS = 4  # two are judged, and the spread is taken from the others
MAX_SHARE = 1.0


@dataclass(frozen=True)
class Plan:
    """How much is simulated.

    Attributes:
        trials: Comparisons of each kind.
        retrains: Candidates in a row.
        rows: Such rows, each of models of its own.
        seed: Random seed of all draws.
    """

    trials: int
    retrains: int
    rows: int
    seed: int


@dataclass(frozen=True)
class Model:
    """A training: the report that its images are drawn from, and what its seed does to each metric.

    Attributes:
        report: metrics.json with `per_image`.
        factors: Of each compared metric; 1 where it is missing.
        weights_sha256: Tells models apart.
    """

    report: Report
    factors: Mapping[str, float]
    weights_sha256: str


@dataclass
class Row:
    """Retrains in a row.

    Attributes:
        recorded: The champion's recorded distance after each retrain, as change from the first
            champion's in shares of the mean distance. Recorded is what fresh images say of a
            champion after its promotion, not the value that it won by.
        num_promoted: How many retrains were promoted.
    """

    recorded: list[float] = field(default_factory=list)
    num_promoted: int = 0


@dataclass(frozen=True)
class Rows:
    """Rows of equal retrains.

    Attributes:
        gate: By the gate.
        naive: The same models by "not worse than the champion".
    """

    gate: list[Row]
    naive: list[Row]


@dataclass(frozen=True)
class Trials:
    """Single comparisons.

    Attributes:
        equal: For each one with another seed of the same recipe, whether it was promoted.
        better: The same for recipes that are better by detectable_relative_gain.
        gains: Of the equal ones, the measured gains as shares of the champion's distance.
        naive: Of the equal ones, how many "not worse than the champion" would have promoted.
    """

    equal: list[bool]
    better: list[bool]
    gains: list[float]
    naive: int


class Simulation:
    """The rule and what it is tried on."""

    def __init__(self, reports: Sequence[Report], config: JudgeConfig, spreads: SeedSpreads):
        """Prepare models that share a recipe.

        Args:
            reports: Of one real model, or of several real trainings; each with `per_image`.
            config: The settings of the rule.
            spreads: The spread between seeds that the gate is told.

        Raises:
            DataError: When a report has no Frechet distance with values per image, or a compared
                metric has no spread.
        """
        self.config = config.model_copy(update={"latency_budget_s": 0.0})  # a draw takes no time
        self.measured = Measurements(spreads=spreads)
        self.reports = list(reports)
        found = list(differences(reports[0], reports[0], config, Measurements()))
        self.names = [difference.name for difference in found]
        primary = next((name for name in self.names if name.startswith(DISTANCES)), None)
        if primary is None or any(primary not in (r.get("per_image") or {}) for r in reports):
            raise DataError(
                "the report has no Fréchet distance with values per image; run `dvc repro evaluate`"
            )
        self.primary = primary
        self.spreads: dict[str, SeedSpread] = {}
        for name in self.names:
            spread = spreads.find(name)
            if spread is None:
                raise DataError(
                    f"the variance between seeds of {name} is not known; {MEASURE_SEEDS} "
                    f"measures it"
                )
            self.spreads[name] = spread

    def draw_scale(self, rng: np.random.Generator) -> dict[str, float]:
        """What the true spread of each metric may be in units of the measured one.

        With nu degrees of freedom, nu (measured / true)^2 is chi-squared.
        """
        scales = {}
        for name in self.names:
            freedom = self.spreads[name].degrees_of_freedom
            scales[name] = math.sqrt(freedom / rng.chisquare(freedom))
        return scales

    def draw_model(
        self, rng: np.random.Generator, gain: float, scale: Mapping[str, float]
    ) -> Model:
        """A training of the recipe, or of one whose distance is lower by gain (a share).

        Of several real reports one is taken, which has its own seed already; of a single one the
        seed is drawn, where the true spreads are those that the gate is told times scale.
        """
        report = self.reports[int(rng.integers(len(self.reports)))]
        factors = {self.primary: 1.0 - gain}
        if len(self.reports) == 1:
            for name in self.names:
                sigma = self.spreads[name].relative_std * scale.get(name, 1.0)
                factors[name] = factors.get(name, 1.0) * math.exp(sigma * rng.normal())
        return Model(report, factors, str(rng.integers(2**62)))

    def evaluate(self, model: Model, rng: np.random.Generator) -> dict[str, Any]:
        """A report on fresh images of the model."""
        rows: dict[int, np.ndarray] = {}
        metrics: dict[str, Any] = {}
        per_image: dict[str, np.ndarray] = {}
        for name in self.names:
            metric, factor = model.report["metrics"][name], model.factors.get(name, 1.0)
            values = (model.report.get("per_image") or {}).get(name)
            if values is None:
                value = metric["value"] + metric["std_error"] * rng.normal()
            else:
                n = len(values)
                drawn = values[rows.setdefault(n, rng.integers(n, size=n))]
                value = metric["value"] + float(drawn.mean()) - float(values.mean())
                per_image[name] = drawn if drawn.dtype == np.bool_ else drawn * np.float32(factor)
            is_share = values is not None and values.dtype == np.bool_
            value = min(MAX_SHARE, value * factor) if is_share else value * factor
            metrics[name] = {**metric, "value": value}
        lineage = {**(model.report.get("lineage") or {}), "weights_sha256": model.weights_sha256}
        return {**model.report, "lineage": lineage, "metrics": metrics, "per_image": per_image}

    def is_promoted(self, candidate: Report, champion: Report) -> bool:
        """Whether every gate that compares the two passes."""
        gates = difference_gates(candidate, champion, self.config, self.measured)
        return all(gate.passed is True for gate in gates)

    def distance(self, report: Report) -> float:
        """The primary metric."""
        return float(report["metrics"][self.primary]["value"])

    def is_not_worse(self, candidate: Report, champion: Report) -> bool:
        """The naive rule, which promotes every second equal model."""
        return self.distance(candidate) <= self.distance(champion)

    def run_trials(
        self, plan: Plan, advance: Callable[[], object], *, is_spread_uncertain: bool = False
    ) -> Trials:
        """Judge equal and better retrains, each pair of models of its own.

        Args:
            plan: How much.
            advance: Called after every trial.
            is_spread_uncertain: Draw the true spread of each trial from what the measured one
                leaves open, instead of taking the measured one as true.
        """
        gain = self.config.detectable_relative_gain
        equal, better, gains, naive = [], [], [], 0
        for index in range(plan.trials):
            rng = np.random.default_rng([plan.seed, 0, index])
            scale = self.draw_scale(rng) if is_spread_uncertain else {}
            champion, candidate, improved = (
                self.evaluate(self.draw_model(rng, one, scale), rng) for one in (0.0, 0.0, gain)
            )
            equal.append(self.is_promoted(candidate, champion))
            better.append(self.is_promoted(improved, champion))
            gains.append(1 - self.distance(candidate) / self.distance(champion))
            naive += self.is_not_worse(candidate, champion)
            advance()
        return Trials(equal, better, gains, naive)

    def run_rows(
        self, plan: Plan, advance: Callable[[], object], *, is_spread_uncertain: bool = False
    ) -> Rows:
        """Judge rows of equal retrains, each row of models of its own; arguments as above."""
        rows = Rows([], [])
        for index in range(plan.rows):
            rng = np.random.default_rng([plan.seed, 1, index])
            scale = self.draw_scale(rng) if is_spread_uncertain else {}
            models = [self.draw_model(rng, 0.0, scale) for _ in range(plan.retrains + 1)]
            rows.gate.append(self._row(models, self.is_promoted, rng))
            rows.naive.append(self._row(models, self.is_not_worse, rng))
            advance()
        return rows

    def _row(
        self,
        models: Sequence[Model],
        rule: Callable[[Report, Report], bool],
        rng: np.random.Generator,
    ) -> Row:
        """The first model is champion; the others are candidates, one after the other."""
        champion, row = self.evaluate(models[0], rng), Row([0.0])
        start = recorded = self.distance(self.evaluate(models[0], rng))
        scale = self.distance(self.reports[0])
        for model in models[1:]:
            candidate = self.evaluate(model, rng)
            if rule(candidate, champion):
                champion, row.num_promoted = candidate, row.num_promoted + 1
                recorded = self.distance(self.evaluate(model, rng))
            row.recorded.append((recorded - start) / scale)
        return row


@dataclass(frozen=True)
class RealPair:
    """Two real trainings of one recipe, judged against each other.

    Attributes:
        candidate: Seed of the one that is judged.
        champion: Seed of the other.
        gain: Measured, as a share of the champion's distance.
        std_error: Of it, with the seeds' variance.
        is_promoted: Whether every gate that compares them passed.
    """

    candidate: int
    champion: int
    gain: float
    std_error: float
    is_promoted: bool


def judge_real_pairs(reports: Mapping[int, Report], config: JudgeConfig) -> list[RealPair]:
    """All ordered pairs of real trainings by the real rule; none is better but for its seed.

    The spread between seeds is measured on the other trainings, never on the two that are judged.

    Args:
        reports: By seed, under one protocol, each with `per_image`.
        config: The settings of the rule.

    Raises:
        DataError: When there are too few.
    """
    if len(reports) < MIN_REAL_MODELS:
        raise DataError(
            f"{len(reports)} trainings are too few: two are judged by the spread of at least two "
            f"others; add seeds with `vivero seeds`"
        )
    return [_judge_pair(reports, *pair, config) for pair in permutations(reports, 2)]


def _judge_pair(
    reports: Mapping[int, Report], candidate: int, champion: int, config: JudgeConfig
) -> RealPair:
    others = {seed: made for seed, made in reports.items() if seed not in (candidate, champion)}
    measured = Measurements(
        spreads=spreads_for(
            measure_seed_variance("others", "", others), "", None, ruler_hash(reports[candidate])
        )
    )
    pair = reports[candidate], reports[champion]
    found: list[Difference] = list(differences(*pair, config, measured))
    gates = difference_gates(*pair, config, measured)
    unit = abs(float(pair[1]["metrics"][found[0].name]["value"]))
    return RealPair(
        candidate,
        champion,
        found[0].gain.value / unit,
        found[0].gain.std_error / unit,
        all(gate.passed is True for gate in gates),
    )


def power(true_gain: float, image_error: float, spread: SeedSpread, config: JudgeConfig) -> float:
    """Probability that a retraining better by true_gain promotes, by the primary metric alone.

    Args:
        true_gain: As a share of the champion's distance.
        image_error: Standard error of the measured gain from the images, as such a share.
        spread: Between seeds.
        config: The settings of the rule.
    """
    images = Gain(true_gain, image_error, 1, is_paired=True)
    gain = add_seed_variance(images, 1.0 - true_gain, 1.0, spread)
    if not gain.std_error:
        return float(true_gain >= config.min_relative_gain and true_gain > 0)
    needed = gain.quantile((1 + config.superiority_confidence) / 2) * gain.std_error
    over = (true_gain - max(needed, config.min_relative_gain)) / gain.std_error
    return float(stats.norm.cdf(over))
