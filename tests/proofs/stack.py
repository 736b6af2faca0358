"""A small repository on real services of its own: what `prove_services` looks at and breaks.

Everything lies below one folder: a bare repository that runs clone from and push to, a clone in
which the services are started, the services, and the clones of the runs.
"""

import itertools
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from infra.services import readiness, supervision
from infra.services.program import marked
from infra.services.settings import LISTENING, Settings, read_env
from tests.end_to_end.conftest import Clone, draw_images, make_clone
from tests.services import free_ports

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
DEPLOYMENT = "experiment/local"
RUN_S = 3600.0  # at most, on a very busy machine
MODEL = "vivero"
STAGE_WORDS = ("vivero.stages", "torchrun", "torch.distributed")  # in a stage's command line

Json = Any


def answer_of(
    url: str, sign_in: dict[str, str], body: Json = None, method: str | None = None
) -> Json:
    """The JSON answer of a server of ours."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **sign_in}
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return json.loads(answer.read() or "null")


@dataclass(frozen=True)
class Stack:
    """The folder, and what is asked of the services in it."""

    folder: Path
    settings: Settings

    @classmethod
    def made(cls, folder: Path) -> "Stack":
        """A fresh repository below a folder; nothing is started."""
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)  # user postgres goes through
        draw_images(folder / "pictures")
        clone = make_clone(folder / "clone", folder / "pictures")
        clone.git("branch", "--move", "main")
        clone.git("clone", "--quiet", "--bare", str(clone.root), str(folder / "origin.git"))
        return cls.found(folder, free_ports(len(LISTENING)))

    @classmethod
    def found(cls, folder: Path, first_port: int) -> "Stack":
        """One that was made before."""
        return cls(folder, Settings(folder / "clone", folder / "services", first_port))

    @property
    def clone(self) -> Clone:
        """Where a person works."""
        return Clone(self.folder / "clone")

    @property
    def runs_dir(self) -> Path:
        """Where runs work."""
        return self.folder / "runs"

    @property
    def environment(self) -> dict[str, str]:
        """Ours, pointed at this folder, and at the services once they have run."""
        return {
            **os.environ,
            "VIVERO_SERVICES_DIR": str(self.settings.folder),
            "VIVERO_PORTS_FROM": str(self.settings.first_port),
            "VIVERO_REPOSITORY": str(self.folder / "origin.git"),
            "VIVERO_RUNS_DIR": str(self.runs_dir),
            "VIVERO_NUM_THREADS": "1",
            **read_env(self.settings),
        }

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run `python -m WORDS` in the clone."""
        return self.run([sys.executable, "-m", *words], self.clone.root)

    def run(self, words: list[str], cwd: Path) -> "subprocess.CompletedProcess[str]":
        """Run a program; its words are in the message when it fails."""
        done = subprocess.run(words, cwd=cwd, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, (
            f"{' '.join(words)}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        )
        return done

    def publish_data(self) -> None:
        """Have the DVC remote hold the images, as a repository that is deployed has."""
        remote = self.environment["VIVERO_DVC_REMOTE"]
        self.command("dvc", "remote", "add", "--quiet", "--local", "--default", "runs", remote)
        self.command("dvc", "push", "--quiet", "data.dvc")

    # Prefect, by its REST interface

    def api(self, path: str, body: Json = None, method: str | None = None) -> Json:
        """Ask the Prefect server."""
        sign_in = readiness.of_prefect(read_env(self.settings))
        return answer_of(f"{self.settings.address('prefect')}/api/{path}", sign_in, body, method)

    def patiently(self, path: str, body: Json = None) -> Json:
        """As api; a server that is away is asked again, until the run's time is over."""
        give_up_at = time.monotonic() + 240
        while True:
            try:
                return self.api(path, body)
            except OSError:
                assert time.monotonic() < give_up_at, "the Prefect server did not come back"
                time.sleep(1)

    def trigger(self, ref: str = "main") -> str:
        """Start a run by hand, as a person does; returns its id."""
        before = {run["id"] for run in self.flow_runs()}
        words = ("prefect", "--no-prompt", "deployment", "run", DEPLOYMENT, "--param", f"ref={ref}")
        self.command(*words)
        (run_id,) = {run["id"] for run in self.flow_runs()} - before
        return run_id

    def flow_runs(self) -> list[Json]:
        """All runs of the deployment that are due or past."""
        deployment = self.deployment()
        found = self.patiently(
            "flow_runs/filter", {"deployments": {"id": {"any_": [deployment["id"]]}}}
        )
        return list(found)

    def deployment(self) -> Json:
        """What Prefect knows of the deployment."""
        return self.patiently(f"deployments/name/{DEPLOYMENT}")

    def quiet_schedules(self) -> None:
        """Switch off what would fire by itself meanwhile: the proof makes its own schedule."""
        for deployment in self.api("deployments/filter", {}):
            for schedule in deployment["schedules"]:
                path = f"deployments/{deployment['id']}/schedules/{schedule['id']}"
                self.api(path, {"active": False}, method="PATCH")

    def state(self, run_id: str) -> str:
        """Type of the state of a run."""
        return str(self.patiently(f"flow_runs/{run_id}")["state_type"])

    def wait(self, run_id: str, is_over: Callable[[str], bool], patience_s: float = RUN_S) -> str:
        """Wait until a run is in a state that is_over says yes to; returns the state."""
        give_up_at = time.monotonic() + patience_s
        while not is_over(state := self.state(run_id)):
            assert time.monotonic() < give_up_at, (
                f"run {run_id} is {state} after {patience_s:.0f} s"
            )
            time.sleep(1)
        return state

    def ended(self, run_id: str) -> str:
        """Wait until a run has ended; returns its last state."""
        return self.wait(run_id, ENDED.__contains__)

    def task_runs(self, run_id: str) -> dict[str, Json]:
        """Task runs of a flow run by name."""
        body = {"flow_runs": {"id": {"any_": [run_id]}}, "limit": 200}
        return {task["name"]: task for task in self.api("task_runs/filter", body)}

    def logs(self, run_id: str) -> list[Json]:
        """All that a run and its tasks said, in order."""
        wanted = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC"}
        pages = itertools.count(step=200)  # the server gives no more at once
        found: list[Json] = []
        while page := self.api("logs/filter", {**wanted, "limit": 200, "offset": next(pages)}):
            found += page
        return found

    def artifacts(self, run_id: str) -> dict[str, Json]:
        """What a run shows in Prefect's pages, by key."""
        body = {"artifacts": {"flow_run_id": {"any_": [run_id]}}}
        return {found["key"]: found for found in self.api("artifacts/filter", body)}

    # what a run works on

    def run_dir(self, run_id: str) -> Path:
        """The clone of a run."""
        name = self.patiently(f"flow_runs/{run_id}")["name"]
        return self.runs_dir / f"{name}-{run_id[:8]}"

    def branch(self, name: str, changes: Mapping[str, object]) -> str:
        """Push a branch of the repository with other settings; returns its name."""
        self.clone.git("checkout", "--quiet", "-B", name, "main")
        for key, value in changes.items():
            self.clone.change(key, value)
        self.clone.git("commit", "--quiet", "--all", "--message", f"settings of {name}")
        self.clone.git("push", "--quiet", "--force", str(self.folder / "origin.git"), name)
        self.clone.git("checkout", "--quiet", "main")
        return name

    # MLflow, by its REST interface

    def mlflow(self, path: str) -> Json:
        """Ask the MLflow server."""
        sign_in = readiness.of_mlflow(read_env(self.settings))
        return answer_of(f"{self.settings.address('mlflow')}/api/2.0/mlflow/{path}", sign_in)

    def versions(self) -> list[Json]:
        """All versions of the model."""
        return list(self.mlflow("model-versions/search?max_results=1000").get("model_versions", []))

    def aliases(self) -> dict[str, str]:
        """Version of each alias."""
        model = self.mlflow(f"registered-models/get?name={MODEL}")["registered_model"]
        return {alias["alias"]: alias["version"] for alias in model.get("aliases", [])}

    # processes

    def kill(self, service: str) -> list[psutil.Process]:
        """End a service with SIGKILL, and nothing else.

        Returns:
            What must be gone before another takes its place: the service, and the child of MLflow,
            which lives on and holds the port. A worker's children are runs: they go on.
        """
        process = psutil.Process(supervision.pids(self.settings)[service])
        children = process.children() if service == "mlflow" else []
        process.kill()
        return [process, *children]

    def back(self, service: str, killed: list[psutil.Process], patience_s: float = 240.0) -> None:
        """Wait until the supervisor has brought a service back and it does its work."""
        give_up_at = time.monotonic() + patience_s
        env = read_env(self.settings)
        heard = self.worker_heard() if service == "worker" else ""  # Prefect takes it for alive
        while any(process.is_running() for process in killed) or not (
            service in supervision.pids(self.settings)
            and readiness.is_ready(self.settings, service, env)
            and (service != "worker" or self.worker_heard() != heard)
        ):
            assert time.monotonic() < give_up_at, f"{service} did not come back"
            time.sleep(0.5)

    def worker_heard(self) -> str:
        """When the worker last spoke to Prefect."""
        (worker,) = self.patiently("work_pools/local/workers/filter", {})
        return str(worker["last_heartbeat_time"])

    def stages_at_work(self) -> list[str]:
        """Command lines of stages that run."""
        lines = []
        for process in marked(self.settings.folder, "worker"):
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if any(name in line for name in STAGE_WORDS):
                lines.append(line)
        return lines

    def flows_at_work(self) -> list[int]:
        """Processes that a worker, also one that was killed, has started; not the worker."""
        return [
            process.pid
            for process in marked(self.settings.folder, "worker")
            if process.pid != supervision.pids(self.settings).get("worker")
        ]
