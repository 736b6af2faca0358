"""The lineage as MLflow shows it: the same tags on the run, the logged model and the version."""

from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, RunTag

from vivero.config.environment import tracking_uri
from vivero.registry.lineage_records import RUN_TAG_PREFIX, VERSION_TAG_PREFIX
from vivero.registry.versions import ModelVersion
from vivero.tracking.runs import MAX_DIGEST_LETTERS, MAX_TAG_LETTERS, find_run
from vivero.tracking.store import open_client, refusals

VERSION_TAG, DATA_TAG = "vivero.version", "vivero.data_name"


def tag_everywhere(
    root: Path, version: ModelVersion, run_id: str, lineage: dict[str, Any], data_name: str
) -> None:
    """Write a version's lineage where a person looks for it; asked again it changes nothing.

    On the training's run, the logged model and the version as tags; on the run of the registration
    as its input: the data set, whose digest is DVC's md5. Also mends what an older program left
    out.

    Args:
        root: Top of the repository.
        version: What was registered.
        run_id: Run of its training.
        lineage: Of its bundle.
        data_name: Name of the data set.

    Raises:
        TrackingError: When MLflow does not answer or refuses.
    """
    known = {key: str(v)[:MAX_TAG_LETTERS] for key, v in lineage.items() if v is not None}
    of_run = {f"{RUN_TAG_PREFIX}{key}": value for key, value in known.items()}
    client = open_client(root)
    with refusals(tracking_uri(root)):
        named = {**of_run, VERSION_TAG: f"{version.name}/{version.version}", DATA_TAG: data_name}
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in named.items()])
        model_id = version.source.removeprefix("models:/")
        client.set_logged_model_tags(model_id, named)
        for key, value in known.items():
            tag = f"{VERSION_TAG_PREFIX}{key}"
            if version.tags.get(tag) != value:
                client.set_model_version_tag(version.name, version.version, tag, value)
        _log_dataset(client, run_id, version, str(lineage.get("data_digest")), data_name)


def _log_dataset(
    client: Any, run_id: str, version: ModelVersion, digest: str, data_name: str
) -> None:
    """The data set is an input of the registration's run too, not of the training's alone."""
    experiment = client.get_run(run_id).info.experiment_id
    child_id = find_run(client, experiment, version.register_run_key)
    if child_id is None or client.get_run(child_id).inputs.dataset_inputs:
        return
    dataset = Dataset(data_name, digest[:MAX_DIGEST_LETTERS], "dvc", "data.dvc")
    inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
    client.log_inputs(child_id, datasets=inputs)
