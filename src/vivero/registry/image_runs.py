"""Made images in MLflow: one short run per batch, so that other machines find them too.

The record here (`made_images`) is the master. What MLflow was not told of yet is sent by the next
call; a server that is away costs a line in the log. Importing this module imports MLflow.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any

import mlflow
from tqdm import tqdm

from vivero.config.environment import tracking_uri
from vivero.config.load import load_config
from vivero.config.paths import PARAMS
from vivero.data.made_images import (
    ImageBatch,
    MadeImages,
    new_batch,
    parse_batch,
    read_batch,
)
from vivero.errors import ViveroError
from vivero.files import read_bounded_json
from vivero.integrity.records import SHA256, UNREADABLE, shown
from vivero.registry.lineage_records import LineageRecords, RunRecord
from vivero.registry.versions import WEIGHTS_TAG
from vivero.tracking.runs import PARENT_TAG, RUN_KEY_TAG
from vivero.tracking.server import without_credentials
from vivero.tracking.store import experiment_id, open_client, quoted, refusals, store_lock

FILE_NAME = "made_images.json"
KIND_TAG, KIND = "vivero.kind", "made images"
BATCH_TAG = "vivero.batch_id"
MAX_FILE_BYTES = 100_000_000  # of one batch; an image takes about 300

log = logging.getLogger(__name__)


def send_batches(root: Path) -> int:
    """Send every batch that this MLflow does not have; asked again, it sends none twice.

    Returns:
        How many were sent.

    Raises:
        TrackingError: When MLflow does not answer or refuses; the rest is sent next time.
    """
    images, address = MadeImages(root), without_credentials(tracking_uri(root))
    unsent = images.batches_not_sent(address)
    if not unsent:
        return 0
    client = open_client(root)
    with store_lock(root):
        for batch in unsent:
            with refusals(tracking_uri(root)):
                _send(root, client, batch, images.entries(batch.batch_id))
            images.note_sent(batch.batch_id, address)
    return len(unsent)


def remember(root: Path, samples_dir: Path) -> None:
    """Record what `vivero sample` wrote into a folder; what fails is said, and stops nothing.

    The images carry their own record whatever happens here.
    """
    try:
        MadeImages(root).add(*read_batch(samples_dir))
        send_batches(root)
    except ViveroError as error:
        log.warning("the images are whole, but MLflow does not know of them yet: %s", error)


def fetch_batches(root: Path, records: LineageRecords) -> int:
    """Take the batches that other machines sent into the record here; each is fetched once.

    Returns:
        How many were new.
    """
    images = MadeImages(root)
    runs = [run for run in records.runs_tagged(KIND_TAG, KIND) if run.status != "deleted"]
    named = [run for run in runs if SHA256.fullmatch(run.tags.get(BATCH_TAG, ""))]
    missing = [run for run in named if not images.has(run.tags[BATCH_TAG])]
    if not missing:
        return 0
    client = open_client(root)
    bar = tqdm(missing, desc="fetch records of images", unit=" batches", disable=None)
    return sum(_fetch(root, client, images, run) for run in bar)


def fetch_from_others(root: Path) -> None:
    """`fetch_batches` where a server is used; one that is away costs a line in the log.

    The embedded store holds what this machine made alone, which is recorded here already.
    """
    if tracking_uri(root).startswith("sqlite:"):
        return
    try:
        fetch_batches(root, LineageRecords(root))
    except ViveroError as error:
        log.warning("images that other machines made are not recognised by their pixels: %s", error)


def _send(root: Path, client: Any, batch: ImageBatch, entries: list[dict[str, Any]]) -> None:
    """One finished run; a kill between any two calls is made good by the next call."""
    key = f"images-{batch.batch_id}"
    parent = _maker(client, batch)
    if parent is None:
        name = load_config(root / PARAMS).registration.experiment
        experiment = experiment_id(client, root, name)
    else:
        experiment = parent.info.experiment_id
    found = client.search_runs([experiment], f"tags.`{RUN_KEY_TAG}` = {quoted(key)}", max_results=1)
    lineage = {f"lineage.{k}": str(v) for k, v in batch.lineage.items() if v is not None}
    tags = {**lineage, KIND_TAG: KIND, RUN_KEY_TAG: key, BATCH_TAG: batch.batch_id}
    if parent is not None:
        tags[PARENT_TAG] = parent.info.run_id
    run = found[0] if found else client.create_run(experiment, tags=tags, run_name="made images")
    content = {"made_at": batch.made_at, "made_with": batch.made_with, "images": entries}
    client.log_dict(run.info.run_id, content, FILE_NAME)
    client.set_terminated(run.info.run_id)


def _maker(client: Any, batch: ImageBatch) -> Any | None:
    """The training run of the version with these weights; None where none is registered."""
    weights = str(batch.lineage["weights_sha256"])
    condition = f"tags.`{WEIGHTS_TAG}` = {quoted(weights)}"
    found = client.search_model_versions(condition, max_results=1)
    if not found or not found[0].run_id:
        return None
    run = client.get_run(found[0].run_id)
    return run if run.info.lifecycle_stage == "active" else None


def _stated_bytes(client: Any, run: RunRecord) -> int:
    """The size of a batch's file as the server states it, before it is downloaded."""
    files = client.list_artifacts(run.run_id)
    return sum(file.file_size or 0 for file in files if file.path == FILE_NAME)


def _fetch(root: Path, client: Any, images: MadeImages, run: RunRecord) -> bool:
    """Record a batch of another machine if it is what its name says; whether it was."""
    with tempfile.TemporaryDirectory() as folder, refusals(tracking_uri(root)):
        uri = f"runs:/{run.run_id}/{FILE_NAME}"
        num_bytes = _stated_bytes(client, run)
        if num_bytes > MAX_FILE_BYTES:
            log.warning(
                "%s of run %s is left out: it has %d bytes; expected at most %d",
                *(FILE_NAME, run.run_id, num_bytes, MAX_FILE_BYTES),
            )
            return False
        got = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
        try:
            content = read_bounded_json(Path(got), MAX_FILE_BYTES)
            made_at, raw = shown(content["made_at"]), content["made_with"]
            made_with, entries = parse_batch(raw, content["images"])
            name = new_batch(made_at, raw, content["images"]).batch_id
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("%s of run %s is left out: %s", FILE_NAME, run.run_id, shown(error, 500))
            return False
    if name != run.tags[BATCH_TAG] or not all(e.get("pixels_sha256") for e in entries):
        log.warning(
            "%s: %s of run %s was altered; it is left out", UNREADABLE, FILE_NAME, run.run_id
        )
        return False
    images.add(ImageBatch(name, made_at, made_with, len(entries)), entries)
    return True
