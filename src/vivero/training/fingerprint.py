"""The name of a run's checkpoints: equal inputs resume, other inputs cannot.

Hashed are all settings of `train` but those that change no weight beyond its last bits, the
weights it starts from, the prepared images, the code that training runs, and the version of torch.
"""

from pathlib import Path

import torch

from vivero.config.schema import TrainConfig
from vivero.files import sha256_of_file, sha256_of_json

SETTINGS_WITHOUT_EFFECT = {
    "log_every_images",
    "validate_every_images",
    "checkpoint_every_images",
    "preview_every_images",
    "keep_checkpoints",
    "sampling",  # a bundle that samples otherwise needs no new training
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
CODE = ("data", "diffusion", "models", "training")


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
        "code": code_digest(Path(__file__).parents[1]),
        "torch": torch.__version__,
    }
    return sha256_of_json(inputs)[:16]


def code_digest(package_dir: Path) -> str:
    """Hex sha256 over the names and contents of the modules that training runs."""
    paths = [path for layer in CODE for path in (package_dir / layer).rglob("*.py")]
    hashes = {path.relative_to(package_dir).as_posix(): sha256_of_file(path) for path in paths}
    return sha256_of_json(hashes)
