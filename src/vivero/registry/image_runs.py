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
from vivero.errors import DataError, ViveroError
from vivero.files import read_json
from vivero.registry.lineage_records import LineageRecords, RunRecord
from vivero.registry.made_images import ImageBatch, MadeImages, new_batch, read_batch
from vivero.registry.versions import WEIGHTS_TAG
from vivero.tracking.runs import PARENT_TAG, RUN_KEY_TAG
from vivero.tracking.server import without_credentials
from vivero.tracking.store import experiment_id, open_client, refusals, store_lock

FILE_NAME = "made_images.json"
KIND_TAG, KIND = "vivero.kind", "made images"
BATCH_TAG = "vivero.batch_id"

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
    missing = [run for run in runs if not images.has(run.tags.get(BATCH_TAG, ""))]
    for run in tqdm(missing, desc="fetch records of images", unit=" batches", disable=None):
        _fetch(root, images, run)
    return len(missing)


def _send(root: Path, client: Any, batch: ImageBatch, entries: list[dict[str, Any]]) -> None:
    """One finished run; a kill between any two calls is made good by the next call."""
    key = f"images-{batch.batch_id}"
    parent = _maker(client, batch)
    if parent is None:
        name = load_config(root / PARAMS).registration.experiment
        experiment = experiment_id(client, root, name)
    else:
        experiment = parent.info.experiment_id
    found = client.search_runs([experiment], f"tags.`{RUN_KEY_TAG}` = '{key}'", max_results=1)
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
    found = client.search_model_versions(f"tags.`{WEIGHTS_TAG}` = '{weights}'", max_results=1)
    if not found or not found[0].run_id:
        return None
    run = client.get_run(found[0].run_id)
    return run if run.info.lifecycle_stage == "active" else None


def _fetch(root: Path, images: MadeImages, run: RunRecord) -> None:
    """Record a batch of another machine, if it is what its name says."""
    with tempfile.TemporaryDirectory() as folder, refusals(tracking_uri(root)):
        uri = f"runs:/{run.run_id}/{FILE_NAME}"
        got = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
        try:
            content = read_json(Path(got))
            entries = [dict(entry) for entry in content["images"]]
            batch = new_batch(content["made_at"], dict(content["made_with"]), entries)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{FILE_NAME} of run {run.run_id} is damaged: {error}") from error
    if batch.batch_id != run.tags.get(BATCH_TAG):
        log.warning("%s of run %s was altered; it is left out", FILE_NAME, run.run_id)
        return
    images.add(batch, entries)
