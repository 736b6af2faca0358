"""Stage `sample`: a bundle in; images of all classes in turn, their record and a grid out.

Also `sample_to_folder`, behind `vivero sample`: images as PNG files, each with its own record.
"""

import io
import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, served_bundle_dir
from vivero.config.schema import Config, SamplerName
from vivero.diffusion.generation import GenerationSpec, generate, image_seed
from vivero.errors import ConfigError, ViveroError
from vivero.evaluation.grids import save_grid, save_image
from vivero.evaluation.protocol import sampling_code_digest
from vivero.files import sha256_of_file, write_json, write_whole
from vivero.integrity.entry import verified
from vivero.plain_text import one_line
from vivero.processes import run_stage
from vivero.registry.bundle import Bundle, load_bundle, write_served_bundle
from vivero.registry.own_images import IMAGES_NAME, LABELS_NAME, own_spec

BATCH_IMAGES = 100  # of `vivero sample`; so many images at most are lost by Ctrl-C
IMAGES_PER_CLASS = 10  # of the grid
MAX_GRID_CLASSES = 20
SAY_EVERY_S = 15.0
SAMPLES_NAME = "samples.json"
OUR_FILE = re.compile(r"\d{5,}-\d+\.png")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleRequest:
    """What `vivero sample` is asked for; None takes the bundle's own default.

    Args:
        num_images: At least 1.
        seed: With an image's index it fixes the image; at least 0.
        label: Class index of all images; None = all classes in turn.
        sampler: Name in diffusion.samplers.SAMPLERS.
        num_steps: Noise levels visited; at least 1.
        guidance: 1 = none.
        adaptive_threshold: Of the hierarchical sampler.
    """

    num_images: int
    seed: int = 0
    label: int | None = None
    sampler: str | None = None
    num_steps: int | None = None
    guidance: float | None = None
    adaptive_threshold: float | None = None


def run(config: Config, root: Path) -> None:
    """Give the model of artifacts/train its settings of sampling, and make images with it.

    Writes bundle/ (the model as it is served), images.npy (uint8, (N, C, H, W)), labels.npy
    (int64), samples.json, grid.png and summary.json to artifacts/sample.
    """
    started_at = time.monotonic()
    wanted, out_dir = config.sample, artifacts_dir(root, "sample")
    trained_dir = artifacts_dir(root, "train") / "bundle"
    bundle = write_served_bundle(trained_dir, served_bundle_dir(root), config.sampling)
    spec = own_spec(bundle, wanted.batch_images, seed=wanted.seed)
    labels = labels_in_turn(wanted.num_images, len(bundle.class_names))
    images = make_images(bundle, spec, labels)

    write_samples(out_dir, images, labels.numpy(), _record(bundle, spec, labels.tolist()))
    rows = grid_rows(labels.tolist())
    save_grid(images[rows], out_dir / "grid.png", num_columns=IMAGES_PER_CLASS)
    seconds = time.monotonic() - started_at
    steps = f"{spec.num_steps} steps of {spec.sampler}, guidance {spec.guidance:g}"
    summary = {
        "stage": "sample",
        "seconds": round(seconds, 2),
        "made": f"{len(images)} images ({steps})",
        "num_images": len(images),
        "images_per_s": round(len(images) / seconds, 1),
        "weights_sha256": bundle.weights_sha256,
    }
    write_json(out_dir / "summary.json", summary)
    log.info("made %s in %.0f s", summary["made"], seconds)


def write_samples(
    out_dir: Path, images: np.ndarray, labels: np.ndarray, record: dict[str, Any]
) -> None:
    """Write images.npy, labels.npy, and last samples.json with the hashes of both and of our code.

    Args:
        out_dir: Folder to write to.
        images: uint8, (N, C, H, W).
        labels: int64, (N,).
        record: What else samples.json holds.
    """
    (out_dir / SAMPLES_NAME).unlink(missing_ok=True)
    _write_array(out_dir / IMAGES_NAME, images)
    _write_array(out_dir / LABELS_NAME, labels)
    files = {name: sha256_of_file(out_dir / name) for name in (IMAGES_NAME, LABELS_NAME)}
    made_by = {"files": files, "code_sha256": sampling_code_digest()}
    write_json(out_dir / SAMPLES_NAME, {**made_by, **record})


def make_images(bundle: Bundle, spec: GenerationSpec, labels: Tensor) -> np.ndarray:
    """Images of these labels, uint8, (N, C, H, W), with a progress bar."""
    return torch.cat(list(_made(bundle, spec, labels))).numpy()


def sample_to_folder(model: Bundle | Path, request: SampleRequest, out_dir: Path) -> list[Path]:
    """Make images and write them as PNG, each with the record of what made it.

    Writes out_dir/00000-<class index>.png and so on, then out_dir/samples.json; for images without
    labels the class index is 0. A PNG is written whole or not at all, and samples.json comes last:
    where it is missing, the images are not all there.

    Args:
        model: A bundle, or its folder.
        request: What to make.
        out_dir: Folder to write to; made when missing.

    Returns:
        The images' paths, in order.

    Raises:
        ConfigError: When the request asks for what the model or vivero does not have.
        ViveroError: When out_dir holds samples that this request would not overwrite.
        BundleError: When the bundle is damaged.
    """
    bundle = load_bundle(model) if isinstance(model, Path) else model
    spec, labels = _spec(bundle, request), _labels(bundle, request)
    names = [f"{index:05d}-{label}.png" for index, label in enumerate(labels.tolist())]
    _make_room(out_dir, names)
    record = _record(bundle, spec, labels.tolist())
    shared = {name: value for name, value in record.items() if name != "images"}
    paths = [out_dir / name for name in names]
    index = 0
    for images in _made(bundle, spec, labels):
        for image in images.numpy():
            save_image(paths[index], image, {**shared, **record["images"][index]})
            index += 1
    for entry, name in zip(record["images"], names, strict=True):
        entry["file"] = name
    write_json(out_dir / SAMPLES_NAME, record)
    return paths


