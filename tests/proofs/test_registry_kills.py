"""P7: promote, roll back and register killed at every commit: nothing half, lost or doubled."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mlflow_stores import root  # noqa: F401
from tests.proofs.registry_faults import KILLED, killed_at, share_no_connections
from tests.unit.registry.test_registration import NAME, candidate_of
from vivero.config.schema import Config
from vivero.registry.moves import history, take_turn
from vivero.registry.promotion import ANY_CHAMPION, Request, promote, rollback
from vivero.registry.registration import register_version
from vivero.registry.versions import bring_here, download, find_alias, list_versions
from vivero.tracking.store import open_client

MANY = 400  # no command here has as many commits
STEPS = [17, pytest.param(1, marks=pytest.mark.slow)]  # 17: some points; 1: every one


@pytest.fixture(autouse=True)
def _forks(monkeypatch: pytest.MonkeyPatch) -> None:
    share_no_connections(monkeypatch)
    monkeypatch.setattr(  # the clean process has its own tests and touches no store
        "vivero.registry.promotion.check_in_clean_process", lambda *_: {}
    )


@pytest.fixture
def two_versions(_forks: None, root: Path, tiny_config: Config) -> Path:  # noqa: F811
    for seed in range(2):
        register_version(root, NAME, candidate_of(root, tiny_config, seed))
    for version in ("1", "2"):
        promote(root, wish(version), tiny_config.promote)
    return root


def wish(version: str) -> Request:
    return Request(NAME, version, ANY_CHAMPION, "because")


def champion(where: Path) -> str:
    found = find_alias(where, NAME, "champion")
    assert found is not None
    bring_here(where, found)  # raises unless whole and signed
    return found.version


def struck(where: Path, body: Callable[[], object], finish: Callable[[], object], step: int) -> int:
    """Kill body at every step-th commit, before and after it; returns the number of kills."""
    kills = 0
    for commit in range(1, MANY, step):
        for after in (False, True):
            former, before = champion(where), history(where, NAME)
            code = killed_at(body, commit, after)
            if code == 0:
                finish()
                return kills
            assert code == KILLED
            kills += 1
            assert champion(where) in ("1", "2")
            finish()
            events = history(where, NAME)
            moved = champion(where) != former
            assert len(events) == len(before) + moved, f"commit {commit}, after={after}"
            assert events[: len(before)] == before
            if moved:
                assert (events[-1].former, events[-1].champion) == (former, champion(where))
            open_claims = open_client(where).search_experiments(
                filter_string="name LIKE '%.move.%'"
            )
            assert open_claims == []
    raise AssertionError("the fault never stopped")


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_of_promote_at_any_commit(two_versions: Path, tiny_config: Config, step: int):
    other = {"1": "2", "2": "1"}

    def once() -> None:
        promote(two_versions, wish(target[0]), tiny_config.promote)

    target = [other[champion(two_versions)]]
    kills = 0

    def finish() -> None:
        once()
        assert champion(two_versions) == target[0]
        target[0] = other[target[0]]

    kills = struck(two_versions, once, finish, step)
    assert kills >= (60 if step == 1 else 2), kills


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_of_rollback_at_any_commit(two_versions: Path, step: int):
    kills = struck(
        two_versions,
        lambda: rollback(two_versions, NAME, "back"),
        lambda: take_turn(two_versions, NAME),
        step,
    )
    assert kills >= (40 if step == 1 else 2), kills


@pytest.mark.slow
def test_a_kill_of_register_at_any_commit(
    root: Path,  # noqa: F811
    tiny_config: Config,
):
    kills = 0
    for commit, after in itertools.product(range(1, MANY), (False, True)):
        name = f"model-{commit}-{after}"
        candidate = candidate_of(root, tiny_config, seed=kills)
        code = killed_at(lambda n=name, c=candidate: register_version(root, n, c), commit, after)
        register_version(root, name, candidate)
        (version,) = list_versions(root, name)
        download(root, version)
        if code == 0:
            break
        assert code == KILLED
        kills += 1
    assert kills >= 60, kills
