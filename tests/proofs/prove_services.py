"""Runs on real services: by the clock, by hand, and with each service killed in the middle of one.

    python -m tests.proofs.prove_services            # all; `make prove-services`
    FAULTS="s3 mlflow@register" make prove-services  # only these
    FAULTS= make prove-services                      # none: the scheduled and the triggered run

Starts PostgreSQL, an S3 server, MLflow, Prefect and a worker on ports and in folders of its own,
on a small repository, and ends them all. Its last line is one sentence.
"""

import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from infra.services.program import marked
from infra.services.settings import SERVICES
from tests.proofs import after_run
from tests.proofs.stack import ENDED, Stack

WITHIN_S = 8.0  # after its start a command outside DVC has done its imports, and writes
DEAD_RUN_S = 120.0  # a run whose process died is marked crashed by then
LONG = {  # a training long enough to be struck in its middle
    "train.total_images": 2400,
    "train.checkpoint_every_images": 240,
    "train.validate_every_images": 1200,
    "train.preview_every_images": 1200,
}
# Killed while the run trains, and while it writes to the registry: there a version would double.
FAULTS = (*SERVICES, "postgres@register", "s3@register", "mlflow@register")
FAULT_SEEDS = {name: 11 + place for place, name in enumerate(FAULTS)}


@dataclass(frozen=True)
class Fault:
    """A service that was killed in the middle of a run.

    Attributes:
        name: Which, and in which stage; without one in the middle of training.
        back_s: Until it did its work again.
        state: How the run ended.
        again: How the next run of the same settings ended; "" when none was needed.
        resumed_from: Where trainings went on, in images.
        num_points: Points of the training's journal, all of them in MLflow.
    """

    name: str
    back_s: float
    state: str
    again: str
    resumed_from: list[int]
    num_points: int


class Proof:
    """What is done, said while it is done."""

    def __init__(self, stack: Stack, console: Console) -> None:
        self.stack, self.console = stack, console
        self.began_at = time.monotonic()

    def say(self, text: str) -> None:
        """One line with the time since the beginning."""
        self.console.print(f"[{time.monotonic() - self.began_at:5.0f} s] {text}", markup=False)

    def start(self) -> None:
        """Start the services, twice: the second start changes nothing."""
        self.stack.command("infra.services", "up")
        before = self.processes()
        said = self.stack.command("infra.services", "up").stdout
        assert self.processes() == before, "a second start changed what runs"
        assert "as before" in said
        self.stack.quiet_schedules()
        self.stack.publish_data()
        self.say("services started, and again: nothing changed")

    def processes(self) -> set[int]:
        """Processes of the services."""
        return {process.pid for process in marked(self.stack.settings.folder)}

    def scheduled(self) -> None:
        """A schedule fires by itself; its run is seen in all three places."""
        deployment = self.stack.deployment()
        path = f"deployments/{deployment['id']}/schedules"
        each_minute = {"cron": "* * * * *", "timezone": "UTC"}
        (made,) = self.stack.api(path, [{"schedule": each_minute, "active": True}])
        run_id = self.fired()
        self.stack.api(f"{path}/{made['id']}", method="DELETE")
        for run in self.stack.flow_runs():  # those of the next minutes
            if run["state_type"] == "SCHEDULED":
                self.stack.api(f"flow_runs/{run['id']}", method="DELETE")
        self.say("the schedule fired by itself")
        assert self.stack.ended(run_id) == "COMPLETED", self.words(run_id)
        seconds = after_run.seen_in_prefect(self.stack, run_id)
        self.say(f"its stages, in seconds: {seconds}")
        version = after_run.seen_in_mlflow(self.stack, run_id)
        num_points = after_run.no_metric_lost(self.stack, run_id)
        num_files = after_run.seen_in_storage(self.stack, run_id)
        self.clean(run_id)
        self.say(
            f"version {version} is champion; {num_points} points in PostgreSQL; a fresh clone of "
            f"branch {after_run.branch_of(self.stack, run_id)} pulled {num_files} files"
        )

    def fired(self) -> str:
        """Wait for a run that a schedule has made and that has begun."""
        give_up_at = time.monotonic() + 180
        while time.monotonic() < give_up_at:
            for run in self.stack.flow_runs():
                if run["auto_scheduled"] and run["state_type"] in {"PENDING", "RUNNING", *ENDED}:
                    return str(run["id"])
            time.sleep(1)
        raise AssertionError("no scheduled run began within 180 s")

    def by_hand(self) -> None:
        """The same again, by hand: it changes nothing."""
        versions, aliases = self.stack.versions(), self.stack.aliases()
        run_id = self.stack.trigger()
        self.say("triggered by hand")
        assert self.stack.ended(run_id) == "COMPLETED", self.words(run_id)
        assert [v["version"] for v in self.stack.versions()] == [v["version"] for v in versions]
        assert self.stack.aliases() == aliases
        assert after_run.branch_of(self.stack, run_id) is None
        self.clean(run_id)
        self.say("the same run again changed nothing: no version, no alias, no commit")

    def fault(self, name: str) -> Fault:
        """Kill a service in the middle of a run, and see the run, or the next one, through."""
        service, _, stage = name.partition("@")
        settings = {"train.seed": FAULT_SEEDS[name]} | ({} if stage else LONG)
        ref = self.stack.branch(f"fault-{name.replace('@', '-')}", settings)
        run_id = self.stack.trigger(ref)
        self.until(run_id, stage)
        killed_at = time.monotonic()
        killed = self.stack.kill(service)
        self.say(f"{name}: killed while the run works at {stage or 'train'}")
        self.stack.back(service, killed)
        back_s = time.monotonic() - killed_at
        self.say(f"{name}: works again after {back_s:.0f} s")
        state, again = self.ended_in_time(run_id), ""
        if state != "COMPLETED":
            self.say(f"{name}: the run ended as {state}; the next one goes on")
            self.wait_for_no_flow()
            after_run.no_orphan(self.stack)
            run_id = self.stack.trigger(ref)
            again = self.stack.ended(run_id)
        assert "COMPLETED" in (state, again), self.words(run_id)
        num_points = after_run.no_metric_lost(self.stack, run_id)
        resumed_from = after_run.resumed_from(self.stack, run_id)
        assert stage or not again or resumed_from, "the next run trained from the beginning"
        after_run.seen_in_mlflow(self.stack, run_id)
        self.clean(run_id)
        self.say(f"{name}: {again or state}, {num_points} points, none lost")
        return Fault(name, back_s, state, again, resumed_from, num_points)

    def until(self, run_id: str, stage: str) -> None:
        """Wait until a run works at a stage; without one until it has saved a checkpoint."""
        before = after_run.checkpoints(self.stack)
        give_up_at = time.monotonic() + 900
        while not (
            any(f"vivero.stages.{stage}" in line for line in self.stack.stages_at_work())
            if stage
            else after_run.checkpoints(self.stack) - before
        ):
            assert self.stack.state(run_id) not in ENDED, self.words(run_id)
            assert time.monotonic() < give_up_at, f"no {stage or 'checkpoint'} after 900 s"
            time.sleep(0.2)
        if stage:
            time.sleep(WITHIN_S)

    def ended_in_time(self, run_id: str) -> str:
        """The last state of a run; one whose process is gone may not stay RUNNING for long."""
        dead_since = None
        while (state := self.stack.state(run_id)) not in ENDED:
            if self.stack.flows_at_work():
                dead_since = None
            elif dead_since is None:
                dead_since = time.monotonic()
            elif time.monotonic() - dead_since > DEAD_RUN_S:
                raise AssertionError(f"{state} {DEAD_RUN_S:.0f} s after its process ended")
            time.sleep(1)
        return state

    def wait_for_no_flow(self) -> None:
        """What a run leaves behind ends by itself within seconds."""
        give_up_at = time.monotonic() + 90
        while self.stack.flows_at_work():
            assert time.monotonic() < give_up_at, "the process of a run that ended is still there"
            time.sleep(0.5)

    def clean(self, run_id: str) -> None:
        """Nothing doubled, nothing half, nothing left."""
        self.wait_for_no_flow()
        after_run.no_orphan(self.stack)
        after_run.no_stale_lock(self.stack, run_id)
        after_run.no_double_version(self.stack)
        after_run.whole_aliases(self.stack)

    def words(self, run_id: str) -> str:
        """The last that a run said, for a message."""
        return "\n".join(str(entry["message"]) for entry in self.stack.logs(run_id)[-12:])

    def stop(self) -> None:
        """End all, twice; nothing is left."""
        before = [psutil.Process(pid) for pid in self.processes()]
        self.stack.command("infra.services", "down")
        assert "none is running" in self.stack.command("infra.services", "down").stdout
        left = [process.pid for process in before if process.is_running()]
        assert not left, f"left: {left}"
        assert not marked(self.stack.settings.folder)


