"""Command `check_drift`: does the current data still look like what the champion was trained on?

Outside DVC, because the champion is a state of the world. The reference comes with the champion's
model version; without a champion it is the current data's own, and the check is of its splits.
"""

import logging
import time
from pathlib import Path

import numpy as np
import torch

from vivero.config.environment import extractor_weights_dir
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, work_dir
from vivero.config.schema import Config
from vivero.data.prepared import open_split
from vivero.errors import DataError
from vivero.evaluation.drift import (
    MIN_IMAGES,
    DriftReport,
    Labels,
    drift_report,
)
from vivero.evaluation.drift_page import Part, write_drift_page
from vivero.evaluation.drift_plots import draw_drift, plot_null
from vivero.evaluation.drift_reference import DriftReference, load_drift_reference
from vivero.evaluation.extractors import build_extractor
from vivero.evaluation.features import cached_features
from vivero.files import read_json, write_json
from vivero.integrity.entry import verified
from vivero.processes import run_stage
from vivero.registry.bundle import Bundle, load_bundle
from vivero.registry.own_images import (
    IMAGES_NAME,
    changed_files,
    is_record_of,
    own_images,
    own_spec,
)
from vivero.registry.versions import champion_drift_reference, champion_folder

FRESH_SEED = 1_000_003  # added to the seed of the stage sample: images that nobody has judged

log = logging.getLogger(__name__)


def run(config: Config, root: Path) -> DriftReport | None:
    """Test the images that are not trained on; leave drift.json, drift.png and report.html.

    Where there is a champion, images that it makes now are held against those it was judged with.

    Returns:
        The report on the real images; None when there are too few to say anything.
    """
    started_at = time.monotonic()
    folder = artifacts_dir(root, "check_drift")
    against, reference = read_reference(config, root)
    images, labels = current_images(config, root)
    chosen = drawn_reference(config, reference)
    if min(len(chosen), len(images)) < MIN_IMAGES:
        say_too_few(folder, len(chosen), len(images))
        return None
    features = reference_features(config, root, reference, images)
    counts = label_counts(reference, labels)
    report = drift_report(chosen, features, config.check_drift, new_generator(config), counts)
    generated = generated_report(config, root, reference)
    facts = {
        "against": against,
        "reference_data_digest": reference.data_digest,
        "extractor_sha256": reference.extractor_sha256,
    }
    said = {"generated": None if generated is None else generated.as_json()}
    write_json(folder / "drift.json", {**facts, **report.as_json(), **said})
    pictures = draw_drift(
        report, reference.class_names, typical_images(reference), images, folder / "plots"
    )
    plot_null(report, folder / "drift.png")
    parts = [Part("Real images that nobody trained on", against, report, pictures)]
    if generated is not None:
        made_by = "images that the champion was judged with"
        parts.append(Part("Generated images", made_by, generated))
    write_drift_page(
        folder / "report.html",
        "DRIFT" if any(part.report.is_alarm for part in parts) else "No drift",
        [f"{part.name}: {part.report.sentence()}" for part in parts],
        parts,
        facts,
    )
    made = f"against {against}: {report.sentence()}"
    if generated is not None:
        made += f"; generated images: {generated.sentence()}"
    is_alarm = any(part.report.is_alarm for part in parts)
    (log.warning if is_alarm else log.info)("check_drift: %s", made)
    seconds = round(time.monotonic() - started_at, 2)
    write_json(folder / "summary.json", {"stage": "check_drift", "seconds": seconds, "made": made})
    return report


def new_generator(config: Config) -> torch.Generator:
    """For permutations and splits: the same in every run."""
    return torch.Generator().manual_seed(config.check_drift.seed)


def drawn_reference(config: Config, reference: DriftReference) -> torch.Tensor:
    """As many of the reference's features as are compared, drawn at random."""
    rows = torch.randperm(len(reference.features), generator=new_generator(config))
    return reference.features[rows[: config.check_drift.num_images]]


def typical_images(reference: DriftReference) -> np.ndarray | None:
    """The pictures that the reference brought, uint8, (n, C, H, W)."""
    return None if reference.typical is None else reference.typical.numpy()


