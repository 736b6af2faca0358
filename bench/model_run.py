"""One run of `make bench-models`: train for some seconds of one core, then judge, in one process.

Training is the product's own step on the product's own feed; only the clock differs: the learning
rate follows the share of the time that is used, so every variant goes down its whole cosine. The
result is written whole or not at all, under the hash of the settings and of the code that decides
the weights: finished runs are never repeated, and never taken for those of other code.
"""

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.colour import colour_images_dir
from bench.judging import judge_samples, open_real_images
from bench.variants import Run, train_config_of, variant_of
from vivero.code_digest import module_closure_digest
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, work_dir
from vivero.config.schema import Config, TrainConfig
from vivero.data.prepared import open_split, read_card
from vivero.diffusion.generation import GenerationSpec, generate
from vivero.diffusion.tree_denoiser import TreeDenoiser
from vivero.errors import DataError, SamplingError
from vivero.evaluation.denoising import held_out_bank, loss_by_noise_level
from vivero.evaluation.grids import save_grid
from vivero.files import sha256_of_json
from vivero.integrity.caches import load_tensors, read_record, save_tensors, write_record
from vivero.models.denoisers import AnyDenoiser
from vivero.stages import trainer
from vivero.stages.sample import labels_in_turn
from vivero.tracking.lineage import read_lineage
from vivero.training.distributed import alone
from vivero.training.fingerprint import MODULES_WITHOUT_EFFECT, TRAINER
from vivero.training.inputs import TrainInputs
from vivero.training.loop import loss_by_halflife
from vivero.training.state import TrainState
from vivero.training.step import Rig, train_step

RESULT, WEIGHTS, GRID = "result.json", "weights.safetensors", "samples.png"
NUM_WARM_STEPS, NUM_TRIAL_STEPS = 3, 8
SAMPLE_SEED, NUM_STEPS = 1, 18
FULL, HIERARCHICAL = "dpm_solver_pp_2m", "hierarchical"
JUDGED_BY = ("vivero.diffusion.generation", "vivero.evaluation.denoising")


@dataclass(frozen=True)
class Plan:
    """A run with all that decides its result.

    Attributes:
        run: What is asked for.
        config: All settings, with the variant's.
        data_root: The folder whose artifacts/prepare_data holds the images.
        folder: Where the result goes.
        made_from: What the folder's hash is of.
    """

    run: Run
    config: Config
    data_root: Path
    folder: Path
    made_from: dict[str, Any]

    @property
    def is_finished(self) -> bool:
        """Whether the result is there."""
        return self.result is not None

    @property
    def result(self) -> dict[str, Any] | None:
        """What the run found; None when it is missing or damaged."""
        return read_record(self.folder / RESULT, self.folder.name)


def plan_of(run: Run, root: Path) -> Plan:
    """A run as it would be made now, by this code and these settings.

    Raises:
        ValueError: When the variant does not fit the settings.
        DataError: When the images cannot be had.
    """
    config = load_config(root / PARAMS)
    train_config = train_config_of(run, config)
    data_root = data_root_of(run.dataset, root)
    images_dir = data_root / "artifacts" / "prepare_data" / "images"
    made_from = {
        "run": asdict(run),
        "train": decisive(train_config),
        "evaluate": config.evaluate.model_dump(),
        "code_sha256": code_sha256(),
        "images_sha256": read_card(images_dir).source_digest,
    }
    folder = work_dir(root) / "bench" / "models" / run.dataset / run.variant
    folder = folder / f"{run.seed}-{sha256_of_json(made_from)[:12]}"
    settings = config.model_copy(update={"train": train_config})
    return Plan(run, settings, data_root, folder, made_from)


def decisive(config: TrainConfig) -> dict[str, Any]:
    """The settings that weights and figures follow from."""
    without = {
        *("total_images", "warmup_images", "heartbeat_s", "max_restarts", "keep_checkpoints"),
        *("engine", "log_every_images", "validate_every_images", "checkpoint_every_images"),
        *("preview_every_images", "max_loss_jump"),
    }
    values = config.model_dump(exclude=without)
    if config.model.name != "tree":
        del values["loss"], values["model"]["tree"]
    return {
        **values,
        "warmup_share": config.warmup_images / config.total_images,
        "halflife_shares": [h / config.total_images for h in config.ema_halflives_images],
    }


def data_root_of(dataset: str, root: Path) -> Path:
    """The folder whose artifacts/prepare_data holds a data set's images."""
    if dataset == "fashion_mnist":
        return root
    return colour_images_dir(root).parents[2]


