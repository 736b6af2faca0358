"""Kill a run anywhere: the same command, run again, ends as if nothing had happened.

    python -m tests.proofs.prove_flows             # the whole matrix, hours
    CELLS=10 SKIP=11 make prove-flows              # so many of it, after the first eleven

The matrix: every stage x (its start, its middle, while what it made is taken in) x (the process of
the flow, the process of the stage, the Prefect server). Every kill is a SIGKILL that was seen to
have ended its process. Then: no process of the run after 5 s, and after one more run the same
hashes, one training and one version in MLflow, the alias on it.
"""

import contextlib
import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML
from tqdm import tqdm

from tests.end_to_end.conftest import BIN, Clone, draw_images, make_clone
from tests.services import free_ports
from vivero.files import read_json, sha256_of_file

DVC_STAGES = ("validate_data", "prepare_data", "compute_reference", "train", "sample", "evaluate")
ACTS = ("check_drift", "judge", "register", "promote")
MOMENTS = ("start", "middle", "commit")
TARGETS = ("flow", "child", "server")
MARK = "VIVERO_PROOF_OF_FLOWS"
ORPHANS_S = 5.0
PATIENCE_S = 1800.0  # a busy machine is slow, not wrong


@dataclass(frozen=True)
class Cell:
    """A place in the matrix."""

    stage: str
    moment: str
    target: str


def matrix() -> list[Cell]:
    """All cells; what DVC does not own has nothing to take in."""
    cells = itertools.product((*DVC_STAGES, *ACTS), MOMENTS, TARGETS)
    possible = [Cell(*cell) for cell in cells]
    return [
        cell
        for cell in possible
        if cell.moment != "commit" or (cell.stage in DVC_STAGES and cell.target != "child")
    ]


class Server:
    """A Prefect server of our own, that can be killed and comes back as it was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_ports(1)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def api(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        """Start it and wait until it answers."""
        env = {
            **os.environ,
            "PREFECT_HOME": str(self.folder),
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
                "prefect.server.concurrency.lease_storage.filesystem"
            ),
        }
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [BIN / "prefect", "server", "start", "--port", str(self.port)],
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ends_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends_at:
            with contextlib.suppress(requests.RequestException):
                requests.get(self.api + "/health", timeout=5).raise_for_status()
                return
            time.sleep(0.5)
        raise TimeoutError(f"the Prefect server did not start; see {self.folder / 'server.log'}")

    def kill(self) -> None:
        """SIGKILL to all of it."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Bench:
    """A tiny clone that is put back before every cell; its place never changes.

    Attributes:
        clone: Where runs work.
        kept: What it was like when all was done, and MLflow's store as `train` and `register` left
            it.
        server: Prefect's.
    """

    clone: Clone
    kept: Path
    server: Server

    def start_run(self) -> "subprocess.Popen[bytes]":
        """Start the flow; what it says goes to run.log."""
        env = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.clone.root / "src"),
            "PREFECT_API_URL": self.server.api,
            "PREFECT_HOME": str(self.clone.root / "work" / "prefect"),
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR",
            "VIVERO_NUM_THREADS": "1",
            MARK: str(self.clone.root),
        }
        for name in ("MLFLOW_TRACKING_URI", "VIVERO_REPOSITORY"):
            env.pop(name, None)
        with (self.clone.root.parent / "run.log").open("ab") as log:
            command = [sys.executable, "-m", "pipelines.experiment"]
            return subprocess.Popen(command, cwd=self.clone.root, env=env, stdout=log, stderr=log)

    def put_back(self, stage: str) -> None:
        """Everything as it was just before a stage, which DVC cannot take from its run cache."""
        root = self.clone.root
        shutil.rmtree(root)
        shutil.copytree(self.kept / "done", root, symlinks=True)
        if stage in ACTS:
            later = ACTS[ACTS.index(stage) :]
        else:
            later = (*DVC_STAGES[DVC_STAGES.index(stage) :], *ACTS)
        for name in later:
            shutil.rmtree(root / "artifacts" / name, ignore_errors=True)
        _forget_lock(root, later)
        _forget_runs_of(root, stage)
        if stage == "train":
            shutil.rmtree(root / "work" / "checkpoints", ignore_errors=True)
        if stage in DVC_STAGES[:4]:
            (root / "mlflow.db").unlink()
            shutil.rmtree(root / "mlartifacts", ignore_errors=True)
        else:
            store = "registered.db" if stage == "promote" else "trained.db"
            shutil.copy2(self.kept / store, root / "mlflow.db")


def _forget_lock(root: Path, stages: tuple[str, ...]) -> None:
    yaml = YAML()
    lock = yaml.load((root / "dvc.lock").read_text())
    for stage in stages:
        lock["stages"].pop(stage, None)
    with (root / "dvc.lock").open("w") as file:
        yaml.dump(lock, file)


def _forget_runs_of(root: Path, stage: str) -> None:
    for path in list((root / ".dvc" / "cache" / "runs").rglob("*")):
        if path.is_file() and f"vivero.stages.{stage}" in path.read_text():
            shutil.rmtree(path.parent)


def stage_process(mark: str, stage: str) -> psutil.Process | None:
    """The Python process of a stage of this run, without its shell and its children."""
    found = [
        process
        for process in processes_of(mark)
        if process.cmdline()[-2:] == ["-m", f"vivero.stages.{stage}"]
        and "python" in Path(process.cmdline()[0]).name
    ]
    return min(found, key=lambda process: process.create_time(), default=None)


