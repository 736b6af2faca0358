"""The record of a run: its tracker while it runs, its journal, curves and previews afterwards."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from vivero.errors import TrackingError
from vivero.files import write_whole
from vivero.tracking.journal import read_journal
from vivero.tracking.mlflow_tracker import open_tracker
from vivero.tracking.tracker import DatasetInput, MemoryTracker, RunSpec, Tracker
from vivero.training.curves import metric_rows, write_curve
from vivero.training.distributed import Workers
from vivero.training.inputs import TrainInputs
from vivero.training.signals import Stopped

JOURNAL = "journal.jsonl"


@contextlib.contextmanager
def tracked(inputs: TrainInputs, workers: Workers) -> Iterator[Tracker]:
    """The run's tracker (of the first worker), closed with how the run ended."""
    tracker: Tracker = (
        open_tracker(inputs.root, run_spec(inputs), gpu_uuids(workers))
        if workers.is_first
        else MemoryTracker()
    )
    try:
        yield tracker
    except BaseException as error:
        with contextlib.suppress(TrackingError):  # on a full disk; the first error says more
            tracker.close("KILLED" if isinstance(error, Stopped) else "FAILED")
        raise
    tracker.close("FINISHED")


def gpu_uuids(workers: Workers) -> list[str]:
    """Names of the graphics cards that the workers of this machine use; none on processors."""
    if workers.device.type != "cuda":
        return []
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [f"GPU-{card.uuid}" for card in cards]


def run_spec(inputs: TrainInputs) -> RunSpec:
    """What MLflow and the journal say about this run."""
    card, config = inputs.card, inputs.config
    return RunSpec(
        experiment=config.registration.experiment,
        run_key=inputs.run_key,
        run_name=f"train-{inputs.run_key[:8]}",
        journal_path=inputs.run_dir / JOURNAL,
        params={name: str(value) for name, value in flat(config.train.model_dump()).items()},
        tags=inputs.lineage.as_tags(),
        dataset=DatasetInput(
            name=card.name,
            digest=inputs.lineage.data_digest or card.source_digest,
            source="data/, prepared by the stage prepare_data",
        ),
        model_name=config.registration.model_name,
    )


def flat(block: Mapping[str, Any], prefix: str = "train.") -> dict[str, Any]:
    """Nested settings under dotted names."""
    values: dict[str, Any] = {}
    for name, value in block.items():
        nested = isinstance(value, Mapping)
        values |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return values


def write_record(run_dir: Path, out_dir: Path) -> dict[str, float]:
    """Write journal, previews and curves as outputs.

    Returns:
        The last loss of each curve, "loss" and "validation".
    """
    copy_record(run_dir, out_dir)
    entries = list(read_journal(run_dir / JOURNAL))
    last = {}
    for name, prefix in (("loss", "train/"), ("validation", "validation/")):
        rows = metric_rows(entries, prefix)
        write_curve(out_dir / "curves" / f"{name}.csv", rows)
        last[name] = rows[-1]["loss"]
    return last


def copy_record(run_dir: Path, out_dir: Path) -> None:
    """Journal and previews as outputs; what lay there before is replaced."""
    with write_whole(out_dir / JOURNAL) as part_path:
        shutil.copyfile(run_dir / JOURNAL, part_path)
    shutil.rmtree(out_dir / "previews", ignore_errors=True)
    (run_dir / "previews").mkdir(exist_ok=True)  # a run whose weights never made an image has none
    shutil.copytree(run_dir / "previews", out_dir / "previews")
