"""How often the drift tests alarm: without a change, and by kind, strength and size of a batch.

A cell is one shift at one size of the batch; its trials depend on (seed, shift, size, index) alone,
so cells may be made in any order, and again. Pure: no files.

Letters: N images of a pool, D features.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from vivero.config.schema import CheckDriftConfig
from vivero.evaluation.drift import DriftReport, Labels, drift_report
from vivero.evaluation.drift_shifts import Shift, changes_pixels, drawn_rows
from vivero.evaluation.intervals import Estimate, share_estimate

BATCH_SIZES = (50, 100, 200, 500, 1000)
ROWS_FOR_DIRECTIONS = 1000  # of each pool
MISSED_AT = 0.01  # a rate above the level counts as a miss when chance alone is rarer than this


@dataclass(frozen=True)
class Pool:
    """Images as features, with labels; features float32, (N, D), labels int64, (N,)."""

    features: Tensor
    labels: np.ndarray


@dataclass(frozen=True)
class Pools:
    """What trials draw from.

    Attributes:
        reference: Real images of the training split.
        held_out: Real images that nobody trained on.
        shifted: Held-out images after a change of pixels, by the name of the shift.
        foreign: Images of another domain.
        num_classes: Of the labels.
    """

    reference: Pool
    held_out: Pool
    shifted: Mapping[str, Pool]
    foreign: Tensor
    num_classes: int


@dataclass(frozen=True)
class CellResult:
    """What came of the trials of one shift at one size.

    Attributes:
        shift: Name.
        family: Kind of shift.
        strength: Of the shift.
        batch_images: Size of the batch.
        num_trials: How many.
        num_alarms: Trials that alarmed (p and effect).
        num_significant: Trials in which a corrected p-value was below the level.
        alarms_by_test: How many alarms each test gave.
    """

    shift: str
    family: str
    strength: float
    batch_images: int
    num_trials: int
    num_alarms: int
    num_significant: int
    alarms_by_test: dict[str, int]

    @property
    def rate(self) -> Estimate:
        """Share of the trials that alarmed."""
        return share_estimate(self.num_alarms, self.num_trials)


def reduced(pools: Pools, num_directions: int) -> tuple[Pools, float]:
    """The same pools in the leading principal directions of all of them together.

    So that thousands of trials take minutes: the tests look at far fewer components anyway. The
    directions come from all pools alike, so no side of a trial is favoured.

    Returns:
        The pools, and the share of the variance that the directions hold.
    """
    named = [pools.reference, pools.held_out, *pools.shifted.values()]
    some = torch.cat([*(pool.features[:ROWS_FOR_DIRECTIONS] for pool in named), pools.foreign])
    mean = some.mean(dim=0)
    covariance = (some - mean).T @ (some - mean)
    values, vectors = torch.linalg.eigh(covariance.double())
    basis = vectors[:, -num_directions:].float()

    def turned(pool: Pool) -> Pool:
        return Pool((pool.features - mean) @ basis, pool.labels)

    made = Pools(
        reference=turned(pools.reference),
        held_out=turned(pools.held_out),
        shifted={name: turned(pool) for name, pool in pools.shifted.items()},
        foreign=(pools.foreign - mean) @ basis,
        num_classes=pools.num_classes,
    )
    return made, float(values[-num_directions:].sum() / values.sum())


def trial(
    pools: Pools, shift: Shift, batch_images: int, index: int, config: CheckDriftConfig
) -> DriftReport:
    """One batch against one reference, both drawn anew."""
    key = f"{config.seed}\0{shift.name}\0{batch_images}\0{index}"
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6])
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    chosen = rng.choice(
        len(pools.reference.labels),
        min(config.num_images, len(pools.reference.labels)),
        replace=False,
    )
    features, labels = _batch(pools, shift, batch_images, rng)
    counts = Labels(
        _counts(pools.reference.labels[chosen], pools.num_classes),
        _counts(labels, pools.num_classes),
    )
    is_labelled = not shift.family.endswith("no labels")
    return drift_report(
        pools.reference.features[chosen],
        features,
        config,
        generator,
        counts if is_labelled else None,
    )


def _batch(
    pools: Pools, shift: Shift, batch_images: int, rng: np.random.Generator
) -> tuple[Tensor, np.ndarray]:
    pool = pools.shifted[shift.name] if changes_pixels(shift) else pools.held_out
    rows = drawn_rows(pool.labels, shift, batch_images, rng)
    features, labels = pool.features[rows].clone(), pool.labels[rows].copy()
    if shift.family == "foreign images":
        num_foreign = rng.binomial(batch_images, shift.strength)
        features[:num_foreign] = pools.foreign[
            rng.choice(len(pools.foreign), num_foreign, replace=False)
        ]
        labels[:num_foreign] = -1
    return features, labels


def _counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    return np.bincount(labels[labels >= 0], minlength=num_classes)


def summarised(shift: Shift, batch_images: int, reports: Iterable[DriftReport]) -> CellResult:
    """The result of a cell from its trials."""
    num_trials = num_alarms = num_significant = 0
    by_test: Counter[str] = Counter()
    for report in reports:
        num_trials += 1
        num_alarms += report.is_alarm
        num_significant += any(test.adjusted_p < report.level for test in report.tests)
        by_test.update(test.name for test in report.tests if test.is_alarm)
    return CellResult(
        shift.name,
        shift.family,
        shift.strength,
        batch_images,
        num_trials,
        num_alarms,
        num_significant,
        dict(by_test),
    )


def missed(result: CellResult, level: float, num_sizes: int) -> bool:
    """Whether false alarms are more than the level explains.

    Binomial: as many or more at the level's rate are rarer than MISSED_AT, shared among the sizes.
    """
    chance = stats.binom.sf(result.num_alarms - 1, result.num_trials, level)
    return bool(chance < MISSED_AT / num_sizes)
