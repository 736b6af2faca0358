"""Our contestant: the default of params.yaml, trained by the product's own loop for some time.

`python -m bench.our_model NAME SECONDS` leaves work/bench/ours/NAME with the bundle,
samples.safetensors and result.json. How many images fit into the time is found by a short trial
whose weights are thrown away; warm-up and averages keep the share of the run that they have in
params.yaml, so the X do for the usual model; what the run tells its tracker stays in memory.
"""

import contextlib
import logging
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.contest import CORES, NUM_SEARCH_IMAGES, Clock, contest_bank, denoising_rows, mean_loss
from bench.usual_model import NUM_CLASSES, ddpm_sigmas
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, project_dir, work_dir
from vivero.config.schema import Config, TrainConfig
from vivero.diffusion.generation import GenerationSpec, generate
from vivero.evaluation.torchvision_door import open_torchvision_door
from vivero.integrity.caches import load_tensors, read_record, save_tensors, write_record
from vivero.processes import run_program, speak_of_our_own
from vivero.registry.bundle import Bundle, load_bundle, write_bundle
from vivero.stages import trainer
from vivero.stages.sample import labels_in_turn
from vivero.tracking.tracker import MemoryTracker, RunIds
from vivero.training.checkpoints import CheckpointStore
from vivero.training.distributed import alone
from vivero.training.inputs import TrainInputs, read_inputs
from vivero.training.loop import Outlets, loss_by_halflife, train
from vivero.training.step import train_step

NUM_WARM_STEPS, NUM_TRIAL_STEPS = 5, 30
SHARE_AIMED_AT = 0.98  # of the time; a trial is not exact, and no one may take more than the rest
NUM_SAMPLES = 1000
SAMPLES = "samples.safetensors"

log = logging.getLogger(__name__)


