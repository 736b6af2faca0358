"""How long a model takes for an image, measured on this machine beside another one.

The two take turns, and who begins changes with every round: what else the machine does slows both.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from vivero.evaluation.paired import Gain
from vivero.registry.bundle import Bundle
from vivero.registry.own_images import own_images

MIN_ROUNDS, MAX_ROUNDS = 6, 60
MEDIAN_ERROR = 1.2533 * 1.4826  # of a median, in median absolute deviations over sqrt(n)


@dataclass(frozen=True)
class Latency:
    """Two models, timed in turns.

    Attributes:
        candidate_ms: Median milliseconds per image.
        champion_ms: The same of the champion.
        gain: How much less time the candidate takes, as a share of the champion's.
    """

    candidate_ms: float
    champion_ms: float
    gain: Gain


def measured_latency(
    candidate: Bundle, champion: Bundle, batch_images: int, budget_s: float
) -> Latency:
    """Time both models as they sample by default, in small batches, in turns.

    Args:
        candidate: One model.
        champion: The other.
        batch_images: Images made at once.
        budget_s: Rounds are begun for so long, at least MIN_ROUNDS and at most MAX_ROUNDS.
    """
    timers = [_timer(bundle, batch_images) for bundle in (candidate, champion)]
    for timer in timers:
        timer()  # the first call allocates
    rounds: list[tuple[float, float]] = []
    started_at = time.monotonic()
    while len(rounds) < MIN_ROUNDS or (
        time.monotonic() - started_at < budget_s and len(rounds) < MAX_ROUNDS
    ):
        if len(rounds) % 2:
            theirs, ours = timers[1](), timers[0]()
        else:
            ours, theirs = timers[0](), timers[1]()
        rounds.append((ours, theirs))
    ours_ms, theirs_ms = (
        1000 * statistics.median(times) / batch_images for times in zip(*rounds, strict=True)
    )
    return Latency(ours_ms, theirs_ms, latency_gain(rounds))


def latency_gain(rounds: list[tuple[float, float]]) -> Gain:
    """1 - median over rounds of candidate / champion, in logarithms; seconds in, a share out.

    The median and its error from the median absolute deviation: a round that the machine spent on
    something else moves neither. A round without a duration makes the gain NaN, which passes no
    gate.

    Source:
        Rousseeuw and Croux 1993, J. Am. Stat. Assoc. 88 (the deviation).
    """
    if not rounds or any(not 0 < duration < math.inf for pair in rounds for duration in pair):
        return Gain(math.nan, math.nan, len(rounds), is_paired=True)
    ratios = [math.log(ours / theirs) for ours, theirs in rounds]
    middle = statistics.median(ratios)
    deviation = statistics.median(abs(ratio - middle) for ratio in ratios)
    error = MEDIAN_ERROR * deviation / math.sqrt(len(ratios))
    return Gain(1 - math.exp(middle), math.exp(middle) * error, len(ratios), is_paired=True)


def _timer(bundle: Bundle, batch_images: int) -> Callable[[], float]:
    def run() -> float:
        started_at = time.perf_counter()
        own_images(bundle, batch_images)
        return time.perf_counter() - started_at

    return run
