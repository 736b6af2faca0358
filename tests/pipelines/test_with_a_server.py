"""What only a real Prefect server can show: one run for one key, and turns that come back."""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.pipelines.prefect_server import prefect_server

REPOSITORY = Path(__file__).parents[2]
NUM_TRIGGERS, NUM_ROUNDS = 20, 10
LEASE_S = 60.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as address:
        yield address


def post(api: str, path: str, **values: object) -> dict[str, object]:
    """As Prefect's client does: again when sqlite, locked by another writer, makes it say 503."""
    for attempt in range(12):
        answer = requests.post(f"{api}/{path}", json=values, timeout=120)
        if answer.status_code != requests.codes.unavailable:
            break
        time.sleep(0.5 * 1.5**attempt)
    answer.raise_for_status()
    return dict(answer.json())


def test_twenty_triggers_at_once_with_one_key_make_one_run(api: str):
    flow_id = post(api, "flows/", name="experiment")["id"]
    deployment = post(api, "deployments/", name="local", flow_id=flow_id)["id"]
    for index in range(NUM_ROUNDS):
        with ThreadPoolExecutor(NUM_TRIGGERS) as pool:
            made = [
                pool.submit(
                    post,
                    api,
                    f"deployments/{deployment}/create_flow_run",
                    idempotency_key=f"alarm-{index}",
                )
                for _ in range(NUM_TRIGGERS)
            ]
        assert len({future.result()["id"] for future in made}) == 1
    answer = requests.post(f"{api}/flow_runs/count", json={}, timeout=60)
    assert answer.json() == NUM_ROUNDS


TAKES_A_TURN = """
import sys, time
from pipelines.turns import one_at_a_time
with one_at_a_time("vivero-promotion"):
    print("in", time.time(), flush=True)
    time.sleep(float(sys.argv[1]))
    print("out", time.time(), flush=True)
"""


def take_turn(api: str, seconds: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", TAKES_A_TURN, str(seconds)],
        cwd=REPOSITORY,
        env={**os.environ, "PREFECT_API_URL": api},
        stdout=subprocess.PIPE,
        text=True,
    )


def instants(process: "subprocess.Popen[str]") -> list[float]:
    out, _ = process.communicate(timeout=300)
    return [float(line.split()[1]) for line in out.splitlines()]


def test_turns_never_overlap(api: str):
    turns = sorted(instants(process) for process in [take_turn(api, 2) for _ in range(3)])
    assert len(turns) == 3
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(turns))


def test_a_turn_whose_holder_was_killed_comes_back_when_its_lease_ends(api: str):
    holder = take_turn(api, 600)
    assert holder.stdout is not None
    assert holder.stdout.readline().startswith("in")
    holder.kill()
    holder.communicate()
    killed_at = time.time()
    [came_in_at, _] = instants(take_turn(api, 0))
    assert came_in_at - killed_at < 2 * LEASE_S
