"""Stage `compute_reference`: the real images as features, and a classifier that has seen them."""

import logging
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vivero.config.environment import extractor_weights_dir
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, work_dir
from vivero.config.schema import Config
from vivero.data.prepared import NO_LABEL, PreparedSplit, image_std, open_split, read_card
from vivero.evaluation.classifier import (
    Teaching,
    predicted_labels,
    save_classifier,
    train_classifier,
)
from vivero.evaluation.cores import spread_over_cores
from vivero.evaluation.drift_reference import (
    NUM_TYPICAL,
    DriftReference,
    save_drift_reference,
)
from vivero.evaluation.extractors import build_extractor
from vivero.evaluation.features import cached_features
from vivero.evaluation.kernel import mean_kernel_of_pairs
from vivero.evaluation.reference import (
    CLASSIFIER_NAME,
    DRIFT_NAME,
    ReferenceFacts,
    save_reference,
    sha256_of_splits,
)
from vivero.files import sha256_of_file, write_json
from vivero.integrity.entry import verified
from vivero.processes import run_stage

log = logging.getLogger(__name__)


def run(config: Config, root: Path) -> None:
    """Write artifacts/compute_reference from the prepared training and test images."""
    started_at = time.monotonic()
    settings = config.compute_reference
    images_dir = artifacts_dir(root, "prepare_data") / "images"
    out_dir = artifacts_dir(root, "compute_reference")
    folder = out_dir / "reference"
    card = read_card(images_dir)
    train, test = open_split(images_dir, "train"), open_split(images_dir, "test")
    extractor = build_extractor(
        settings.extractor,
        settings.extractor_size_px,
        extractor_weights_dir(root),
        settings.extractor_sha256,
    )
    cache_dir = work_dir(root) / "features"
    chosen = [np.asarray(split.images[: settings.num_images]) for split in (train, test)]
    real, held_out = (
        cached_features(extractor, images, settings.batch_images, cache_dir, subject)
        for images, subject in zip(chosen, ("training images", "test images"), strict=True)
    )
    teaching = Teaching(len(card.class_names), settings.classifier_epochs, settings.seed)
    accuracy = teach(train, test, teaching, folder / CLASSIFIER_NAME)
    facts = ReferenceFacts(
        extractor=extractor.name,
        extractor_sha256=extractor.weights_sha256,
        classifier=extractor.classifier,
        size_px=extractor.size_px,
        resize=extractor.resize,
        num_reference=len(real.features),
        num_held_out=len(held_out.features),
        data_digest=card.source_digest,
        splits_sha256=sha256_of_splits(images_dir),
        seed=settings.seed,
        real_accuracy=accuracy,
        classifier_sha256=None if accuracy is None else sha256_of_file(folder / CLASSIFIER_NAME),
        class_names=list(card.class_names),
        image_std=image_std(train.images),
    )
    mean_kernel = mean_kernel_of_pairs(real.features)
    save_reference(folder, facts, real.features, (held_out.features, held_out.logits), mean_kernel)
    drift = DriftReference(
        features=real.features,
        extractor_sha256=extractor.weights_sha256,
        data_digest=card.source_digest,
        labels=torch.from_numpy(np.array(train.labels[: settings.num_images], np.int64)),
        class_names=tuple(card.class_names),
        typical=torch.from_numpy(np.array(chosen[0][:NUM_TYPICAL])),
    )
    save_drift_reference(folder / DRIFT_NAME, drift)

    said = "" if accuracy is None else f"; a small classifier is right on {accuracy:.1%} of test"
    summary = {
        "stage": "compute_reference",
        "seconds": round(time.monotonic() - started_at, 2),
        "made": f"{extractor.name} features of {facts.num_reference} training and "
        f"{facts.num_held_out} test images{said}",
        "num_reference": facts.num_reference,
        "num_held_out": facts.num_held_out,
    }
    if accuracy is not None:
        summary["real_accuracy"] = accuracy
    write_json(out_dir / "summary.json", summary)
    log.info("compute_reference made %s", summary["made"])


def teach(
    train: PreparedSplit, test: PreparedSplit, teaching: Teaching, path: Path
) -> float | None:
    """Train the small classifier on real images and write its weights to path.

    Returns:
        Accuracy on the labelled test images; None, and no file, when there are no classes.
    """
    is_labelled = test.labels != NO_LABEL
    if teaching.num_classes < 2 or not is_labelled.any():
        return None
    (network,) = spread_over_cores(  # on one core: the weights do not depend on their number
        partial(train_classifier, train.images, train.labels), [teaching]
    )
    save_classifier(network, path)
    found = predicted_labels(network, np.asarray(test.images)[is_labelled])
    return float((found == test.labels[is_labelled]).mean())


def main() -> None:
    """Run the stage as dvc.yaml does."""
    run_stage(
        "compute_reference",
        verified("compute_reference", lambda root: run(load_config(root / PARAMS), root)),
    )


if __name__ == "__main__":
    main()
