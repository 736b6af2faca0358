"""When is it time to train again? A pure rule over what a monitor saw and what it remembers.

However often it is asked, and whatever comes in, it triggers at most once in a cool-down.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from vivero.config.schema import MonitorConfig
from vivero.files import sha256_of_json

MAX_RECENT = 200  # seen files that are remembered one by one
KEY_LETTERS = 12  # of the sha256 of a key, in that memory
HOUR_S, DAY_S = 3600.0, 86400.0


class Arrived(Protocol):
    """A file with the instant when it came."""

    @property
    def key(self) -> str:
        """Its name at the source."""
        ...

    @property
    def arrived_at(self) -> float:
        """Seconds since 1970."""
        ...


@dataclass(frozen=True)
class Memory:
    """What a monitor remembers from call to call; small, whatever came in.

    Everything up to `(boundary_at, boundary_key)` was seen; of what came later, all in `recent`.

    Attributes:
        number: Triggers so far.
        triggered_at: The last one, seconds since 1970; None before the first.
        source: Short hash of the source's address: what was seen belongs to it.
        seen_until: When the newest seen file came; None before the first.
        boundary_at: See above.
        boundary_key: Short hash of a key, for files of the same instant.
        recent: Short hashes of keys.
        num_since: Good images since the last trigger that were tested.
        stamp: Random, of the writer: equal numbers of other histories differ in it.
        pending: Key of a trigger that its caller has not said to have passed on; None without one.
    """

    number: int = 0
    triggered_at: float | None = None
    source: str = ""
    seen_until: float | None = None
    boundary_at: float = 0.0
    boundary_key: str = ""
    recent: tuple[str, ...] = ()
    num_since: int = 0
    stamp: str = ""
    pending: str | None = None


@dataclass(frozen=True)
class Observation:
    """What a call found.

    Attributes:
        num_new: Files that no earlier call had seen.
        num_good: How many of them are good images, estimated from those that were looked at.
        is_alarm: Of the drift tests; None when nothing was tested.
        finding: Their sentence, or why nothing was tested.
        champion_made_at: When the champion was made, seconds since 1970; None without one.
    """

    num_new: int
    num_good: int
    is_alarm: bool | None
    finding: str
    champion_made_at: float | None


@dataclass(frozen=True)
class Decision:
    """Whether to train again, why, and whether the new files count as dealt with."""

    trigger: bool
    reasons: tuple[str, ...]
    is_dealt_with: bool


def decide(memory: Memory, seen: Observation, config: MonitorConfig, now: float) -> Decision:
    """Train again on drift, after enough images, or on schedule; never within a cool-down.

    Files of an alarm that a cool-down holds back stay new, so that nothing is forgotten.

    Args:
        memory: Of the calls before.
        seen: What this call found.
        config: When is enough, and the cool-down.
        now: Seconds since 1970.
    """
    if seen.champion_made_at is None:
        reason = "there is no champion yet to compare with; `vivero run` makes the first"
        return Decision(False, (reason,), False)
    reasons = _reasons(memory, seen, config, now)
    if not reasons:
        return Decision(False, (seen.finding,), seen.is_alarm is not None)
    opens_at = window_opens_at(memory, config)
    if opens_at is not None and now < opens_at:
        held = (
            f"held back: the last training was asked for at {instant(memory.triggered_at)}, the "
            f"next may be at {instant(opens_at)} (monitor.cooldown_hours)"
        )
        return Decision(False, (*reasons, held), False)
    return Decision(True, tuple(reasons), True)


def _reasons(memory: Memory, seen: Observation, config: MonitorConfig, now: float) -> list[str]:
    reasons = []
    if seen.is_alarm:
        reasons.append(seen.finding)
    num_since = memory.num_since + seen.num_good
    if config.retrain_after_images is not None and num_since >= config.retrain_after_images:
        reasons.append(
            f"{num_since} good new images since the last time "
            f"(monitor.retrain_after_images is {config.retrain_after_images})"
        )
    if config.retrain_after_days is not None and seen.champion_made_at is not None:
        last = max(seen.champion_made_at, memory.triggered_at or 0.0)
        days = (now - last) / DAY_S
        if days >= config.retrain_after_days:
            reasons.append(
                f"{days:.1f} days since the last training "
                f"(monitor.retrain_after_days is {config.retrain_after_days:g})"
            )
    return reasons


def window_opens_at(memory: Memory, config: MonitorConfig) -> float | None:
    """When the next trigger may be, seconds since 1970; None = any time."""
    if memory.triggered_at is None:
        return None
    return memory.triggered_at + config.cooldown_hours * HOUR_S


def idempotency_key(name: str, memory: Memory) -> str:
    """The key of the next trigger: the same for all who decide on the same memory."""
    digest = sha256_of_json([name, memory.number, memory.triggered_at, memory.stamp])
    return f"monitor-{name}-{memory.number + 1}-{digest[:8]}"


def for_source(memory: Memory, address: str) -> Memory:
    """The memory for a source: of another one nothing was seen yet; cool-down and alarm stay."""
    source = hashlib.sha256(address.encode()).hexdigest()[:KEY_LETTERS]
    if memory.source == source:
        return memory
    kept = Memory(memory.number, memory.triggered_at, num_since=memory.num_since)
    return replace(kept, source=source, stamp=memory.stamp, pending=memory.pending)


def unseen(memory: Memory, arrivals: Sequence[Arrived]) -> list[Arrived]:
    """The files that no earlier call dealt with, oldest first; stragglers among them."""
    recent = set(memory.recent)
    boundary = (memory.boundary_at, memory.boundary_key)
    return [
        arrival
        for arrival in sorted(arrivals, key=_place)
        if _place(arrival) > boundary and _place(arrival)[1] not in recent
    ]


def after(
    memory: Memory, arrivals: Sequence[Arrived], seen: Observation, decision: Decision, now: float
) -> Memory:
    """The memory once a decision was taken: all arrivals are seen, if they were dealt with."""
    if not decision.is_dealt_with:
        return memory
    places = sorted(_place(arrival) for arrival in arrivals)
    dropped, kept = places[:-MAX_RECENT], places[-MAX_RECENT:]
    boundary = max([*dropped[-1:], (memory.boundary_at, memory.boundary_key)])
    newest = [kept[-1][0]] if kept else []
    return replace(
        memory,
        number=memory.number + decision.trigger,
        triggered_at=now if decision.trigger else memory.triggered_at,
        seen_until=max([*newest, memory.seen_until or 0.0]) or None,
        boundary_at=boundary[0],
        boundary_key=boundary[1],
        recent=tuple(key for _, key in kept),
        num_since=0 if decision.trigger else memory.num_since + seen.num_good,
    )


def told_again(decision: Decision, pending: str) -> Decision:
    """The alarm of a call before that nobody has heard of: the same one, under its own key."""
    again = f"{pending} was decided before, and nobody said that it was passed on"
    return replace(decision, trigger=True, reasons=(*decision.reasons, again))


def instant(seconds: float | None) -> str | None:
    """Seconds since 1970 as a date and time of day in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _place(arrival: Arrived) -> tuple[float, str]:
    digest = hashlib.sha256(arrival.key.encode()).hexdigest()
    return arrival.arrived_at, digest[:KEY_LETTERS]
