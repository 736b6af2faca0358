"""Command `check_drift`: does the current data still look like what the champion was trained on?

Outside DVC, because the champion is a state of the world. The reference comes with the champion's
model version; without a champion it is the current data's own, and the check is of its splits.
"""

import logging
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from vivero.config.environment import extractor_weights_dir
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, work_dir
from vivero.config.schema import Config
from vivero.data.prepared import open_split
from vivero.errors import DataError
from vivero.evaluation.drift import (
    CLASSIFIER,
    DISCREPANCY,
    MIN_IMAGES,
    DriftReport,
    Labels,
    drift_report,
)
from vivero.evaluation.drift_reference import DriftReference, load_drift_reference
from vivero.evaluation.extractors import build_extractor
from vivero.evaluation.features import cached_features
from vivero.files import write_json, write_whole
from vivero.integrity.entry import verified
from vivero.processes import run_stage
from vivero.registry.versions import champion_drift_reference

log = logging.getLogger(__name__)


def run(config: Config, root: Path) -> DriftReport | None:
    """Test the images that are not trained on; leave artifacts/check_drift/{drift.json,drift.png}.

    Returns:
        The report; None when there are too few images to say anything.
    """
    started_at = time.monotonic()
    against, reference = read_reference(config, root)
    images, labels = current_images(config, root)
    current = reference_features(config, root, reference, images)
    generator = torch.Generator().manual_seed(config.check_drift.seed)
    rows = torch.randperm(len(reference.features), generator=generator)
    chosen = reference.features[rows[: config.check_drift.num_images]]
    if min(len(chosen), len(current)) < MIN_IMAGES:
        say_too_few(artifacts_dir(root, "check_drift"), len(chosen), len(current))
        return None
    counts = label_counts(reference, labels)
    report = drift_report(chosen, current, config.check_drift, generator, counts)
    folder = artifacts_dir(root, "check_drift")
    write_json(
        folder / "drift.json",
        {
            "against": against,
            "reference_data_digest": reference.data_digest,
            "extractor_sha256": reference.extractor_sha256,
            **report.as_json(),
        },
    )
    save_plot(report, folder / "drift.png")
    made = f"against {against}: {report.sentence()}"
    (log.warning if report.is_alarm else log.info)("check_drift: %s", made)
    seconds = round(time.monotonic() - started_at, 2)
    write_json(folder / "summary.json", {"stage": "check_drift", "seconds": seconds, "made": made})
    return report


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
    extractor = build_extractor(settings.extractor, settings.extractor_size_px, weights_dir)
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


def save_plot(report: DriftReport, path: Path) -> None:
    """The observed discrepancy among those of the permutations."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.hist(report.detail.null_statistics, bins=40, color="0.75", label="if nothing had changed")
    found = {test.name: test for test in report.tests}
    discrepancy, classifier = found[DISCREPANCY], found[CLASSIFIER]
    axes.axvline(
        discrepancy.effect,
        color="tab:red" if report.is_alarm else "tab:blue",
        label=f"observed (p = {discrepancy.p_value:.3g})",
    )
    axes.set_xlabel("maximum mean discrepancy, squared, in whitened components")
    axes.set_ylabel("permutations")
    axes.set_title(
        f"{'DRIFT' if report.is_alarm else 'No drift'}: a classifier tells old from new with AUC "
        f"{report.auc:.3f} (p = {classifier.p_value:.3g}); "
        f"outliers {report.outlier_share.value:.1%}",
        fontsize=10,
    )
    axes.legend()
    with write_whole(path) as part_path:
        figure.savefig(part_path, format="png", dpi=120)


def main() -> None:
    """Run the command on this repository."""
    run_stage(
        "check_drift", verified("check_drift", lambda root: run(load_config(root / PARAMS), root))
    )


if __name__ == "__main__":
    main()
