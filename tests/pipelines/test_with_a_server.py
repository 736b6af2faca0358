"""What only a real Prefect server can show: one run for one key, turns that come back, dead runs.

On PostgreSQL as `make services` has it, and one run for one key on sqlite as well.
"""

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

from infra.services import postgres
from tests.pipelines.prefect_server import prefect_server
from tests.services import Servers, servers  # noqa: F401

REPOSITORY = Path(__file__).parents[2]
NUM_TRIGGERS, NUM_ROUNDS = 20, 10
LEASE_S = 60.0
NUM_KILLED, CRASHED_S = 10, 120.0
SIGN_IN = "PREFECT_API_AUTH_STRING"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as address:
        yield address


@pytest.fixture(scope="module")
def api(servers: Servers) -> Iterator[str]:  # noqa: F811
    if postgres.bin_dir() is None:
        pytest.skip("no PostgreSQL here (Debian: apt-get install postgresql)")
    servers.start("prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SIGN_IN, servers.env[SIGN_IN])
        yield servers.env["PREFECT_API_URL"]


def sign_in() -> tuple[str, str] | None:
    user, _, password = os.environ.get(SIGN_IN, "").partition(":")
    return (user, password) if user else None


def post(api: str, path: str, **values: object) -> dict[str, object]:
    """As Prefect's client does: again when sqlite, locked by another writer, makes it say 503."""
    for attempt in range(12):
        answer = requests.post(f"{api}/{path}", json=values, auth=sign_in(), timeout=120)
        if answer.status_code != requests.codes.unavailable:
            break
        time.sleep(0.5 * 1.5**attempt)
    answer.raise_for_status()
    return dict(answer.json())


@pytest.mark.parametrize("server", ["api", "on_sqlite"])
def test_twenty_triggers_at_once_with_one_key_make_one_run(
    server: str, request: pytest.FixtureRequest
):
    api = request.getfixturevalue(server)
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
    answer = requests.post(f"{api}/flow_runs/count", json={}, auth=sign_in(), timeout=60)
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


HOLDS_A_TURN = """
import sys, time
from prefect import flow
from prefect.runtime import flow_run
from pipelines.turns import one_at_a_time

@flow(name="holder", persist_result=False)
def holder(name):
    with one_at_a_time(name):
        print(flow_run.id, flush=True)
        time.sleep(1000)

holder(sys.argv[1])
"""
MAKES_RULES = """
from prefect.client.orchestration import get_client
from infra.services.deploying import make_rules

with get_client(sync_client=True) as client:
    make_rules(client)
"""


def test_a_killed_run_is_marked_crashed_and_its_slot_is_free(api: str):
    env = {**os.environ, "PREFECT_API_URL": api, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    subprocess.run([sys.executable, "-c", MAKES_RULES], cwd=REPOSITORY, env=env, check=True)
    holders = {
        f"turn-{index}": subprocess.Popen(
            [sys.executable, "-c", HOLDS_A_TURN, f"turn-{index}"],
            cwd=REPOSITORY,
            env=env,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(NUM_KILLED)
    }
    killed_at, run_ids = {}, {}
    for name, holder in holders.items():
        assert holder.stdout is not None
        run_ids[name] = holder.stdout.readline().strip()
    for name, holder in holders.items():
        holder.kill()
        holder.communicate()
        killed_at[name] = time.monotonic()
        time.sleep(3)  # at another place between two heartbeats
    crashed_after_s: dict[str, float] = {}
    free_after_s: dict[str, float] = {}
    while len(crashed_after_s) + len(free_after_s) < 2 * NUM_KILLED:
        for name, since in killed_at.items():
            passed_s = time.monotonic() - since
            assert passed_s < CRASHED_S, f"{name}: {crashed_after_s}, {free_after_s}"
            if name not in crashed_after_s and state_of(api, run_ids[name]) == "CRASHED":
                crashed_after_s[name] = passed_s
            if name not in free_after_s and slots_taken(api, name) == 0:
                free_after_s[name] = passed_s
        time.sleep(0.5)
    sys.stdout.write(
        f"crashed after {max(crashed_after_s.values()):.0f} s, "
        f"free after {max(free_after_s.values()):.0f} s at most\n"
    )


def state_of(api: str, run_id: str) -> str:
    answer = requests.get(f"{api}/flow_runs/{run_id}", auth=sign_in(), timeout=60)
    return str(answer.json()["state_type"])


def slots_taken(api: str, name: str) -> int:
    answer = requests.get(f"{api}/v2/concurrency_limits/{name}", auth=sign_in(), timeout=60)
    return int(answer.json()["active_slots"])
