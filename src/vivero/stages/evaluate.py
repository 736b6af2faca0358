"""Stage `evaluate`: judge the samples; every figure with its interval, its n and its floor."""

import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vivero.config.environment import extractor_weights_dir
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, served_bundle_dir, work_dir
from vivero.config.schema import Config
from vivero.data.prepared import PreparedSplit, open_split
from vivero.diffusion.weights import loss_weight
from vivero.errors import DataError, NotComputableError
from vivero.evaluation.classifier import NAME as CLASSIFIER
from vivero.evaluation.classifier import Teaching, load_classifier
from vivero.evaluation.compulsory import compulsory_names
from vivero.evaluation.denoising import LevelLoss, errors_by_noise_level, held_out_bank
from vivero.evaluation.diversity import LabelledImages, repetition
from vivero.evaluation.extractors import build_extractor
from vivero.evaluation.features import Features, cached_features
from vivero.evaluation.findings import Findings, write_csv
from vivero.evaluation.intervals import mean_estimate, share_estimate
from vivero.evaluation.memorisation import (
    Nearest,
    copying,
    has_near_equal,
    near_equal_distance,
    nearest_training_images,
)
from vivero.evaluation.metrics import (
    PIXELS,
    Labelled,
    Metrics,
    Source,
    as_float,
    classification_accuracy_score,
    copying_metrics,
    count_name,
    distance_metrics,
    inception_score_metric,
    label_agreement,
    label_hits,
    labelled,
    mean_of,
    metric,
    near_equal_metric,
    neighbour_metrics,
    source_of,
    unusable_metric,
)
from vivero.evaluation.page import write_page
from vivero.evaluation.per_image import PER_IMAGE_NAME, save_per_image
from vivero.evaluation.pictures import draw_nearest, draw_samples
from vivero.evaluation.plots import (
    plot_curves,
    plot_loss_by_noise,
    plot_metrics,
    plot_per_class,
)
from vivero.evaluation.protocol import (
    evaluation_code_digest,
    package_versions,
    protocol_of,
    sampling_code_digest,
)
from vivero.evaluation.reference import CLASSIFIER_NAME, Reference, load_reference, sha256_of_splits
from vivero.evaluation.usability import unusable_images
from vivero.files import read_json, sha256_of_file, write_json
from vivero.integrity.entry import verified
from vivero.processes import run_stage
from vivero.registry.bundle import Bundle, load_bundle
from vivero.registry.own_images import IMAGES_NAME, LABELS_NAME, changed_files, is_record_of
from vivero.tracking.lineage import CodeState, read_code_state

METRICS_NAME, SAMPLES_NAME = "metrics.json", "samples.json"


