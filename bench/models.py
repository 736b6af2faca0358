"""`make bench-models`: every variant of the ablation plan for equal seconds, and the verdict.

Each run is a process of its own on one core (bench.model_run); as many run side by side as there
are cores. Finished runs are kept; Ctrl-C or SIGTERM ends those under way, and the same command goes
on with what is missing. The report (bench.model_report) is made at the end, or alone by `--report`.

From the environment: SECONDS_PER_RUN (240), SEEDS ("0 1 2"), VARIANTS, DATASETS (all of
bench.variants), JOBS (one for each core), NUM_SAMPLES (1000).
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from bench.model_report import line_of, report
from bench.model_run import Plan, data_root_of, finish, plan_of
from bench.variants import DATASETS, Run, runs_in_order, variant_of
from vivero.config.paths import project_dir, work_dir
from vivero.errors import ViveroError
from vivero.processes import (
    INTERRUPTED_EXIT_CODE,
    TUNING,
    die_with_parent,
    run_program,
    speak_of_our_own,
)

MODULE = "bench.models"
LOOK_EVERY_S = 0.5
PATIENCE_S = 10.0
NUM_LINES_SAID = 4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What the environment asks for.

    Attributes:
        seconds: Of each run.
        seeds: Of each variant.
        variants: None = the whole plan.
        datasets: Of DATASETS.
        num_jobs: How many runs side by side.
        num_samples: That each model makes.
    """

    seconds: float
    seeds: tuple[int, ...]
    variants: tuple[str, ...] | None
    datasets: tuple[str, ...]
    num_jobs: int
    num_samples: int

    def runs(self) -> list[Run]:
        """All runs, the most important first."""
        each = (self.datasets, self.variants, self.seeds, self.seconds, self.num_samples)
        return list(runs_in_order(*each))


def settings_of(environment: dict[str, str], num_cores: int) -> Settings:
    """Read the environment.

    Raises:
        ValueError: When something in it makes no sense.
    """

    def words(name: str) -> tuple[str, ...]:
        return tuple(environment.get(name, "").replace(",", " ").split())

    variants, datasets = words("VARIANTS") or None, words("DATASETS") or DATASETS
    for name in variants or ():
        variant_of(name)
    strange = set(datasets) - set(DATASETS)
    if strange:
        raise ValueError(f"there is no data set {strange}; known are {', '.join(DATASETS)}")
    seconds = float(environment.get("SECONDS_PER_RUN") or 240)
    num_jobs = int(environment.get("JOBS") or num_cores)
    num_samples = int(environment.get("NUM_SAMPLES") or 1000)
    if seconds <= 0 or num_samples < 100 or not 1 <= num_jobs <= num_cores:
        raise ValueError(
            f"need SECONDS_PER_RUN above 0, NUM_SAMPLES of at least 100 and JOBS in 1..{num_cores};"
            f" got {seconds:g}, {num_samples}, {num_jobs}"
        )
    seeds = tuple(int(seed) for seed in words("SEEDS")) or (0, 1, 2)
    return Settings(seconds, seeds, variants, datasets, num_jobs, num_samples)


@dataclass(frozen=True)
class Job:
    """A run under way."""

    plan: Plan
    core: int
    process: "subprocess.Popen[bytes]"
    log_path: Path


def make_all(plans: list[Plan], cores: list[int], root: Path) -> list[str]:
    """Run what is not finished, one run a core.

    Returns:
        What failed, in words.
    """
    todo = [plan for plan in plans if not plan.is_finished]
    jobs: list[Job] = []
    failed: list[str] = []
    bar = tqdm(total=len(plans), initial=len(plans) - len(todo), desc="bench-models", unit="run")
    try:
        while todo or jobs:
            for core in set(cores) - {job.core for job in jobs}:
                plan = next((plan for plan in todo if _is_ready(plan, root)), None)
                if plan is not None:
                    todo.remove(plan)
                    jobs.append(_started(plan, core, root))
            if not jobs:  # what is left waits for runs that failed
                failed += [
                    f"{_name(plan.run)}: the weights it needs are not there" for plan in todo
                ]
                break
            time.sleep(LOOK_EVERY_S)
            for job in [job for job in jobs if job.process.poll() is not None]:
                jobs.remove(job)
                bar.update()
                said = _outcome(job)
                if said is not None:
                    failed.append(said)
    finally:
        _end(jobs)
        bar.close()
    return failed


def _is_ready(plan: Plan, root: Path) -> bool:
    source = plan.run.weights_from
    return source is None or plan_of(source, root).is_finished


def _name(run: Run) -> str:
    return f"{run.dataset} {run.variant} seed {run.seed}"


def _started(plan: Plan, core: int, root: Path) -> Job:
    log_path = work_dir(root) / "bench" / "models" / "logs" / f"{_name(plan.run)}.txt"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE, "--run", json.dumps(asdict(plan.run)), str(core)],
            cwd=root,
            env={**os.environ, **TUNING, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,  # Ctrl-C is for us; we end them
        )
    return Job(plan, core, process, log_path)


def _outcome(job: Job) -> str | None:
    """Say how a run ended; in words what failed, or None."""
    name = _name(job.plan.run)
    result = job.plan.result
    if job.process.returncode == 0 and result is not None:
        tqdm.write(f"{name}: {line_of(result)}")
        return None
    lines = job.log_path.read_text(errors="replace").strip().splitlines()[-NUM_LINES_SAID:]
    if job.process.returncode == 0:
        lines = ["the code or the settings changed meanwhile; run the same command again"]
    tqdm.write(f"{name} failed:\n  " + "\n  ".join(lines))
    return f"{name}: {lines[-1] if lines else 'no message'}"


def _end(jobs: list[Job]) -> None:
    for job in jobs:
        job.process.terminate()
    give_up_at = time.monotonic() + PATIENCE_S
    for job in jobs:
        try:
            job.process.wait(max(0.1, give_up_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            job.process.kill()


def run_one(text: str, core: str) -> None:
    """Be one of the runs: on one core, until the result is there."""
    die_with_parent()
    os.sched_setaffinity(0, {int(core)})
    root = project_dir()
    finish(plan_of(Run(**json.loads(text)), root), root)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run all that is missing, then report; 1 when a run failed."""
    speak_of_our_own()
    if sys.argv[1:2] == ["--run"]:
        run_one(*sys.argv[2:4])
        return 0
    signal.signal(signal.SIGTERM, _stop)
    root, cores = project_dir(), sorted(os.sched_getaffinity(0))
    try:
        settings = settings_of(dict(os.environ), len(cores))
        failed: list[str] = []
        for dataset in settings.datasets:
            data_root_of(dataset, root)
        if sys.argv[1:] != ["--report"]:
            plans = [plan_of(run, root) for run in settings.runs()]
            failed = make_all(plans, cores[: settings.num_jobs], root)
        sentence = report(settings.runs(), root)
    except (ViveroError, ValueError) as error:
        sys.stderr.write(f"bench-models: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(
            "\nbench-models: stopped by you; finished runs are kept, the same command resumes\n"
        )
        return INTERRUPTED_EXIT_CODE
    for line in failed:
        sys.stderr.write(f"bench-models: failed: {line}\n")
    sys.stdout.write(f"{sentence}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    run_program("bench-models", lambda: sys.exit(main()))
