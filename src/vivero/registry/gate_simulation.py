"""What the gate does in the long run: the real rule on reports drawn from real features.

A model is a pool of images; judging it is a draw from the pool. Equal models are draws from one
pool, a better one has a share of its images replaced by held-out real ones. The draws of two models
share nothing, which is the worst case: real ones come from the same noise (docs/experiments.md).

Letters: N samples, H held-out images, D features.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivero.config.schema import JudgeConfig
from vivero.evaluation.cores import spread_over_cores
from vivero.evaluation.frechet import Moments, frechet_distance, frechet_influence, moments
from vivero.evaluation.intervals import share_estimate
from vivero.registry.gates import judge

NORMAL = NormalDist()
DISTANCE = "fd.simulated"
ROW_QUANTILE = 0.95  # of the change of the recorded figure over rows
SHARE_STEPS = 12  # halvings of [0, 1] in search of the share of real images


@dataclass(frozen=True)
class Pool:
    """Images that models are drawn from: N samples of a model, then H held-out real ones.

    Attributes:
        features: Shape (N + H, D).
        shares: Figures that are shares of images, by name: bool of each image, shape (N + H,).
        num_samples: N.
        reference: Moments of the real images that are judged against.
    """

    features: Float[Tensor, "P D"]
    shares: dict[str, np.ndarray]
    num_samples: int
    reference: Moments


@dataclass(frozen=True)
class Plan:
    """How much is simulated.

    Attributes:
        draws: Models of each kind.
        trials: Comparisons of each kind: random pairs of different models.
        retrains: Candidates in a row.
        chains: Such rows: orders of the same draws, so they are not independent.
        seed: Of all draws.
    """

    draws: int
    trials: int
    retrains: int
    chains: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What the gate did.

    Attributes:
        equal: Verdicts on models as good as the champion.
        better: Verdicts on models better by the margin.
        naive: Of the equal ones, how many "not worse than the champion" would have promoted.
        gains: Of the equal, then of the better, the measured gains, as shares of the mean distance.
        true_gain: Of the better models, as such a share.
        real_share: Share of real images that makes them better.
        mean_distance: Over the equal draws.
        distance_std: Their spread.
        recorded: Change of the champion's recorded figure after each retrain, as such a share, mean
            over chains: with the gate, and with the naive rule.
        recorded_changes: With the gate, the whole change in every chain.
        changes: Promotions in every chain with the gate, and in the mean with the naive rule.
    """

    equal: list[str]
    better: list[str]
    naive: int
    gains: tuple[list[float], list[float]]
    true_gain: float
    real_share: float
    mean_distance: float
    distance_std: float
    recorded: tuple[list[float], list[float]]
    recorded_changes: list[float]
    changes: tuple[list[int], float]

    @property
    def changed_share(self) -> float:
        """Of the rows, those in which the gate changed the champion at least once."""
        return float(np.mean(np.asarray(self.changes[0]) > 0))

    @property
    def large_change(self) -> float:
        """The change of the recorded figure, either way, that ROW_QUANTILE of the rows keep to."""
        return float(np.quantile(np.abs(self.recorded_changes), ROW_QUANTILE))


def simulate(pool: Pool, plan: Plan, config: JudgeConfig, advance: Callable[[], object]) -> Outcome:
    """Judge equal and better models, and rows of equal retrains.

    Args:
        pool: Images to draw from.
        plan: How much.
        config: The rule's settings; its margin is what the better models are better by.
        advance: Called after every draw, 2 * draws in all.

    Raises:
        ValueError: When there are too few draws for that many trials or retrains.
    """
    if plan.draws * (plan.draws - 1) < plan.trials or plan.draws <= plan.retrains:
        raise ValueError(
            f"{plan.draws} draws are too few for {plan.trials} different pairs or "
            f"{plan.retrains} retrains of a first model"
        )
    equal = list(_reports(pool, 0.0, plan.draws, plan.seed, advance))
    figures = np.array([distance_of(report) for report in equal])
    gain = config.detectable_relative_gain * float(figures.mean())
    (real_share,) = spread_over_cores(partial(share_for_gain, pool), [gain])
    better = list(_reports(pool, real_share, plan.draws, plan.seed + 1, advance))
    places = _pairs(plan)
    pairs = [(equal[ours], equal[theirs]) for ours, theirs in places]
    betters = [(better[ours], equal[theirs]) for ours, theirs in places]
    chains = [_Chain(equal, plan, config, index) for index in range(plan.chains)]
    scale = float(figures.mean())
    return Outcome(
        equal=[_verdict(*pair, config) for pair in pairs],
        better=[_verdict(*pair, config) for pair in betters],
        naive=sum(_naive(*pair) for pair in pairs),
        gains=(_gains(pairs, scale), _gains(betters, scale)),
        true_gain=config.detectable_relative_gain,
        real_share=real_share,
        mean_distance=scale,
        distance_std=float(figures.std(ddof=1)),
        recorded=(
            _mean_course([chain.gate for chain in chains], scale),
            _mean_course([chain.naive for chain in chains], scale),
        ),
        recorded_changes=[chain.gate[-1] / scale for chain in chains],
        changes=(
            [chain.num_changes for chain in chains],
            float(np.mean([chain.num_naive_changes for chain in chains])),
        ),
    )


def _pairs(plan: Plan) -> list[tuple[int, int]]:
    """Different ordered pairs of different models."""
    rng = np.random.default_rng([plan.seed, plan.draws])
    codes = rng.choice(plan.draws * (plan.draws - 1), size=plan.trials, replace=False)
    ours, others = codes // (plan.draws - 1), codes % (plan.draws - 1)
    theirs = others + (others >= ours)
    return [(int(one), int(two)) for one, two in zip(ours, theirs, strict=True)]