@dataclass(frozen=True)
class Exhibit:
    """All that is looked at.

    Attributes:
        config: All settings.
        bundle: The model.
        samples: Its images and the labels that were asked for.
        sample_seed: Seed of its images.
        features: Of the samples.
        train: Real images that it was trained on.
        test: Real images that nothing was trained on.
        reference: Their features.
        reference_dir: Where the reference lies.
    """

    config: Config
    bundle: Bundle
    samples: Labelled
    sample_seed: int
    features: Features
    train: PreparedSplit
    test: PreparedSplit
    reference: Reference
    reference_dir: Path

    @property
    def generator(self) -> torch.Generator:
        """Fresh randomness from the seed of the evaluation."""
        return torch.Generator().manual_seed(self.config.evaluate.seed)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        report: The content of metrics.json.
        findings: Metrics, values per image and details for plots.
        nearest: Nearest training images of samples and held-out images.
    """

    report: dict[str, Any]
    findings: Findings
    nearest: dict[str, tuple[Nearest, Nearest, Source]]

    def write(self, out_dir: Path) -> None:
        """Write metrics.json and the values per image."""
        report = self.report
        write_json(out_dir / METRICS_NAME, report)
        save_per_image(
            self.findings.per_image,
            report["protocol"]["hash"],
            report["lineage"]["weights_sha256"],
            out_dir / PER_IMAGE_NAME,
        )


def run(config: Config, root: Path) -> None:
    """Write artifacts/evaluate from samples, bundle, reference and prepared images."""
    started_at = time.monotonic()
    exhibit = read_exhibit(config, root)
    evaluation = evaluate_model(exhibit, read_code_state(root))
    findings, out_dir = evaluation.findings, artifacts_dir(root, "evaluate")
    evaluation.write(out_dir)
    draw(exhibit, findings, evaluation.nearest, out_dir, artifacts_dir(root, "train") / "curves")
    pictures = {path.stem: path for path in (out_dir / "plots").glob("*.png")}
    write_page(evaluation.report, pictures, out_dir / "report.html")
    findings.write_summary(out_dir / "summary.json", time.monotonic() - started_at)


def evaluate_model(exhibit: Exhibit, code: CodeState) -> Evaluation:
    """Every metric of one model: of the candidate, and of a champion under a new protocol.

    Args:
        exhibit: The model, its images and the real ones.
        code: The code that evaluates, for the record.
    """
    findings = Findings()
    findings.add("distances", partial(distances, exhibit, findings))
    findings.add(
        "inception score",
        partial(inception_score_metric, exhibit.features.logits, exhibit.reference),
    )
    findings.add("precision and recall", partial(neighbours, exhibit, findings))
    findings.add("label agreement", partial(agreement, exhibit, findings))
    findings.add("classification accuracy score", partial(accuracy_score, exhibit, findings))
    findings.add("denoising loss", partial(denoising, exhibit, findings))
    nearest = nearest_images(exhibit)
    findings.add("copies of training images", partial(copies, exhibit, findings, nearest))
    findings.add("near-equal samples", partial(near_equal, exhibit, findings))
    findings.add("unusable images", partial(unusable, exhibit, findings))
    report = {
        "protocol": protocol(exhibit),
        "lineage": {**exhibit.bundle.lineage.values(), **asdict(exhibit.bundle.identity)},
        "evaluated_by": code.as_json(),
        "metrics": findings.metrics,
        "not_computed": findings.not_computed,
        **findings.details,
    }
    return Evaluation(report, findings, nearest)


def read_exhibit(config: Config, root: Path) -> Exhibit:
    """The candidate: its bundle and images, with the real images and their features.

    Raises:
        DataError: When the images were not made by the bundle as it is served and by the present
            code, or images or labels were changed after sampling.
    """
    sample_dir = artifacts_dir(root, "sample")
    try:
        record = dict(read_json(sample_dir / SAMPLES_NAME))
        seed = int(record["seed"])
        changed = changed_files(record, sample_dir)
        images = np.load(sample_dir / IMAGES_NAME, allow_pickle=False)
        labels = np.load(sample_dir / LABELS_NAME, allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the samples in {sample_dir} cannot be read ({error}); run `dvc repro -f -s sample`"
        ) from error
    bundle = load_bundle(served_bundle_dir(root))
    if not is_record_of(bundle, record, seed):
        raise DataError(
            f"the images in {sample_dir} were not made by the model and the settings in its "
            f"bundle/; run `dvc repro -f -s sample`"
        )
    if changed:
        raise DataError(
            f"{' and '.join(changed)} in {sample_dir} do not have the sha256 that {SAMPLES_NAME} "
            f"records: they were changed after sampling. Run `dvc repro -f -s sample`"
        )
    if record.get("code_sha256") != sampling_code_digest():
        raise DataError(
            f"the images in {sample_dir} were made by other code than the present one; run "
            f"`dvc repro -f -s sample`"
        )
    return open_exhibit(config, root, bundle, Labelled(images, labels), seed)


def open_exhibit(
    config: Config, root: Path, bundle: Bundle, samples: Labelled, sample_seed: int
) -> Exhibit:
    """Put a model and its images beside the real ones, and compute the features of its images.

    Raises:
        DataError: When the prepared images or labels are not those that the reference is of.
    """
    images_dir = artifacts_dir(root, "prepare_data") / "images"
    reference_dir = artifacts_dir(root, "compute_reference") / "reference"
    reference = load_reference(reference_dir)
    if sha256_of_splits(images_dir) != reference.facts.splits_sha256:
        raise DataError(
            f"the images or labels in {images_dir} are not those that the reference was made "
            f"from; run `dvc repro prepare_data`, then `dvc repro -f -s compute_reference`"
        )
    settings = config.compute_reference
    extractor = build_extractor(
        settings.extractor,
        reference.facts.size_px,
        extractor_weights_dir(root),
        settings.extractor_sha256,
    )
    cache_dir = work_dir(root) / "features"
    batch_images = settings.batch_images
    return Exhibit(
        config=config,
        bundle=bundle,
        samples=samples,
        sample_seed=sample_seed,
        features=cached_features(extractor, samples.images, batch_images, cache_dir, "samples"),
        train=open_split(images_dir, "train"),
        test=open_split(images_dir, "test"),
        reference=reference,
        reference_dir=reference_dir,
    )


def protocol(exhibit: Exhibit) -> dict[str, Any]:
    """All that changes the metrics but the model; only reports with equal rulers are compared."""
    num_images = len(exhibit.samples.labels)
    ruler = ruler_of(exhibit.config, exhibit.reference, num_images, exhibit.sample_seed)
    return protocol_of(ruler, exhibit.bundle.sampling_defaults)


def ruler_of(
    config: Config, reference: Reference, num_images: int, sample_seed: int
) -> dict[str, Any]:
    """What every model is measured with; the same for all models that are compared.

    Args:
        config: All settings.
        reference: The real side.
        num_images: Images made by each model.
        sample_seed: Seed of these images.
    """
    facts = reference.facts
    return {
        "n": num_images,
        "sample_seed": sample_seed,
        "seed": config.evaluate.seed,
        "extractor": facts.extractor,
        "extractor_sha256": facts.extractor_sha256,
        "resize": facts.resize,
        "reference_n": facts.num_reference,
        "reference_sha256": reference.sha256,
        "classifier_sha256": facts.classifier_sha256,
        "image_std": facts.image_std,
        "compulsory": compulsory_names(has_classes=len(facts.class_names) > 1),
        "settings": config.evaluate.model_dump(),
        "code_sha256": evaluation_code_digest(),
        "packages": package_versions(),
    }


def distances(exhibit: Exhibit, findings: Findings) -> Metrics:
    """Fréchet and kernel distance, and each image's influence on the first."""
    metrics, influences = distance_metrics(exhibit.features.features, exhibit.reference)
    findings.keep(influences)
    return metrics


