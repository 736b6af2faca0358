"""The name of a run's checkpoints: equal inputs resume, other inputs cannot.

The hash covers all settings of `train` except those that change no weight beyond its last bits, the
weights that training starts from, the prepared images, the code that the trainer runs, and the
versions of the packages that compute the weights.
"""

from importlib.metadata import version
from pathlib import Path

import torch

from vivero.code_digest import PACKAGE_DIR, module_closure_digest
from vivero.config.schema import TrainConfig
from vivero.files import sha256_of_json

SETTINGS_WITHOUT_EFFECT = {
    "log_every_images",
    "validate_every_images",
    "checkpoint_every_images",
    "preview_every_images",
    "keep_checkpoints",
    # How it is computed changes roundings, which a resumed run says ("not bit-exact").
    "num_micro_batches",
    "gradient_checkpointing",
    "compile",
    "engine",
    "num_processes",
    "sharding",
    "heartbeat_s",
    "max_loss_jump",
    "max_restarts",
    "initial_model",  # its weights count, whatever they are called
}
TRAINER = "vivero.stages.trainer"
# What the trainer imports and what cannot change a weight, each with the reason. Everything else
# that it imports is hashed.
MODULES_WITHOUT_EFFECT = {
    "vivero.config.environment": "addresses and folders; a checkpoint records the threads itself",
    "vivero.config.variables": "names of environment variables for other programs",
    "vivero.diffusion.generation": "makes the images of previews",
    "vivero.diffusion.guidance": "makes the images of previews",
    "vivero.errors": "classes of errors, which end a run",
    "vivero.evaluation.drawn_text": "draws the text of previews",
    "vivero.evaluation.grids": "draws previews",
    "vivero.evaluation.inception": "an extractor for metrics; no loss uses it",
    "vivero.integrity": "verifies files and changes none that training reads",
    "vivero.plain_text": "shortens and escapes the text of previews and messages",
    "vivero.processes": "starts, watches and ends processes",
    "vivero.registry.card": "writes the model card",
    "vivero.registry.diffusers_layout": "writes the bundle's files for diffusers",
    "vivero.registry.keys": "verifies train.initial_model, whose weights are hashed",
    "vivero.registry.signatures": "verifies train.initial_model, whose weights are hashed",
    "vivero.registry.versions": "finds train.initial_model, whose weights are hashed",
    "vivero.tracking": "records the run and gives it no number",
    "vivero.training.curves": "writes the curves of a finished run",
    "vivero.training.previews": "draws images from the averages and changes none",
    "vivero.training.profiling": "trains only for `vivero train --profile`, which keeps nothing",
    "vivero.training.progress": "shows the progress bar",
    "vivero.training.record": "copies the journal and the previews",
    "vivero.training.signals": "stops a run between two steps",
    "vivero.training.supervision": "restarts a frozen trainer, which resumes from a checkpoint",
}
PACKAGES = ("numpy", "timm")  # beside torch: they compute batches and the perceptual loss


def fingerprint(
    config: TrainConfig, data_digest: str, initial_weights_sha256: str | None = None
) -> str:
    """Sixteen hex digits that differ when anything differs that decides the weights.

    Args:
        config: Settings of the run.
        data_digest: Hash of the prepared images.
        initial_weights_sha256: Of the model that training starts from, if any.
    """
    without_effect = SETTINGS_WITHOUT_EFFECT
    if config.early_stopping_images:  # then it matters when validation looks
        without_effect = without_effect - {"validate_every_images"}
    inputs = {
        "settings": config.model_dump(mode="json", exclude=without_effect),
        "data": data_digest,
        "initial_weights": initial_weights_sha256,
        "code": code_digest(PACKAGE_DIR),
        "packages": {"torch": torch.__version__} | {name: version(name) for name in PACKAGES},
    }
    return sha256_of_json(inputs)[:16]


def code_digest(package_dir: Path) -> str:
    """Hex sha256 of the code of vivero in package_dir that decides the weights."""
    return module_closure_digest([TRAINER], MODULES_WITHOUT_EFFECT, package_dir)
