"""A trainer that is stopped (SIGSTOP) is noticed, killed and started again; a slow one is not.

The trainers are processes of their own under the product's supervisor; the stop is real.
"""

from pathlib import Path

import pytest
import torch

from tests.proofs import forked, watched
from tests.proofs.faults import STEP_PLACES, Fault
from tests.proofs.trainer import HEARTBEAT_S
from vivero.errors import TrainingError
from vivero.processes import LOOK_EVERY_S
from vivero.training.supervision import NUM_MISSED_BEATS

# The last beat was at most so long before the stop; then two looks, and a busy machine.
LIMIT_S = NUM_MISSED_BEATS * HEARTBEAT_S + 2 * LOOK_EVERY_S + 1.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return forked.final_of(tmp_path_factory.mktemp("whole")).sha256


def freezes(count: int) -> list[Fault]:
    """Later at each start, and never after a moment that a start has behind it."""
    places = (STEP_PLACES[turn % len(STEP_PLACES)] for turn in range(count))
    return [Fault(place, min(24 + 8 * turn, 72), 16) for turn, place in enumerate(places)]


@pytest.mark.slow
def test_a_frozen_trainer_is_noticed_and_started_again_with_the_same_end(tmp_path: Path, whole):
    struck = watched.by_supervisor(tmp_path / "frozen", freezes(3))
    assert len(struck.stayed_s) == 3, "a stop did not happen"
    assert max(struck.stayed_s) < LIMIT_S
    assert struck.final.sha256 == whole


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_frozen_trainers(tmp_path: Path, whole):
    struck = watched.by_supervisor(tmp_path / "frozen", freezes(20))
    assert len(struck.stayed_s) == 20
    assert max(struck.stayed_s) < LIMIT_S
    assert struck.final.sha256 == whole


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_frozen_process_of_two_is_noticed(tmp_path: Path, rank: int):
    unharmed = watched.by_supervisor(tmp_path / "whole", [], num_processes=2)
    fault = Fault("forward", 24, 16, rank=rank)
    struck = watched.by_supervisor(tmp_path / "frozen", [fault], num_processes=2)
    assert len(struck.stayed_s) == 1
    assert struck.final.resumed_from
    assert struck.final.sha256 == unharmed.final.sha256


def test_a_trainer_that_freezes_once_too_often_ends_with_what_to_do(tmp_path: Path):
    with pytest.raises(TrainingError, match=r"the trainer froze 1 times \(train\.max_restarts\)"):
        watched.by_supervisor(tmp_path / "frozen", freezes(1), max_restarts=0)


@pytest.mark.slow
def test_a_long_step_is_no_freeze(tmp_path: Path, whole):
    struck = watched.with_a_long_step(tmp_path / "slow", NUM_MISSED_BEATS * HEARTBEAT_S + 2)
    assert struck.final.resumed_from == [], "it was started again"
    assert struck.final.sha256 == whole
