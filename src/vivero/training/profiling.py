"""Where the time of training goes: shares of its phases, a trace, a table of operators.

The phases are timed in the loop itself, with nothing attached; torch.profiler then records a few
further steps for the trace and the table, which slows them, so they are not timed.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from vivero.config.schema import TrainConfig
from vivero.files import write_json, write_text, write_whole
from vivero.training.background import BackgroundWriter
from vivero.training.loop import Outlets, look, save
from vivero.training.progress import Progress
from vivero.training.state import TrainState
from vivero.training.step import Rig, train_step

NUM_WARM_STEPS, NUM_TIMED_STEPS, NUM_TRACED_STEPS = 5, 40, 3
OF_THE_MODEL = ("forward", "backward", "optimiser")
OF_A_STEP = ("batch", *OF_THE_MODEL, "average", "between")
NUM_ROWS = 40


@dataclass
class Stopwatch:
    """Times named phases, waiting for the device at their ends.

    Attributes:
        device: Where the phases run.
        seconds: Of each phase, one number for each time it was entered.
    """

    device: torch.device
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time what is done within."""
        self._wait()
        began_at = time.perf_counter()
        with record_function(phase):
            yield
            self._wait()
        self.seconds[phase].append(time.perf_counter() - began_at)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class PhaseShare:
    """How much of the wall-clock a phase takes.

    Attributes:
        phase: Its name.
        ms_per_time: Median milliseconds each time.
        times_per_step: How often it happens in a step, by the settings.
        share: Of the time of a step.
    """

    phase: str
    ms_per_time: float
    times_per_step: float
    share: float


def phase_shares(seconds: dict[str, list[float]], config: TrainConfig) -> list[PhaseShare]:
    """The share of each phase, each weighted by how often the settings let it happen.

    Args:
        seconds: Of each phase, each time.
        config: Says how often.
    """
    ms_per_step = {
        phase: (1000 * _median(times), _times_per_step(phase, config))
        for phase, times in seconds.items()
    }
    total = sum(ms * times for ms, times in ms_per_step.values())
    return [
        PhaseShare(phase, ms, times, ms * times / total)
        for phase, (ms, times) in sorted(
            ms_per_step.items(), key=lambda item: -item[1][0] * item[1][1]
        )
    ]


def share_of_the_rest(shares: list[PhaseShare]) -> float:
    """What everything but forward, backward and optimiser takes, as a share."""
    return sum(item.share for item in shares if item.phase not in OF_THE_MODEL)


def _times_per_step(phase: str, config: TrainConfig) -> float:
    if phase in ("forward", "backward"):
        return config.num_micro_batches
    if phase in OF_A_STEP:
        return 1.0
    every_images = {
        "report": config.log_every_images,
        "validate": config.validate_every_images,
        "preview": config.preview_every_images,
        "checkpoint": config.checkpoint_every_images,
    }[phase]
    return config.batch_images / every_images


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def profile_training(
    state: TrainState, rig: Rig, outlets: Outlets, out_dir: Path
) -> list[PhaseShare]:
    """Train some steps, time their phases, trace a few, and write what was found.

    Writes out_dir/phases.json, operators.txt and trace.json (chrome://tracing, perfetto.dev).

    Args:
        state: Fresh; it is trained on and thrown away.
        rig: What it is trained with.
        outlets: Where reports, previews and a checkpoint go; nothing a run resumes from.
        out_dir: Made when missing.
    """
    watch, began_at = Stopwatch(rig.workers.device), time.perf_counter()
    timed = replace(rig, phase=watch)
    with Progress(0, _num_images(rig), rig.workers.is_first) as progress:
        for step in range(NUM_WARM_STEPS + NUM_TIMED_STEPS):
            if step == NUM_WARM_STEPS:
                watch.seconds.clear()
                began_at = time.perf_counter()
            train_step(state, timed)
            progress.advance(rig.config.batch_images)
        wall_s = time.perf_counter() - began_at
        in_phases_s = sum(sum(times) for times in watch.seconds.values())
        watch.seconds["between"] = [(wall_s - in_phases_s) / NUM_TIMED_STEPS]
        for _ in range(2):  # the first time of each is not like the others
            for phase in ("report", "validate", "preview", "checkpoint"):
                watch.seconds.pop(phase, None)
            _everything_once(state, timed, outlets, progress)
        _trace(state, rig, out_dir, progress)
    shares = phase_shares(watch.seconds, rig.config)
    write_json(out_dir / "phases.json", [asdict(share) for share in shares])
    return shares


def _num_images(rig: Rig) -> int:
    num_steps = NUM_WARM_STEPS + NUM_TIMED_STEPS + NUM_TRACED_STEPS + 2
    return num_steps * rig.config.batch_images


def _everything_once(state: TrainState, rig: Rig, outlets: Outlets, progress: Progress) -> None:
    """Report, validate, preview and save, as at the end of a run."""
    train_step(state, rig)
    progress.advance(rig.config.batch_images)
    ended = replace(rig, config=rig.config.model_copy(update={"total_images": state.images_seen}))
    look(state, ended, outlets, progress)
    with BackgroundWriter(outlets.store, outlets.tracker.sync) as writer:
        save(state, rig, writer, is_stopping=False)


def _trace(state: TrainState, rig: Rig, out_dir: Path, progress: Progress) -> None:
    activities = [ProfilerActivity.CPU]
    if rig.workers.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, record_shapes=True) as recorded:
        for _ in range(NUM_TRACED_STEPS):
            train_step(state, rig)
            progress.advance(rig.config.batch_images)
    out_dir.mkdir(parents=True, exist_ok=True)
    with write_whole(out_dir / "trace.json") as part_path:
        recorded.export_chrome_trace(str(part_path))
    averages = recorded.key_averages()
    sort_by = f"self_{rig.workers.device.type}_time_total"
    write_text(out_dir / "operators.txt", averages.table(sort_by=sort_by, row_limit=NUM_ROWS))