def prove(folder: Path, names: list[str], console: Console) -> str:
    """The whole proof; returns the sentence."""
    stack = Stack.made(folder)
    proof = Proof(stack, console)
    try:
        proof.start()
        proof.scheduled()
        proof.by_hand()
        faults = [proof.fault(name) for name in names]
    finally:
        proof.stop()
    if faults:
        console.print(table(faults))
    return sentence((time.monotonic() - proof.began_at) / 60, faults)


def sentence(minutes: float, faults: list[Fault]) -> str:
    """All that was seen, in one."""
    went_on = sum(fault.state == "COMPLETED" for fault in faults)
    killed = "nothing was killed"
    if faults:
        killed = (
            f"{', '.join(fault.name for fault in faults)} killed in the middle of a run each, "
            f"{went_on} of {len(faults)} runs went on by themselves"
        )
        if went_on < len(faults):
            killed += f" and the next run went on with the other {len(faults) - went_on}"
    return (
        f"PROVED in {minutes:.0f} min: a run by schedule registered the first champion, the same "
        f"run by hand changed nothing; {killed}; no version doubled, no alias torn, no metric "
        f"lost, no process left."
    )


def table(faults: list[Fault]) -> Table:
    """What happened to each."""
    made = Table("killed", "back after", "the run", "the next run", "went on from", "points")
    for fault in faults:
        resumed = ", ".join(map(str, fault.resumed_from)) or "-"
        row = (f"{fault.back_s:.0f} s", fault.state, fault.again or "-", resumed)
        made.add_row(fault.name, *row, str(fault.num_points))
    return made


def main() -> None:
    """Prove it in a temporary folder, which stays when something is wrong."""
    console = Console(width=130)
    chosen = os.environ.get("FAULTS", " ".join(FAULTS)).split()
    unknown = set(chosen) - set(FAULTS)
    if unknown:
        sys.exit(f"FAULTS names {', '.join(sorted(unknown))}; known are {', '.join(FAULTS)}")
    folder = Path(os.environ.get("PROOF_DIR") or tempfile.mkdtemp(prefix="vivero-services-"))
    try:
        said = prove(folder.resolve(), chosen, console)
    except BaseException:
        console.print(f"what was made and said stays in {folder}")
        raise
    shutil.rmtree(folder)
    console.print(said, soft_wrap=True)


if __name__ == "__main__":
    main()
