"""The learning-rate range test: train for a moment while the rate rises, watch the loss.

Nothing is written; the state that it trains is thrown away.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vivero.errors import TrainingError
from vivero.training.state import TrainState
from vivero.training.step import Rig, memory_advice, train_step

LEAST_RATE, MOST_RATE = 1e-6, 1.0
MEMORY = 0.9  # of the smoothed loss: the last ten steps or so
EXPLODED = 4.0  # times the least smoothed loss so far
SAFETY = 10.0  # the suggestion lies so many times below the rate with the least loss


@dataclass(frozen=True)
class RangeTest:
    """What was seen, step by step, each of the same length.

    Attributes:
        rates: Learning rates, rising.
        losses: Training loss of each step's batch.
        smoothed: The losses, smoothed.
        suggestion: The learning rate to train with.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float


def rising_rates(num_steps: int) -> list[float]:
    """Rates from LEAST_RATE to MOST_RATE, each the same factor above the one before."""
    growth = (MOST_RATE / LEAST_RATE) ** (1 / (num_steps - 1))
    return [LEAST_RATE * growth**step for step in range(num_steps)]


def smoothed(losses: Sequence[float], memory: float = MEMORY) -> list[float]:
    """The running mean of the losses, corrected for its beginning at zero.

    mean[i] = sum(memory ** (i - j) * losses[j]) / sum(memory ** (i - j)), over j <= i

    Source:
        Kingma and Ba 2015, arXiv:1412.6980, section 3 (the correction).
    """
    means, total, weight = [], 0.0, 0.0
    for loss in losses:
        total, weight = memory * total + loss, memory * weight + 1
        means.append(total / weight)
    return means


def suggested_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """A tenth of the rate at which the smoothed loss is least.

    There the loss still falls fast, with room before it rises.

    Raises:
        TrainingError: When the loss never fell.

    Source:
        Smith 2017, arXiv:1506.01186, section 3.3 (the test); Howard and Gugger 2020,
        arXiv:2002.04688 (the tenth).
    """
    means = smoothed(losses)
    least = min(range(len(means)), key=means.__getitem__)
    if least == 0:
        raise TrainingError(
            f"the loss rose from the first step on (rate {rates[0]:.1e}), so no learning rate can "
            f"be suggested; look at train.diffusion and at the prepared images"
        )
    return max(LEAST_RATE, rates[least] / SAFETY)


def has_exploded(losses: Sequence[float]) -> bool:
    """Whether the last loss is no number, or the smoothed one is far above its least."""
    means = smoothed(losses)
    return not math.isfinite(losses[-1]) or means[-1] > EXPLODED * min(means)


def range_test(
    state: TrainState, rig: Rig, num_steps: int, note: Callable[[float, float], None]
) -> RangeTest:
    """Train a state while the rate rises, until the loss explodes or the rates end.

    Args:
        state: Is trained, and good for nothing afterwards.
        rig: What it is trained with; its own schedule is put aside.
        num_steps: How many rates are tried at most; at least 2.
        note: Told each rate and its loss.

    Raises:
        TrainingError: When no rate can be suggested.
    """
    rates: list[float] = []
    losses: list[float] = []
    with memory_advice(rig.config):
        for rate in rising_rates(num_steps):
            at_rate = {"learning_rate": rate, "learning_rate_schedule": "constant"}
            config = rig.config.model_copy(update={**at_rate, "warmup_images": 0})
            train_step(state, replace(rig, config=config))
            loss = state.tally.loss.item()
            state.tally.begin_anew()
            note(rate, loss)
            if has_exploded([*losses, loss]):
                break
            rates.append(rate)
            losses.append(loss)
    suggestion = suggested_rate(rates, losses)
    return RangeTest(tuple(rates), tuple(losses), tuple(smoothed(losses)), suggestion)
