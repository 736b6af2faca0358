"""Images as a model makes them: by the settings that its bundle carries, unless told otherwise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from vivero.diffusion.generation import GenerationSpec, generate
from vivero.files import sha256_of_file
from vivero.registry.bundle import Bundle

IMAGES_NAME, LABELS_NAME = "images.npy", "labels.npy"  # of the stage sample


def own_spec(bundle: Bundle, batch_images: int, **changes: Any) -> GenerationSpec:
    """The bundle's own settings with seed 0, but for what changes name.

    Args:
        bundle: The model.
        batch_images: Images made at a time.
        changes: Any of seed, sampler, num_steps, guidance, guidance_interval, adaptive_threshold.
    """
    settings = {**bundle.sampling_defaults, "seed": 0, **changes}
    low, high = settings["guidance_interval"]
    return GenerationSpec(
        seed=int(settings["seed"]),
        sampler=settings["sampler"],
        num_steps=int(settings["num_steps"]),
        guidance=float(settings["guidance"]),
        guidance_interval=(low, high),
        batch_images=batch_images,
        adaptive_threshold=settings["adaptive_threshold"],
    )


def own_images(
    bundle: Bundle,
    num_images: int,
    spec: GenerationSpec | None = None,
    labels: Int64[Tensor, " N"] | None = None,
) -> UInt8[Tensor, "N C H W"]:
    """Generate images on the GPU where there is one, each from noise of its own.

    Args:
        bundle: The model.
        num_images: N.
        spec: How; None = by the bundle's own settings with seed 0, in one batch.
        labels: Class of each image; None = all classes in turn.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bundle.folded_network.to(device)
    if labels is None:
        labels = torch.arange(num_images) % max(1, len(bundle.class_names))
    spec = spec or own_spec(bundle, batch_images=num_images)
    indices = range(num_images)
    made = generate(
        bundle.denoiser, bundle.schedule, spec, labels.to(device), indices, bundle.image_shape
    )
    return torch.cat(list(made))


def is_record_of(bundle: Bundle, record: Mapping[str, Any], seed: int) -> bool:
    """Whether samples.json is of images that the model made with its own settings and a seed."""
    sampling = bundle.sampling_defaults
    return (
        record.get("weights_sha256") == bundle.weights_sha256
        and record.get("seed") == seed
        and {name: record.get(name) for name in sampling} == sampling
    )


def changed_files(record: Mapping[str, Any], sample_dir: Path) -> list[str]:
    """Names of the images and labels of stage `sample` that differ from what samples.json records.

    A record without hashes counts as different from every file.

    Raises:
        OSError: When a file cannot be read.
    """
    recorded = record.get("files")
    hashes = recorded if isinstance(recorded, dict) else {}
    names = (IMAGES_NAME, LABELS_NAME)
    return [name for name in names if sha256_of_file(sample_dir / name) != hashes.get(name)]
