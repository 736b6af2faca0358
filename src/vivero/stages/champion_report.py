"""The champion's report under the protocol of a candidate: found, or made by a new evaluation.

A report is looked for in the registry, then among the evaluations kept in work/. Where there is
none, because code, data or settings of the evaluation changed, the champion is evaluated again:
sampled as it is served, with the candidate's seed and number of images, by the present code.

A kept evaluation is used only with a signature of a trusted key over its files and over the record
that names model, version, weights and protocol. This protects against reports that somebody without
such a key wrote, changed or copied into work/. It does not protect against a person who runs
commands as the owner of the key. Without a key nothing is kept: the champion is evaluated again.
"""

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from vivero.config.environment import read_environment
from vivero.config.paths import artifacts_dir, work_dir
from vivero.config.schema import Config
from vivero.data.prepared import open_split
from vivero.errors import (
    BundleError,
    ConfigError,
    DataError,
    NotComputableError,
    SignatureNeededError,
)
from vivero.evaluation.metrics import Labelled
from vivero.evaluation.per_image import PER_IMAGE_NAME, load_per_image
from vivero.evaluation.protocol import protocol_hash
from vivero.evaluation.reference import load_reference
from vivero.files import read_json, sha256_of_json
from vivero.registry.bundle import Bundle, load_bundle
from vivero.registry.gates import ruler_hash
from vivero.registry.keys import signing_key, trusted_keys
from vivero.registry.own_images import own_spec
from vivero.registry.report_record import read_report_record
from vivero.registry.signatures import Record, check_record, new_record, sign_folder, verify_folder
from vivero.registry.signing_requests import request_folder, signed_copies
from vivero.registry.versions import ModelVersion, bring_here, report_folder
from vivero.stages.evaluate import METRICS_NAME, evaluate_model, open_exhibit, ruler_of
from vivero.stages.sample import labels_in_turn, make_images
from vivero.tracking.lineage import read_code_state

log = logging.getLogger(__name__)


def champion_report(
    config: Config, root: Path, champion: ModelVersion, candidate: dict[str, Any]
) -> dict[str, Any]:
    """The champion's report under the candidate's ruler, with values per image where it has any.

    Where the champion cannot be evaluated on the present data, its own report is returned, and
    `not_evaluated_again` says why: its ruler is another one, so that the gate holds.

    Args:
        config: All settings.
        root: Top of the repository.
        champion: The version that is champion.
        candidate: Report of the candidate.

    Raises:
        BundleError: When the champion's files are not those that were registered.
        DataError: When the champion's report cannot be used, or the candidate was evaluated by
            other settings or code than the present ones.
    """
    bundle = load_bundle(bring_here(root, champion) / "bundle")
    name = protocol_hash(ruler_hash(candidate), bundle.sampling_defaults)
    why = None
    folder = report_folder(root, champion, name) or kept_evaluation(root, champion, name)
    if folder is None:
        try:
            folder = evaluate_again(config, root, champion, bundle, candidate["protocol"])
        except NotComputableError as error:
            folder, why = report_folder(root, champion), str(error)
    if folder is None:
        raise no_report(champion)
    advice = f"make version {champion.version} again, or decide by hand (`vivero promote --force`)"
    report = read_report_record(folder / METRICS_NAME, advice).values()
    report["per_image"] = per_image_beside(folder, report, champion.weights_sha256)
    return report if why is None else {**report, "not_evaluated_again": why}


def no_report(version: ModelVersion) -> BundleError:
    """The error for a version without the report that it was registered with."""
    return BundleError(
        f"version {version.version} of '{version.name}' has no report of its registration in "
        f"MLflow; run `vivero verify`, or register the model again"
    )


def per_image_beside(folder: Path, report: dict[str, Any], weights_sha256: str) -> dict[str, Any]:
    """The values per image beside a report; none where they are of another one."""
    path = folder / PER_IMAGE_NAME
    if not path.exists():
        return {}
    return dict(load_per_image(path, report["protocol"]["hash"], weights_sha256))


def evaluate_again(
    config: Config,
    root: Path,
    champion: ModelVersion,
    bundle: Bundle,
    protocol: dict[str, Any],
) -> Path:
    """Evaluate a registered model under a protocol and keep the report in work/evaluations.

    Args:
        config: All settings.
        root: Top of the repository.
        champion: Version that the bundle is of.
        bundle: The model.
        protocol: Of the candidate: its number of images and their seed are taken.

    Returns:
        Folder with metrics.json and the values per image.

    Raises:
        DataError: When the present settings and code do not give this protocol.
        NotComputableError: When the model makes other images or classes than the present data has.
    """
    num_images, seed = int(protocol["n"]), int(protocol["sample_seed"])
    reference = load_reference(artifacts_dir(root, "compute_reference") / "reference")
    if sha256_of_json(ruler_of(config, reference, num_images, seed)) != protocol["ruler_hash"]:
        raise DataError(
            "the candidate was evaluated by other settings, data or code than the present ones; "
            "run `dvc repro evaluate` and judge again"
        )
    log.info(
        "judge: version %s is champion and has no report under the protocol of the candidate "
        "(other code, data or settings of the evaluation); it is evaluated again, once",
        champion.version,
    )
    return evaluate_version(config, root, champion, bundle, (num_images, seed))