class TrainingTime:
    """A phase hook of the loop that notes what was used from the first batch to the last average.

    Args:
        batch_images: Of one step.
        seconds: The budget.
    """

    def __init__(self, batch_images: int, seconds: float) -> None:
        self._batch_images, self._clock = batch_images, Clock(seconds)
        self._num_steps = 0
        self.used: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Watch one phase; "batch" is the first of a step, "average" the last."""
        if phase == "batch" and not self._num_steps:
            self._clock.begin()
        yield
        if phase == "average":
            self._num_steps += 1
            used = self._clock.used_for(self._num_steps * self._batch_images)
            self.used = {**used, "num_steps": self._num_steps}


def fitted_settings(config: TrainConfig, total_images: int) -> TrainConfig:
    """The settings of a run of another length; what is counted in images keeps its share of it."""
    batch_images = config.batch_images
    total_images = max(1, round(total_images / batch_images)) * batch_images
    share = total_images / config.total_images
    beats = ("validate", "preview", "checkpoint")
    halflives = [max(batch_images, round(share * h)) for h in config.ema_halflives_images]
    changes = {
        "total_images": total_images,
        "warmup_images": int(share * config.warmup_images),
        "ema_halflives_images": list(dict.fromkeys(halflives)),
        "num_processes": 1,
        "early_stopping_images": 0,
        **{f"{what}_every_images": total_images for what in beats},
    }
    return type(config).model_validate({**config.model_dump(), **changes})


def trial_images_per_s(inputs: TrainInputs) -> float:
    """Images that a second of all cores trains on."""
    state = trainer.new_state(inputs, alone())
    rig = trainer.new_rig(state, inputs, alone())
    for _ in range(NUM_WARM_STEPS):
        train_step(state, rig)
    clock = Clock(1.0)
    for _ in range(NUM_TRIAL_STEPS):
        train_step(state, rig)
    return clock.used_for(NUM_TRIAL_STEPS * inputs.config.train.batch_images)["images_per_s"]


def trained_bundle(inputs: TrainInputs, seconds: float, folder: Path) -> dict[str, float]:
    """Train, write the better average as folder/bundle, and say what was used."""
    speed = trial_images_per_s(inputs)
    settings = fitted_settings(inputs.config.train, int(SHARE_AIMED_AT * seconds * speed))
    inputs = replace(inputs, config=inputs.config.model_copy(update={"train": settings}))
    inputs = replace(inputs, run_key=f"bench-{inputs.run_key}-{folder.name}")
    state, workers = trainer.new_state(inputs, alone()), alone()
    spent = TrainingTime(settings.batch_images, seconds)
    rig = replace(trainer.new_rig(state, inputs, workers), phase=spent)
    bank, previews = trainer.new_bank(inputs, rig), trainer.new_previews(inputs, rig)
    try:
        outlets = Outlets(MemoryTracker(), CheckpointStore(inputs.run_dir, 1), bank, previews)
        train(state, rig, outlets)
    finally:
        shutil.rmtree(inputs.run_dir, ignore_errors=True)
    losses = loss_by_halflife(state, rig, bank)
    weights = state.average_state_dict(next(iter(losses)))
    trained = trainer.Trained(state, weights, losses, RunIds())
    write_bundle(folder / "bundle", trainer.bundle_contents(inputs, trained))
    return {**spent.used, "num_parameters": trainer.num_parameters_of(trained)}


def made_samples(bundle: Bundle, config: Config) -> np.ndarray:
    """Images as the stage `sample` makes them, in turn of all classes; uint8, (N, C, H, W)."""
    wanted = config.sample
    low, high = wanted.guidance_interval
    spec = GenerationSpec(
        seed=wanted.seed,
        sampler=wanted.sampler,
        num_steps=wanted.num_steps,
        guidance=wanted.guidance,
        guidance_interval=(low, high),
        batch_images=wanted.batch_images,
        adaptive_threshold=wanted.adaptive_threshold,
    )
    labels = labels_in_turn(NUM_SAMPLES, NUM_CLASSES)
    indices = range(len(labels))
    batches = generate(bundle.denoiser, bundle.schedule, spec, labels, indices, bundle.image_shape)
    return torch.cat(list(batches)).numpy()


def run_folder(root: Path, name: str) -> Path:
    """Where a run of ours leaves its bundle, samples and result."""
    return work_dir(root) / "bench" / "ours" / name


def result(root: Path, name: str) -> dict[str, Any] | None:
    """What a finished run of ours found; None when it is missing or damaged."""
    return read_record(run_folder(root, name) / "result.json", name)


def samples(root: Path, name: str) -> np.ndarray | None:
    """The samples of a finished run of ours, uint8, (N, C, H, W); None as in `result`."""
    tensors = load_tensors(run_folder(root, name) / SAMPLES, name)
    return None if tensors is None else tensors["images"].numpy()


def run_one(name: str, seconds: float, root: Path) -> None:
    """Train, judge and sample, unless this very code and these settings have done so already."""
    torch.set_num_threads(CORES)
    config, folder = load_config(root / PARAMS), run_folder(root, name)
    inputs = read_inputs(config, root)
    made_from = {"run_key": inputs.run_key, "seconds": seconds, **config.sample.model_dump()}
    former = result(root, name)
    if former and former["made_from"] == made_from and samples(root, name) is not None:
        return
    used = trained_bundle(inputs, seconds, folder)
    log.info("%s: %s", name, {key: round(value, 4) for key, value in used.items()})
    bundle, sigmas = load_bundle(folder / "bundle"), ddpm_sigmas()
    banks = {
        "validation": contest_bank(root, "validation", NUM_SEARCH_IMAGES, sigmas),
        "test": contest_bank(root, "test", None, sigmas),
    }
    rows = {kind: denoising_rows(bundle.denoiser, bank, config) for kind, bank in banks.items()}
    clock = Clock(seconds)
    images = made_samples(bundle, config)
    sampling = clock.used_for(len(images))
    save_tensors(folder / SAMPLES, name, {"images": torch.from_numpy(images)})
    report = {
        "made_from": made_from,
        "used": used,
        "num_parameters": used.pop("num_parameters"),
        "weights": "ema",
        **rows,
        "validation_loss": mean_loss(rows["validation"]),
        "test_loss": mean_loss(rows["test"]),
        "sampling": sampling,
    }
    write_record(folder / "result.json", name, report)


def main() -> None:
    """Run once: NAME SECONDS."""
    speak_of_our_own()
    open_torchvision_door()  # before diffusers, which names the noise levels
    run_one(sys.argv[1], float(sys.argv[2]), project_dir())


if __name__ == "__main__":
    run_program("bench.our_model", main)