@cache
def code_sha256() -> str:
    """Hash of the code that decides weights, samples and held-out loss, without its prose."""
    return module_closure_digest([TRAINER, *JUDGED_BY], MODULES_WITHOUT_EFFECT)


class Clock:
    """Processor time of this process, of one core, against a budget in seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began_s, self._began_at = time.process_time(), time.perf_counter()

    @property
    def cpu_s(self) -> float:
        """Seconds used."""
        return time.process_time() - self._began_s

    @property
    def wall_s(self) -> float:
        """Seconds gone by."""
        return time.perf_counter() - self._began_at

    @property
    def share(self) -> float:
        """Share of the budget that is used."""
        return self.cpu_s / self.seconds


def paced(config: TrainConfig, images_seen: int, share: float) -> TrainConfig:
    """The settings with a learning rate that depends on the share of the time used, not on images.

    rate_at reads two lengths in images; at this pace the whole run has images_seen / share.
    """
    total_images = images_seen / share if share else 1.0
    warmup_share = config.warmup_images / config.total_images
    lengths = {
        "total_images": max(total_images, 1.0),
        "warmup_images": max(warmup_share * total_images, 1.0),
    }
    return config.model_copy(update=lengths)


def inputs_of(plan: Plan, root: Path, config: Config) -> TrainInputs:
    """What the trainer's own functions want to know."""
    card = read_card(plan.data_root / "artifacts" / "prepare_data" / "images")
    lineage = read_lineage(root, plan.run.seed)
    return TrainInputs(config, plan.data_root, card, lineage, run_key=plan.folder.name)


def trained(plan: Plan, root: Path) -> tuple[TrainState, Rig, dict[str, Any]]:
    """Train for the time; the state, its rig, and what was used."""
    config, workers, seconds = plan.config, alone(), plan.run.seconds
    inputs = inputs_of(plan, root, config)
    total_images = max(1.0, trial_images_per_s(inputs) * seconds)
    inputs = replace(inputs, config=with_averages(config, total_images))
    state = trainer.new_state(inputs, workers)
    rig = trainer.new_rig(state, inputs, workers)
    clock = Clock(seconds)
    while (share := clock.share) < 1:
        now = paced(rig.config, state.images_seen, share)
        train_step(state, replace(rig, config=now))
    used = {
        "cpu_s": clock.cpu_s,
        "wall_s": clock.wall_s,
        "images_seen": state.images_seen,
        "num_steps": state.images_seen // rig.config.batch_images,
        "images_per_s": state.images_seen / clock.cpu_s,
        "num_parameters": sum(weight.numel() for weight in state.model.parameters()),
    }
    losses = loss_by_halflife(state, rig, trainer.new_bank(inputs, rig))
    halflife, used["validation_loss"] = next(iter(losses.items()))
    used["ema_halflife_images"] = halflife
    weights = state.average_state_dict(halflife)
    state.model.load_state_dict(weights)
    return state, rig, used


def trial_images_per_s(inputs: TrainInputs) -> float:
    """Images a second of one core, by a few steps that are thrown away."""
    state = trainer.new_state(inputs, alone())
    rig = trainer.new_rig(state, inputs, alone())
    for _ in range(NUM_WARM_STEPS):
        train_step(state, rig)
    clock = Clock(1.0)
    for _ in range(NUM_TRIAL_STEPS):
        train_step(state, rig)
    return NUM_TRIAL_STEPS * inputs.config.train.batch_images / clock.cpu_s


def with_averages(config: Config, total_images: float) -> Config:
    """The settings with half-lives that are the same share of this run as of the usual one."""
    train = config.train
    share = total_images / train.total_images
    halflives = [max(train.batch_images, round(share * h)) for h in train.ema_halflives_images]
    changes = {"ema_halflives_images": list(dict.fromkeys(halflives))}
    return config.model_copy(update={"train": train.model_copy(update=changes)})


def borrowed(plan: Plan, root: Path, source: Plan) -> tuple[TrainState, Rig, dict[str, Any]]:
    """The model of another run, as if this one had trained it."""
    inputs, workers = inputs_of(plan, root, plan.config), alone()
    state = trainer.new_state(inputs, workers)
    weights = load_tensors(source.folder / WEIGHTS, source.folder.name)
    result = read_record(source.folder / RESULT, source.folder.name)
    if weights is None or result is None:
        raise DataError(
            f"the run in {source.folder} is damaged; delete that folder and run "
            f"`make bench-models` again"
        )
    state.model.load_state_dict(weights)
    return state, trainer.new_rig(state, inputs, workers), result["used"]


