"""Promoters on as many machines, with no lock file in common: one wins, nobody interleaves."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mlflow_stores import empty_store
from tests.proofs.registry_faults import share_no_connections
from tests.services import rest_mlflow, servers  # noqa: F401
from tests.unit.registry.test_registration import candidate_of
from vivero.config.schema import Config
from vivero.errors import PromotionError
from vivero.registry.moves import history
from vivero.registry.promotion import Request, promote
from vivero.registry.registration import register_version
from vivero.registry.versions import find_alias
from vivero.tracking.store import open_client

WON, REFUSED = 0, 3


@pytest.fixture(params=["sqlite", pytest.param("rest", marks=pytest.mark.slow)])
def model(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Name of a model whose registry many repositories share."""
    share_no_connections(monkeypatch)
    if request.param == "rest":
        yield request.getfixturevalue("rest_mlflow")
        return
    (tmp_path / "shared.db").write_bytes(empty_store())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared.db'}")
    yield "vivero"


@pytest.mark.slow
def test_one_of_many_wins(
    model: str,
    tmp_path: Path,
    tiny_config: Config,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
):
    is_rest = "rest" in request.node.callspec.id
    num_promoters, num_rounds = (20, 5) if is_rest else (8, 2)
    first = tmp_path / "first"
    first.mkdir()
    for seed in range(3):
        register_version(first, model, candidate_of(first, tiny_config, seed))
    for name in ("bring_here", "check_in_clean_process"):
        monkeypatch.setattr(f"vivero.registry.promotion.{name}", lambda *_: tmp_path)
    promote(first, Request(model, "1", None, "first"), tiny_config.promote)

    def one(number: int, champion: str, begin_at: float) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            root = tmp_path / f"machine-{number}"
            root.mkdir(exist_ok=True)
            target = str(1 + (int(champion) + number % 2) % 3)
            time.sleep(max(0.0, begin_at - time.monotonic()))
            request = Request(model, target, champion, f"promoter {number}")
            done = promote(root, request, tiny_config.promote)
            os._exit(WON if done else REFUSED)
        except PromotionError:
            os._exit(REFUSED)
        except BaseException:
            logging.exception("promoter %s", number)
            os._exit(1)

    champion = "1"
    for round_number in range(num_rounds):
        before, begin_at = history(first, model), time.monotonic() + 3
        pids = [one(number, champion, begin_at) for number in range(num_promoters)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        assert sorted(codes) == [WON] + [REFUSED] * (num_promoters - 1), round_number
        events = history(first, model)
        assert events[:-1] == before
        assert events[-1].former == champion
        winner = codes.index(WON)
        assert events[-1].why == f"promoter {winner}"
        found, previous = (find_alias(first, model, name) for name in ("champion", "previous"))
        assert found is not None
        assert previous is not None
        assert (found.version, previous.version) == (events[-1].champion, champion)
        champion = found.version
    claims = open_client(first).search_experiments(filter_string=f"name LIKE '{model}.move.%'")
    assert claims == []