def neighbours(exhibit: Exhibit, findings: Findings) -> Metrics:
    """Precision, recall, density and coverage."""
    num_neighbours = exhibit.config.evaluate.num_neighbours
    metrics, per_image = neighbour_metrics(
        exhibit.features.features, exhibit.reference, num_neighbours
    )
    findings.keep(per_image)
    return metrics


def near_equal(exhibit: Exhibit, findings: Findings) -> Metrics:
    """How many samples are nearly equal to another one."""
    splits = (exhibit.train, exhibit.test)
    real, held_out = (LabelledImages(split.images, np.asarray(split.labels)) for split in splits)
    if len(exhibit.bundle.class_names) < 2:  # samples carry a label, real images none
        real, held_out = (replace(side, labels=0 * side.labels) for side in (real, held_out))
    samples = LabelledImages(exhibit.samples.images, exhibit.samples.labels)
    metrics, per_image = near_equal_metric(repetition(samples, real, held_out))
    findings.keep(per_image)
    return metrics


def agreement(exhibit: Exhibit, findings: Findings) -> Metrics:
    """Whether a classifier that learned from real images sees what was asked for."""
    expected = exhibit.reference.facts.classifier_sha256
    if expected is None:
        raise NotComputableError("the data has no labels")
    path = exhibit.reference_dir / CLASSIFIER_NAME
    if not path.is_file() or sha256_of_file(path) != expected:
        raise DataError(
            f"{path} is not the classifier of this reference; make it again with "
            f"`dvc repro -f compute_reference`"
        )
    network, test = load_classifier(path), labelled(exhibit.test)
    hits = label_hits(network, exhibit.samples.images, exhibit.samples.labels)
    ours = share_estimate(int(hits.sum()), len(hits))
    source = Source(CLASSIFIER, expected, "none")
    name = f"label_agreement.{CLASSIFIER}.{count_name(ours.n)}"
    findings.keep({name: hits})
    floor = label_agreement(network, test.images, test.labels)
    return {name: metric(ours, "higher", source, floor)}


def accuracy_score(exhibit: Exhibit, findings: Findings) -> Metrics:
    """What a classifier learns from the samples, in all and by class."""
    names, test = exhibit.bundle.class_names, labelled(exhibit.test)
    if len(names) < 2 or not len(test.labels):
        raise NotComputableError("the data has no labels")
    settings = exhibit.config.evaluate
    teaching = Teaching(len(names), settings.classifier_epochs, settings.seed)
    metrics, by_class = classification_accuracy_score(
        exhibit.samples, labelled(exhibit.train, len(exhibit.samples.labels)), test, teaching
    )
    findings.details["per_class"] = [
        {"class": name, "cas": value, "cas_floor": floor}
        for name, value, floor in zip(names, by_class["value"], by_class["floor"], strict=True)
    ]
    return metrics


def denoising(exhibit: Exhibit, findings: Findings) -> Metrics:
    """The loss on held-out images, by noise level and in the mean."""
    settings, bundle = exhibit.config.evaluate, exhibit.bundle
    bank = held_out_bank(exhibit.test, settings, bundle.denoiser.null_label)
    image_std = exhibit.reference.facts.image_std
    if not image_std:
        raise NotComputableError("all training images have one and the same colour")

    def weight(sigma: torch.Tensor) -> torch.Tensor:
        return loss_weight("edm", sigma, image_std)  # of the data, whatever the model assumes

    errors = list(errors_by_noise_level(bundle.denoiser, weight, bank))
    levels = [
        LevelLoss(sigma, mean_estimate(errors_of_level))
        for sigma, errors_of_level in zip(bank.sigmas.tolist(), errors, strict=True)
    ]
    findings.details["loss_by_noise_level"] = [level.as_row() for level in levels]
    num_images = len(bank.clean)
    mean = mean_of([level.loss for level in levels], num_images)
    name = f"denoising_loss.mean.{count_name(num_images)}"
    findings.keep({name: torch.stack(errors).double().mean(dim=0).numpy()})
    return {name: metric(mean, "lower", PIXELS, None)}