def finish(plan: Plan, root: Path) -> None:
    """Make the result of a run."""
    torch.set_num_threads(1)
    began_at = time.time()
    source = plan.run.weights_from
    if source is None:
        state, rig, used = trained(plan, root)
    else:
        state, rig, used = borrowed(plan, root, plan_of(source, root))
    denoise = rig.objective.denoiser(state.model.eval())
    if source is not None and isinstance(denoise, TreeDenoiser):
        denoise = replace(denoise, is_naive=True)
    figures = figures_of(plan, root, denoise, rig)
    if source is None:
        save_tensors(plan.folder / WEIGHTS, plan.folder.name, state.model.state_dict())
    result = {
        "made_from": plan.made_from,
        "what": variant_of(plan.run.variant).what,
        "used": used,
        **figures,
        "began_at": began_at,
        "finished_at": time.time(),
        "torch": torch.__version__,
    }
    # last: a run with a result is finished
    write_record(plan.folder / RESULT, plan.folder.name, result)


@torch.inference_mode()
def figures_of(plan: Plan, root: Path, denoise: AnyDenoiser, rig: Rig) -> dict[str, Any]:
    """Held-out denoising loss, samples and what the judges say; has_diverged when it has."""
    images_dir = plan.data_root / "artifacts" / "prepare_data" / "images"
    test, card = open_split(images_dir, "test"), read_card(images_dir)
    bank = held_out_bank(test, plan.config.evaluate, len(card.class_names))
    rows = [level.as_row() for level in loss_by_noise_level(denoise, rig.objective.weight, bank)]
    if not all(math.isfinite(row["value"]) for row in rows):
        return {"has_diverged": True, "denoising": [], "samplings": []}
    try:
        samplings = list(samplings_of(plan, root, denoise, rig))
    except SamplingError as error:
        return {"has_diverged": True, "denoising": rows, "samplings": [], "said": str(error)}
    return {"has_diverged": False, "denoising": rows, "samplings": samplings}


def samplings_of(
    plan: Plan, root: Path, denoise: AnyDenoiser, rig: Rig
) -> Iterator[dict[str, Any]]:
    """The model's own sampler without and with guidance; a tree also at full resolution."""
    is_tree = isinstance(denoise, TreeDenoiser) and denoise.scheduler.threshold is not None
    guidance = plan.config.sampling.guidance
    own = HIERARCHICAL if is_tree else FULL
    asked = [(own, 1.0), (own, guidance)] + ([(FULL, 1.0)] if is_tree else [])
    images_dir = plan.data_root / "artifacts" / "prepare_data" / "images"
    data = open_real_images(images_dir, work_dir(root) / "bench" / "judges")
    labels = labels_in_turn(plan.run.num_samples, data.num_classes)
    low, high = plan.config.sampling.guidance_interval
    for place, (sampler, scale) in enumerate(asked):
        spec = GenerationSpec(
            seed=SAMPLE_SEED,
            sampler=sampler,  # type: ignore[arg-type]
            num_steps=NUM_STEPS,
            guidance=scale,
            guidance_interval=(low, high),
            batch_images=plan.config.sample.batch_images,
        )
        samples, ms_per_image = made_samples(denoise, rig, spec, labels, data.test.images.shape[1:])
        if place == 1:
            rows = [i for k in range(data.num_classes) for i in range(k, 80, data.num_classes)]
            save_grid(samples[rows or slice(80)], plan.folder / GRID, num_columns=8)
        yield {
            "sampler": sampler,
            "is_own": sampler == own,
            "guidance": scale,
            "num_steps": NUM_STEPS,
            "ms_per_image": ms_per_image,
            **judge_samples(samples, data, labels.numpy()),
        }


def made_samples(
    denoise: AnyDenoiser, rig: Rig, spec: GenerationSpec, labels: Tensor, shape: tuple[int, ...]
) -> tuple[np.ndarray, float]:
    """Images by the product's own sampling, and the milliseconds that one takes.

    The time is the median over batches of processor time; a first batch is made to warm up.

    Returns:
        uint8, (N, C, H, W); milliseconds of one core.
    """
    channels, height, width = shape
    schedule, size = rig.objective.schedule, (channels, height, width)
    first = labels[: spec.batch_images]
    for _ in generate(denoise, schedule, spec, first, range(len(first)), size):
        pass
    parts, ms = [], []
    clock = Clock(1.0)
    for images in generate(denoise, schedule, spec, labels, range(len(labels)), size):
        ms.append(1000 * clock.cpu_s / len(images))
        parts.append(images)
        clock = Clock(1.0)
    return torch.cat(parts).numpy(), statistics.median(ms)