def labels_in_turn(num_images: int, num_classes: int) -> Tensor:
    """Labels 0, 1, ... and again from 0, shape (num_images,), int64; all 0 without classes."""
    return torch.arange(num_images) % max(1, num_classes)


def grid_rows(labels: Sequence[int]) -> list[int]:
    """Indices of the images for a grid with one class a row, IMAGES_PER_CLASS in each.

    Images without classes, or too few for whole rows, keep their order.
    """
    classes = sorted(set(labels))[:MAX_GRID_CLASSES]
    of_class = [[i for i, label in enumerate(labels) if label == one] for one in classes]
    if len(classes) == 1 or min(map(len, of_class)) < IMAGES_PER_CLASS:
        return list(range(min(len(labels), IMAGES_PER_CLASS**2)))
    return [index for row in of_class for index in row[:IMAGES_PER_CLASS]]


def _spec(bundle: Bundle, request: SampleRequest) -> GenerationSpec:
    defaults = bundle.sampling_defaults
    asked = {
        name: value
        for name in ("sampler", "num_steps", "guidance", "adaptive_threshold")
        if (value := getattr(request, name)) is not None
    }
    settings = {**defaults, **asked}
    if settings["sampler"] not in get_args(SamplerName):
        known = ", ".join(get_args(SamplerName))
        raise ConfigError(f"there is no sampler '{settings['sampler']}'; choose one of: {known}")
    low, high = settings["guidance_interval"]
    return GenerationSpec(
        seed=request.seed,
        sampler=cast(SamplerName, settings["sampler"]),
        num_steps=settings["num_steps"],
        guidance=settings["guidance"],
        guidance_interval=(low, high),
        batch_images=BATCH_IMAGES,
        adaptive_threshold=settings["adaptive_threshold"],
    )


def _labels(bundle: Bundle, request: SampleRequest) -> Tensor:
    num_classes = len(bundle.class_names)
    if request.label is None:
        return labels_in_turn(request.num_images, num_classes)
    if not 0 <= request.label < num_classes:
        names = map(one_line, bundle.class_names)
        known = ", ".join(f"{index} = {name}" for index, name in enumerate(names))
        raise ConfigError(
            f"this model has no class {request.label}; choose one of: {known}"
            if known
            else f"this model was trained without classes, so it has no class {request.label}; "
            f"leave the label out"
        )
    return torch.full((request.num_images,), request.label)


def _made(bundle: Bundle, spec: GenerationSpec, labels: Tensor) -> Iterator[Tensor]:
    """Images in batches, with a bar on a terminal or a line in the log now and then."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bundle.folded_network.to(device)
    batches = generate(
        bundle.denoiser,
        bundle.schedule,
        spec,
        labels.to(device),
        range(len(labels)),
        bundle.image_shape,
    )
    started_at = said_at = time.monotonic()
    with tqdm(total=len(labels), desc="sample", unit=" images", disable=None) as bar:
        num_done = 0
        for images in batches:
            yield images
            num_done += len(images)
            bar.update(len(images))
            now = time.monotonic()
            if not sys.stderr.isatty() and now - said_at > SAY_EVERY_S:
                said_at, rate = now, num_done / (now - started_at)
                left_s = (len(labels) - num_done) / rate
                log.info(
                    "%d of %d images, %.0f/s, %.0f s left", num_done, len(labels), rate, left_s
                )


def _record(bundle: Bundle, spec: GenerationSpec, labels: Sequence[int]) -> dict[str, Any]:
    """samples.json: what made the images, and each one's index, label and seed."""
    names = bundle.class_names
    return {
        "weights_sha256": bundle.weights_sha256,
        "lineage": bundle.lineage.values(),
        "seed": spec.seed,
        "sampler": spec.sampler,
        "num_steps": spec.num_steps,
        "guidance": spec.guidance,
        "guidance_interval": list(spec.guidance_interval),
        "adaptive_threshold": spec.adaptive_threshold,
        "images": [
            {
                "index": index,
                "label": label,
                "class_name": names[label] if names else None,
                "image_seed": image_seed(spec.seed, index),
            }
            for index, label in enumerate(labels)
        ],
    }


def _make_room(out_dir: Path, names: Sequence[str]) -> None:
    """Refuse to mix with samples of another request; take away the record of a former run."""
    out_dir.mkdir(parents=True, exist_ok=True)
    ours = {path.name for path in out_dir.iterdir() if OUR_FILE.fullmatch(path.name)}
    others = sorted(ours - set(names))
    if others:
        raise ViveroError(
            f"{out_dir} holds {len(others)} images of another request ({others[0]} ...), which "
            f"would mix with these {len(names)}; choose an empty folder, or empty this one first"
        )
    (out_dir / SAMPLES_NAME).unlink(missing_ok=True)


def _write_array(path: Path, values: np.ndarray) -> None:
    buffer = io.BytesIO()  # numpy's own writing to a file hides that the disk is full
    np.save(buffer, values, allow_pickle=False)
    with write_whole(path) as part_path:
        part_path.write_bytes(buffer.getvalue())


def main() -> None:
    """Run the stage as dvc.yaml does: read params.yaml, write artifacts/sample."""
    run_stage("sample", verified("sample", lambda root: run(load_config(root / PARAMS), root)))


if __name__ == "__main__":
    main()