def nearest_images(exhibit: Exhibit) -> dict[str, tuple[Nearest, Nearest, Source]]:
    """Nearest training images of samples and of held-out images, in pixels and in features."""
    count = exhibit.config.evaluate.num_memorisation_images
    reference = exhibit.reference
    return {
        "pixels": (
            *_nearest(
                as_float(exhibit.samples.images[:count]),
                as_float(exhibit.test.images[:count]),
                as_float(exhibit.train.images),
            ),
            PIXELS,
        ),
        "features": (
            *_nearest(
                exhibit.features.features[:count], reference.held_out[:count], reference.features
            ),
            source_of(reference),
        ),
    }


def _nearest(
    samples: torch.Tensor, held_out: torch.Tensor, training: torch.Tensor
) -> tuple[Nearest, Nearest]:
    """Nearest training images of samples and of held-out images."""
    near_equal = near_equal_distance(held_out, training)
    return (
        nearest_training_images(samples, training, near_equal),
        nearest_training_images(held_out, training, near_equal),
    )


def copies(
    exhibit: Exhibit, findings: Findings, nearest: dict[str, tuple[Nearest, Nearest, Source]]
) -> Metrics:
    """How many samples are copies of training images."""
    num_bootstrap = exhibit.config.evaluate.num_bootstrap
    found = {
        space: (copying(ours, theirs, num_bootstrap, exhibit.generator), source)
        for space, (ours, theirs, source) in nearest.items()
    }
    findings.details["near_equal_training_images"] = {
        space: _near_equal_count(rows, nearest[space][0].near_equal_distance)
        for space, rows in (
            ("pixels", as_float(exhibit.train.images)),
            ("features", exhibit.reference.features),
        )
    }
    num_images = len(nearest["pixels"][0].rows)
    findings.keep(
        {
            f"copied_share.{space}.{count_name(num_images)}": ours.is_copied.numpy()
            for space, (ours, _, _) in nearest.items()
        }
    )
    return copying_metrics(found, num_images)


def _near_equal_count(training: torch.Tensor, near_equal: float) -> dict[str, int]:
    """How many training images have a near-equal one among the others."""
    found = has_near_equal(training, near_equal)
    return {"num_images": len(found), "num_near_equal": int(found.sum())}


def unusable(exhibit: Exhibit, findings: Findings) -> Metrics:
    """How many samples are blank, or farther from every real image than real images are."""
    reference = exhibit.reference
    features = exhibit.features.features
    held_out = reference.held_out[: len(features)]
    found = unusable_images(exhibit.samples.images, features, reference.features, held_out)
    metrics = unusable_metric(found, reference)
    findings.keep(dict.fromkeys(metrics, found.samples))
    findings.details["num_blank_samples"] = found.num_blank
    return metrics


def draw(
    exhibit: Exhibit,
    findings: Findings,
    nearest: dict[str, tuple[Nearest, Nearest, Source]],
    out_dir: Path,
    curves_dir: Path,
) -> None:
    """Write the plots as PNG, and their numbers as CSV for `dvc plots`."""
    folder, samples = out_dir / "plots", exhibit.samples
    draw_samples(samples.images, samples.labels, exhibit.bundle.class_names, folder / "grid.png")
    rows_of = {space: ours.rows.numpy() for space, (ours, _, _) in nearest.items()}
    draw_nearest(samples.images, exhibit.train.images, rows_of, folder / "nearest.png")
    plot_metrics(findings.metrics, folder / "metrics.png")
    plot_curves(curves_dir, folder / "curves.png")
    levels = findings.details.get("loss_by_noise_level", [])
    if levels:
        plot_loss_by_noise(levels, folder / "loss_by_noise.png")
    rows = findings.details.get("per_class", [])
    if rows:
        names, values, floors = (
            [row[key] for row in rows] for key in ("class", "cas", "cas_floor")
        )
        plot_per_class(names, values, floors, folder / "per_class.png")
    write_csv(out_dir / "loss_by_noise.csv", ("sigma", "value", "low", "high"), levels)
    write_csv(out_dir / "per_class.csv", ("class", "cas", "cas_floor"), rows)


def main() -> None:
    """Run the stage as dvc.yaml does."""
    run_stage("evaluate", verified("evaluate", lambda root: run(load_config(root / PARAMS), root)))


if __name__ == "__main__":
    main()
