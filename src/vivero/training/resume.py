"""Where a run goes on: the newest whole checkpoint, and whether it can be exact to the bit."""

import logging
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vivero.config.schema import TrainConfig
from vivero.errors import CheckpointError
from vivero.training.checkpoints import (
    Checkpoint,
    CheckpointStore,
    DamagedError,
    read_checkpoint,
)
from vivero.training.distributed import Workers
from vivero.training.state import Best, TrainState, restore_tensors

HOW = ("num_micro_batches", "gradient_checkpointing", "compile", "sharding")
SUMS = ("loss", "gradient_norm", "usual_loss")  # each process has its own
CPU_INFO = Path("/proc/cpuinfo")

log = logging.getLogger(__name__)


def surroundings(workers: Workers, config: TrainConfig) -> dict[str, str]:
    """What decides the last bits of a sum: threads, processes, processor, torch, how it is cut."""
    settings = {name.replace("_", " "): str(getattr(config, name)) for name in HOW}
    is_cpu = workers.device.type == "cpu"
    return {
        "threads": str(torch.get_num_threads()),
        "processes": str(workers.num_processes),
        **settings,
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "device": _cpu_name() if is_cpu else torch.cuda.get_device_name(workers.device),
        "torch": torch.__version__,
    }


def _cpu_name() -> str:
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def facts_of(state: TrainState, workers: Workers, config: TrainConfig) -> dict[str, Any]:
    """What state.json of a checkpoint says."""
    return {
        "images_seen": state.images_seen,
        "train_s": state.train_s,
        "resumed_from": state.resumed_from,
        "tally": {
            "num_steps": state.tally.num_steps,
            **{name: workers.each(getattr(state.tally, name)) for name in SUMS},
            "terms": {name: workers.each(total) for name, total in state.tally.terms.items()},
        },
        "validation_loss": state.validation_loss,
        "best": None if math.isinf(state.best.loss) else asdict(state.best),
        "has_stopped_early": state.has_stopped_early,
        "scaler": state.scaler.state_dict(),
        "surroundings": surroundings(workers, config),
        "other_surroundings": state.other_surroundings,
    }


def resume(
    state: TrainState, store: CheckpointStore, workers: Workers, config: TrainConfig
) -> bool:
    """Bring a new state to the newest whole checkpoint, if there is one; say where it starts.

    Returns:
        Whether there was one.

    Raises:
        CheckpointError: When the checkpoint is of another model.
    """
    checkpoint = checkpoint_of_all(store, workers)
    if checkpoint is None:
        return False
    restore(state, checkpoint, workers)
    note_differences(state, checkpoint.facts["surroundings"], surroundings(workers, config))
    if state.is_complete(config.total_images):
        log.info(
            "training is complete in %s; no step is repeated, outputs are written from it",
            checkpoint.path,
        )
        return True
    state.resumed_from.append(state.images_seen)
    log.info("training resumes from checkpoint %s", checkpoint.path)
    return True


def checkpoint_of_all(store: CheckpointStore, workers: Workers) -> Checkpoint | None:
    """The newest whole checkpoint that the first process sees; all others go on from that one.

    Raises:
        CheckpointError: When another process cannot read it.
    """
    newest = store.newest() if workers.is_first else None
    name = workers.word_of_the_first(newest.path.name if newest else "none")
    if workers.is_first or name == "none":
        return newest
    try:
        return read_checkpoint(store.folder / name)
    except DamagedError as error:
        raise CheckpointError(
            f"process {workers.rank} cannot read the checkpoint {name} that the first one resumes "
            f"from: {error}. All processes need the same folder; run the same command again"
        ) from error


def restore(state: TrainState, checkpoint: Checkpoint, workers: Workers) -> None:
    """Bring a state to the moment of a checkpoint.

    Raises:
        CheckpointError: When it is of another model, or of another version of vivero.
    """
    restore_tensors(state, checkpoint.tensors)
    try:
        _restore_facts(state, checkpoint.facts, workers)
    except (KeyError, TypeError, ValueError) as error:
        path = checkpoint.path
        raise CheckpointError(
            f"{path / 'state.json'} does not say what was expected ({error!r}); it was written by "
            f"another version. Delete {path.parent} and run the same command again"
        ) from error


def _restore_facts(state: TrainState, facts: Mapping[str, Any], workers: Workers) -> None:
    state.images_seen = int(facts["images_seen"])
    state.train_s = float(facts["train_s"])
    state.resumed_from = [int(seen) for seen in facts["resumed_from"]]
    state.tally.num_steps = int(facts["tally"]["num_steps"])
    sums = {name: getattr(state.tally, name) for name in SUMS}
    for name, total in sums.items():
        total.fill_(_own_of(facts["tally"][name], workers))
    for name, total in state.tally.terms.items():
        total.fill_(_own_of(facts["tally"]["terms"][name], workers))
    state.validation_loss = facts["validation_loss"]
    state.best = Best(**facts["best"]) if facts["best"] else Best()
    state.has_stopped_early = bool(facts["has_stopped_early"])
    if state.scaler.is_enabled():
        state.scaler.load_state_dict(facts["scaler"])
    state.other_surroundings = [str(line) for line in facts["other_surroundings"]]
    if not isinstance(facts["surroundings"], dict):
        raise TypeError("surroundings")


def _own_of(values: Sequence[float], workers: Workers) -> float:
    """This process's share of what all wrote; the mean where there are as many no more."""
    is_same_number = len(values) == workers.num_processes
    return values[workers.rank] if is_same_number else sum(values) / len(values)


def note_differences(
    state: TrainState, saved: Mapping[str, str], current: Mapping[str, str]
) -> None:
    """Say, and keep in the state for good, what keeps this run from being exact to the bit."""
    differences = [
        f"{name} {saved.get(name)} -> {value}"
        for name, value in current.items()
        if saved.get(name) != value
    ]
    if torch.cuda.is_available():  # no kernel of cuDNN promises the same sum twice
        differences.append("kernels of a GPU")
    if differences:
        said = ", ".join(differences)
        state.other_surroundings.append(f"from {state.images_seen:,} images on: {said}")
        log.warning(
            "not bit-exact: the checkpoint was made in other surroundings (%s); the model will be "
            "as good, but not the same to the last bit",
            said,
        )