def evaluate_version(
    config: Config, root: Path, version: ModelVersion, bundle: Bundle, images: tuple[int, int]
) -> Path:
    """Sample a registered model as it is served, evaluate it, keep the report in work/evaluations.

    Args:
        config: All settings.
        root: Top of the repository.
        version: Version that the bundle is of.
        bundle: The model.
        images: How many are made, and their seed.

    Returns:
        Folder with metrics.json and the values per image.

    Raises:
        NotComputableError: When the model makes other images or classes than the present data has.
    """
    num_images, seed = images
    images_dir = artifacts_dir(root, "prepare_data") / "images"
    reference = load_reference(artifacts_dir(root, "compute_reference") / "reference")
    shape = tuple(open_split(images_dir, "test").images.shape[1:])
    _require_same_kind(version, bundle, (shape, reference.facts.class_names))
    sampling = bundle.sampling
    log.info(
        "evaluating version %s: %d images in %d steps of %s, then all metrics",
        *(version.version, num_images, sampling.num_steps, sampling.sampler),
    )
    started_at = time.monotonic()
    labels = labels_in_turn(num_images, len(bundle.class_names))
    spec = own_spec(bundle, config.sample.batch_images, seed=seed)
    samples = Labelled(make_images(bundle, spec, labels), labels.numpy())
    bundle.folded_network.to(torch.device("cpu"))
    exhibit = open_exhibit(config, root, bundle, samples, seed)
    evaluation = evaluate_model(exhibit, read_code_state(root))
    record = _record(version, evaluation.report["protocol"]["hash"])
    folder = _folder(root, version, record)
    shutil.rmtree(folder, ignore_errors=True)
    evaluation.write(folder)
    _sign(root, folder, record)
    log.info("evaluated version %s in %.0f s", version.version, time.monotonic() - started_at)
    return folder


def kept_evaluation(root: Path, champion: ModelVersion, name: str) -> Path | None:
    """The folder of an evaluation that was kept under a protocol and is signed by a trusted key.

    Args:
        root: Top of the repository.
        champion: The version that was evaluated.
        name: `protocol_hash` of the evaluation.

    Returns:
        The folder; None where there is none, or its files are not those that were signed.
    """
    record = _record(champion, name)
    unsigned_dir = read_environment().vivero_unsigned_dir
    folders = [_folder(root, champion, record)]
    if unsigned_dir is not None:
        folders.append(request_folder(unsigned_dir, record))
    for folder in folders:
        if not (folder / METRICS_NAME).exists():
            continue
        try:
            check_record(verify_folder(folder, trusted_keys(root)), record)
            _require_report_of(folder, record)
        except BundleError as error:
            log.warning("the evaluation kept in %s is not used: %s", folder, error)
        else:
            return folder
    return None


def _sign(root: Path, folder: Path, record: Record) -> None:
    """Sign a new evaluation, or leave the request for it where the key is in another process."""
    unsigned_dir = read_environment().vivero_unsigned_dir
    try:
        if unsigned_dir is None:
            sign_folder(folder, record, signing_key(root))
        else:
            files = [folder / METRICS_NAME, folder / PER_IMAGE_NAME]
            signed_copies(unsigned_dir, record, files, trusted_keys(root))
    except SignatureNeededError:
        log.info("the evaluation of version %s is kept once `make sign` signs it", record.version)
    except ConfigError as error:
        log.warning("the evaluation is used now, but not kept: it cannot be signed (%s)", error)


def _require_report_of(folder: Path, record: Record) -> None:
    """Refuse a report whose own content is of another protocol or another model."""
    try:
        report = read_json(folder / METRICS_NAME)
        found = report["protocol"]["hash"], report["lineage"]["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder / METRICS_NAME} cannot be read ({error!r})") from error
    if found != (record.protocol_hash, record.weights_sha256):
        raise BundleError(f"{folder / METRICS_NAME} is of another protocol or another model")


def _record(version: ModelVersion, name: str) -> Record:
    return new_record(version.name, version.version, version.weights_sha256, name)


def _folder(root: Path, champion: ModelVersion, record: Record) -> Path:
    place = f"{champion.signature_sha256[:16]}-{str(record.protocol_hash)[:16]}"
    return work_dir(root) / "evaluations" / place


def _require_same_kind(
    champion: ModelVersion, bundle: Bundle, expected: tuple[tuple[int, ...], list[str]]
) -> None:
    for what, ours, theirs in zip(
        ("images of shape (C, H, W)", "the classes"),
        (bundle.image_shape, bundle.class_names),
        expected,
        strict=True,
    ):
        if ours != theirs:
            raise NotComputableError(
                f"version {champion.version} cannot be evaluated on the present data: it makes "
                f"{what} {ours}, the data has {theirs}; decide by hand (`vivero promote VERSION "
                f"--force`)"
            )