def processes_of(mark: str) -> list[psutil.Process]:
    """All processes that inherited the mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                process.cmdline()[0]
                found.append(process)
    return found


def wait_for(what: Callable[[], Any], run: "subprocess.Popen[bytes]") -> Any:
    """The first true answer; None when the run has ended before."""
    ends_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_at:
        with contextlib.suppress(psutil.Error, IndexError):
            if answer := what():
                return answer
        if run.poll() is not None:
            return None
        time.sleep(0.05)
    raise TimeoutError("the moment to kill at did not come")


def kill_at(cell: Cell, bench: Bench, run: "subprocess.Popen[bytes]", stage_s: float) -> bool:
    """Wait for the moment, and kill; returns whether it was hit."""
    mark = str(bench.clone.root)
    child = wait_for(lambda: stage_process(mark, cell.stage), run)
    if child is None:
        return False
    if cell.moment == "middle":
        time.sleep(stage_s / 2)
    if cell.moment == "commit":
        child.wait(PATIENCE_S)
    if run.poll() is not None or (cell.target == "child" and not child.is_running()):
        return False
    if cell.target == "server":
        bench.server.kill()
        time.sleep(3)
        bench.server.start()
    else:
        victim = psutil.Process(run.pid) if cell.target == "flow" else child
        victim.kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.wait_procs([victim], timeout=10)
    return True


def outcome(root: Path) -> dict[str, Any]:
    """What a finished clone holds, without what names a moment."""
    artifacts = root / "artifacts"
    metrics = read_json(artifacts / "evaluate" / "metrics.json")["metrics"]
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as db:
        count = {
            table: db.execute(f"select count(*) from {table}").fetchone()[0]  # noqa: S608
            for table in ("runs", "model_versions")
        }
        aliases = db.execute("select alias, version from registered_model_aliases").fetchall()
    return {
        "manifest": sha256_of_file(artifacts / "validate_data" / "manifest.parquet"),
        "images": sha256_of_file(artifacts / "prepare_data" / "images" / "train.npy"),
        "weights": read_json(artifacts / "train" / "summary.json")["weights_sha256"],
        "samples": sha256_of_file(artifacts / "sample" / "images.npy"),
        "figures": {name: metric["value"] for name, metric in metrics.items()},
        "mlflow": count,
        "aliases": sorted(aliases),
    }


def try_cell(cell: Cell, bench: Bench, expected: dict[str, Any], stage_s: float) -> str:
    """Kill there and run again; returns what went wrong, or nothing."""
    root = bench.clone.root
    bench.put_back(cell.stage)
    run = bench.start_run()
    if not kill_at(cell, bench, run, stage_s):
        run.wait(PATIENCE_S)
        return "the kill came too late"
    if cell.target == "flow":
        time.sleep(ORPHANS_S)
    else:
        run.wait(PATIENCE_S)
    orphans = processes_of(str(root))
    if orphans:
        return f"{len(orphans)} processes were left: {orphans[0].cmdline()}"
    if bench.start_run().wait(PATIENCE_S):
        return "the next run failed"
    found = outcome(root)
    wrong = [name for name, value in expected.items() if found[name] != value]
    return f"other {', '.join(wrong)}" if wrong else ""


@contextlib.contextmanager
def made_bench() -> Iterator[tuple[Bench, dict[str, Any]]]:
    """A bench whose clone has done the whole job once, and what came of it."""
    with tempfile.TemporaryDirectory(prefix="vivero-flows-") as name:
        folder = Path(name)
        (folder / "prefect").mkdir()
        draw_images(folder / "pictures")
        clone = make_clone(folder / "clone", folder / "pictures")
        server = Server(folder / "prefect")
        server.start()
        bench = Bench(clone, folder / "kept", server)
        try:
            bench.kept.mkdir()
            clone.run("dvc", "repro", "train")
            shutil.copy2(clone.root / "mlflow.db", bench.kept / "trained.db")
            clone.run("dvc", "repro")
            for act in ACTS[:-1]:
                source = f"PYTHONPATH={clone.root / 'src'}"
                clone.run("env", source, "python", "-m", f"vivero.stages.{act}")
            shutil.copy2(clone.root / "mlflow.db", bench.kept / "registered.db")
            if bench.start_run().wait(PATIENCE_S):
                raise RuntimeError((folder / "run.log").read_text()[-3000:])
            shutil.copytree(clone.root, bench.kept / "done", symlinks=True)
            yield bench, outcome(clone.root)
        finally:
            server.kill()


def main() -> None:
    """Try CELLS cells after SKIP, spread over the matrix; print each; exit 1 when one fails."""
    cells = matrix()
    random.Random(0).shuffle(cells)
    rest = cells[int(os.environ.get("SKIP", 0)) :]
    chosen = rest[: int(os.environ.get("CELLS", len(rest)))]
    table = Table("stage", "moment", "killed", "result")
    failures = 0
    with made_bench() as (bench, expected):
        seconds = read_json(bench.clone.root / "work" / "experiment.json")
        for cell in tqdm(chosen, desc="cells", unit="cell"):
            wrong = try_cell(cell, bench, expected, seconds[cell.stage])
            failures += bool(wrong)
            table.add_row(cell.stage, cell.moment, cell.target, wrong or "same")
            tqdm.write(f"{cell.stage} {cell.moment} {cell.target}: {wrong or 'same'}")
    console = Console(width=100)
    console.print(table)
    console.print(
        f"{len(chosen) - failures} of {len(chosen)} killed runs (matrix: {len(cells)}) ended, run "
        f"again, as the one that nobody killed, and left no process."
    )
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
