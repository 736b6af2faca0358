"""When to train again: the rule, its memory, and that nobody can drive it faster than allowed."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivero.config.schema import MonitorConfig
from vivero.data.incoming import Arrival
from vivero.registry.retraining import (
    DAY_S,
    HOUR_S,
    MAX_RECENT,
    Memory,
    Observation,
    after,
    decide,
    for_source,
    idempotency_key,
    unseen,
)

CONFIG = MonitorConfig(
    source="incoming",
    min_images=20,
    max_images=100,
    retrain_after_images=500,
    retrain_after_days=30.0,
    cooldown_hours=24.0,
)
NOW = 1_800_000_000.0
QUIET = Observation(100, 100, False, "no drift", champion_made_at=NOW - DAY_S)
ALARM = replace(QUIET, is_alarm=True, finding="drift")


@pytest.mark.parametrize(
    ("memory", "seen", "now", "trigger", "said"),
    [
        (Memory(), QUIET, NOW, False, "no drift"),
        (Memory(), ALARM, NOW, True, "drift"),
        (Memory(), replace(ALARM, champion_made_at=None), NOW, False, "no champion yet"),
        (Memory(num_since=400), QUIET, NOW, True, "500 good new images"),
        (Memory(num_since=399), QUIET, NOW, False, "no drift"),
        (Memory(), QUIET, NOW + 30 * DAY_S, True, "days since the last training"),
        (Memory(triggered_at=NOW - 23 * HOUR_S), ALARM, NOW, False, "held back"),
        (Memory(triggered_at=NOW - 24 * HOUR_S), ALARM, NOW, True, "drift"),
    ],
)
def test_the_rule(memory: Memory, seen: Observation, now: float, trigger: bool, said: str):
    decision = decide(memory, seen, CONFIG, now)
    assert decision.trigger is trigger
    assert said in " ".join(decision.reasons)


def test_a_hundred_thousand_odd_images_and_calls_give_one_training_a_window():
    """P8: whoever brings in whatever, and asks however often, at most one trigger in 24 hours."""
    rng = np.random.default_rng(0)
    calls = np.sort(rng.uniform(NOW, NOW + 10 * DAY_S, 100_000))
    memory, triggers, keys = Memory(), [], set()
    for call, now in enumerate(calls):
        seen = replace(ALARM, num_new=int(rng.integers(1, 1000)), num_good=1000)
        decision = decide(memory, seen, CONFIG, float(now))
        if decision.trigger:
            triggers.append(now)
            keys.add(idempotency_key("vivero", memory))
        arrival = Arrival(f"odd-{call}", float(now))
        memory = after(memory, [arrival], seen, decision, float(now))
    assert len(json.dumps(asdict(memory))) < 4500, "a tag of MLflow holds 5,000 letters"
    assert len(triggers) == len(keys) == 10
    assert min(np.diff(triggers)) >= 24 * HOUR_S


def test_callers_who_decide_at_the_same_moment_have_one_key():
    memory = Memory(number=3, stamp="abcd", triggered_at=NOW)
    assert idempotency_key("vivero", memory) == idempotency_key("vivero", memory)
    assert idempotency_key("vivero", memory) != idempotency_key(
        "vivero", replace(memory, stamp="other")
    ), "a registry that was emptied begins again at 1, but not with the old keys"


def dealt_with(memory: Memory, arrivals: list[Arrival], now: float = NOW) -> Memory:
    return after(memory, arrivals, QUIET, decide(memory, QUIET, CONFIG, now), now)


@given(
    times=st.lists(st.integers(0, 50), min_size=1, max_size=500),
    cut=st.integers(0, 500),
)
@settings(max_examples=60)
def test_each_file_is_new_exactly_once(times: list[int], cut: int):
    """In two calls, the second with everything; within a second the names have any order."""
    arrivals = [Arrival(f"{i}.png", float(t)) for i, t in enumerate(times)]
    first = sorted(arrivals, key=lambda arrival: arrival.arrived_at)[:cut]
    last = first[-1].arrived_at if first else -1.0
    first = [arrival for arrival in arrivals if arrival.arrived_at <= last]  # settled seconds
    memory = dealt_with(Memory(), first)
    assert {a.key for a in unseen(memory, arrivals)} == {a.key for a in arrivals} - {
        a.key for a in first
    }
    memory = dealt_with(memory, arrivals)
    assert unseen(memory, arrivals) == []
    assert len(memory.recent) <= MAX_RECENT


def test_a_straggler_with_an_older_time_is_still_new():
    memory = dealt_with(Memory(), [Arrival(f"{i}.png", NOW + i) for i in range(100)])
    late = Arrival("late.png", NOW + 50.5)
    assert unseen(memory, [late]) == [late]


def test_what_a_cool_down_holds_back_stays_new():
    memory = Memory(triggered_at=NOW - HOUR_S, number=1)
    arrivals = [Arrival("a.png", NOW - 10)]
    decision = decide(memory, ALARM, CONFIG, NOW)
    assert after(memory, arrivals, ALARM, decision, NOW) == memory


def test_another_source_has_not_been_seen_but_shares_the_cool_down():
    memory = for_source(Memory(number=2, triggered_at=NOW), "s3://one/x")
    memory = dealt_with(memory, [Arrival("a.png", NOW)])
    moved = for_source(memory, "s3://two/x")
    assert unseen(moved, [Arrival("a.png", NOW)]) != []
    assert (moved.number, moved.triggered_at) == (2, NOW)
    assert for_source(memory, "s3://one/x") == memory