class _Chain:
    """Equal retrains in a row: who is champion, by the gate and by the naive rule."""

    def __init__(
        self, reports: Sequence[dict[str, Any]], plan: Plan, config: JudgeConfig, index: int
    ) -> None:
        order = np.random.default_rng([plan.seed, index]).permutation(len(reports))
        start, candidates = reports[order[0]], order[1 : plan.retrains + 1]
        champion = lowest = start
        self.gate, self.naive = [0.0], [0.0]
        self.num_changes = self.num_naive_changes = 0
        for candidate in (reports[place] for place in candidates):
            if _verdict(candidate, champion, config) == "promote":
                champion, self.num_changes = candidate, self.num_changes + 1
            if _naive(candidate, lowest):
                lowest, self.num_naive_changes = candidate, self.num_naive_changes + 1
            self.gate.append(distance_of(champion) - distance_of(start))
            self.naive.append(distance_of(lowest) - distance_of(start))


def share_for_gain(pool: Pool, gain: float) -> float:
    """Share of real images that lowers the distance of the whole pool by gain.

    Raises:
        ValueError: When even real images alone gain less.
    """
    samples, held_out = pool.features[: pool.num_samples], pool.features[pool.num_samples :]
    own, real = moments(samples), moments(held_out)
    start = frechet_distance(pool.reference, own)  # this way round its root is computed once

    def gained(share: float) -> float:
        return start - frechet_distance(pool.reference, _mixture(own, real, share))

    if gained(1.0) < gain:
        raise ValueError(
            f"real images are only {gained(1.0):.3g} better than the samples ({start:.4g}), and "
            f"the margin is {gain:.3g}; lower judge.detectable_relative_gain"
        )
    low, high = 0.0, 1.0
    for _ in range(SHARE_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if gained(middle) < gain else (low, middle)
    return high


def _mixture(first: Moments, second: Moments, share: float) -> Moments:
    """Moments of images that are of the second kind with this probability."""
    gap = second.mean - first.mean
    covariance = (1 - share) * first.covariance + share * second.covariance
    return Moments(
        first.mean + share * gap, covariance + share * (1 - share) * torch.outer(gap, gap)
    )


def _reports(
    pool: Pool, real_share: float, count: int, seed: int, advance: Callable[[], object]
) -> Iterator[dict[str, Any]]:
    def report(index: int) -> dict[str, Any]:
        rng = np.random.default_rng([seed, index])
        rows = rng.integers(pool.num_samples, size=pool.num_samples)
        is_real = rng.random(pool.num_samples) < real_share
        real = rng.integers(pool.num_samples, len(pool.features), size=pool.num_samples)
        return drawn_report(pool, np.where(is_real, real, rows))

    for made in spread_over_cores(report, range(count)):
        advance()
        yield made


def drawn_report(pool: Pool, rows: np.ndarray) -> dict[str, Any]:
    """The report on a model that made these images of the pool."""
    found = frechet_influence(pool.features[torch.from_numpy(rows)], pool.reference)
    metrics = {DISTANCE: _metric(found.distance, found.std_error, len(rows), "lower")}
    per_image = {DISTANCE: found.values.numpy().astype(np.float32)}
    for name, marked in pool.shares.items():
        hits = marked[rows]
        share = share_estimate(int(hits.sum()), len(rows))
        better = "higher" if name.startswith("label_agreement.") else "lower"
        metrics[name] = _metric(share.value, share.std_error, share.n, better)
        per_image[name] = hits
    return {
        "protocol": {"hash": "simulated", "compulsory": ["frechet_distance"]},
        "lineage": dict.fromkeys(("data_digest", "params_sha256", "weights_sha256"), "simulated"),
        "metrics": metrics,
        "per_image": per_image,
    }


def _metric(value: float, std_error: float, n: int, better: str) -> dict[str, Any]:
    # The floor stands for a model that keeps the absolute limits: what is looked at is differences.
    return {"value": value, "std_error": std_error, "n": n, "better": better, "floor": value}


def distance_of(report: dict[str, Any]) -> float:
    """The primary figure of a simulated report."""
    return float(report["metrics"][DISTANCE]["value"])


def _verdict(candidate: dict[str, Any], champion: dict[str, Any], config: JudgeConfig) -> str:
    untimed = config.model_copy(update={"latency_budget_s": 0.0})  # a draw has no time per image
    return judge(candidate, champion, untimed).verdict


def _naive(candidate: dict[str, Any], champion: dict[str, Any]) -> bool:
    return distance_of(candidate) <= distance_of(champion)


def _gains(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], scale: float) -> list[float]:
    return [(distance_of(theirs) - distance_of(ours)) / scale for ours, theirs in pairs]


def _mean_course(courses: Sequence[list[float]], scale: float) -> list[float]:
    return [float(value) / scale for value in np.mean(courses, axis=0)]


def power(true_gain: float, std_error: float, config: JudgeConfig) -> float:
    """Probability that a model better by true_gain promotes by the primary figure alone.

    Args:
        true_gain: As a share of the champion's distance.
        std_error: Of the measured gain, as such a share.
        config: The rule's settings.
    """
    needed = NORMAL.inv_cdf((1 + config.superiority_confidence) / 2) * std_error
    return NORMAL.cdf((true_gain - max(needed, config.min_relative_gain)) / std_error)