def generated_report(config: Config, root: Path, reference: DriftReference) -> DriftReport | None:
    """Images that the champion makes now, against those that it was judged with.

    The judged ones are in artifacts/sample when the champion was made here; else they are made
    again, since an image is a function of the weights, the seed and its index.

    Returns:
        What was found; None without a champion, or when check_drift.num_generated is 0.
    """
    num_images = config.check_drift.num_generated
    champion_dir = champion_folder(root, config.registration.model_name)
    if champion_dir is None or num_images < MIN_IMAGES:
        return None
    bundle = load_bundle(champion_dir / "bundle")
    sample_dir = artifacts_dir(root, "sample")
    record_path = sample_dir / "samples.json"
    record = read_json(record_path) if record_path.exists() else {}
    is_judged = is_record_of(bundle, record, config.sample.seed)
    if is_judged and not changed_files(record, sample_dir):
        every = np.load(sample_dir / IMAGES_NAME, mmap_mode="r", allow_pickle=False)
        judged = np.asarray(every[:num_images])
    else:
        judged = made_images(config, bundle, config.sample.seed, num_images)
    fresh = made_images(config, bundle, config.sample.seed + FRESH_SEED, num_images)
    earlier, now = (reference_features(config, root, reference, part) for part in (judged, fresh))
    return drift_report(earlier, now, config.check_drift, new_generator(config))


def made_images(config: Config, bundle: Bundle, seed: int, num_images: int) -> np.ndarray:
    """Images of all classes in turn, as the stage sample makes them; uint8, (N, C, H, W)."""
    spec = own_spec(bundle, config.sample.batch_images, seed=seed)
    return own_images(bundle, num_images, spec).numpy()


def say_too_few(folder: Path, num_reference: int, num_current: int) -> None:
    """Leave a record that nothing was tested, and why."""
    made = (
        f"not tested: drift needs at least {MIN_IMAGES} images on each side, found "
        f"{num_reference} of the reference and {num_current} current ones"
    )
    log.warning("check_drift: %s", made)
    write_json(folder / "drift.json", {"is_alarm": None, "reason": made})
    write_json(folder / "summary.json", {"stage": "check_drift", "seconds": 0.0, "made": made})


def read_reference(config: Config, root: Path) -> tuple[str, DriftReference]:
    """The champion's reference, or else that of the current data; and what to call it."""
    path = champion_drift_reference(root, config.registration.model_name)
    if path is not None:
        return "the champion's training data", load_drift_reference(path)
    own_path = artifacts_dir(root, "compute_reference") / "reference" / "drift.safetensors"
    if not own_path.exists():
        raise DataError(
            f"{own_path.relative_to(root)} is missing; run `dvc repro compute_reference` first"
        )
    return "this data's own training split (no champion yet)", load_drift_reference(own_path)


def current_images(config: Config, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images that nobody trained on, of the validation and test split, and their labels."""
    images_dir = artifacts_dir(root, "prepare_data") / "images"
    # Rows are in the order of a hash, so the first ones are a random choice.
    half = -(-config.check_drift.num_images // 2)
    splits = [open_split(images_dir, split) for split in ("validation", "test")]
    images = np.concatenate([np.asarray(split.images[:half]) for split in splits])
    return images, np.concatenate([split.labels[:half] for split in splits])


def reference_features(
    config: Config, root: Path, reference: DriftReference, images: np.ndarray
) -> torch.Tensor:
    """Features of images, uint8, (N, C, H, W), by the extractor of the reference.

    Raises:
        DataError: When the settings name another extractor.
    """
    settings = config.compute_reference
    weights_dir = extractor_weights_dir(root)
    extractor = build_extractor(
        settings.extractor, settings.extractor_size_px, weights_dir, settings.extractor_sha256
    )
    if extractor.weights_sha256 != reference.extractor_sha256:
        raise DataError(
            f"the champion's drift reference was made by another extractor (sha256 "
            f"{reference.extractor_sha256[:12]}) than compute_reference.extractor "
            f"(sha256 {extractor.weights_sha256[:12]}); set the extractor back, or promote a model "
            f"that was judged with the new one"
        )
    cache_dir = work_dir(root) / "features"
    return cached_features(extractor, images, settings.batch_images, cache_dir).features


def label_counts(reference: DriftReference, labels: np.ndarray) -> Labels | None:
    """Images of each class on both sides; None where the reference has no classes."""
    counts = reference.label_counts()
    if counts is None:
        return None
    known = labels[(labels >= 0) & (labels < len(counts))]
    return Labels(counts, np.bincount(known, minlength=len(counts)))


def main() -> None:
    """Run the command on this repository."""
    run_stage(
        "check_drift", verified("check_drift", lambda root: run(load_config(root / PARAMS), root))
    )


if __name__ == "__main__":
    main()
