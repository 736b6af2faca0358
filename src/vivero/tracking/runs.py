"""Finds or makes the MLflow run of a run_key, with its settings, lineage, data set and model."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Param,
    RunTag,
    ViewType,
)

from vivero.tracking.store import experiment_id, quoted
from vivero.tracking.tracker import RunSpec

RUN_KEY_TAG = "vivero.run_key"
PARENT_TAG = "mlflow.parentRunId"
MAX_DIGEST_LETTERS = 36
MAX_PARAM_LETTERS = 6000
MAX_TAG_LETTERS = 8000
PARAMS_PER_CALL = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenRun:
    """A run that exists in MLflow.

    Attributes:
        run_id: MLflow's name of it.
        model_id: MLflow's name of the model that the run makes; None when it makes none.
        metric_keys: Names of the metrics that it already holds.
    """

    run_id: str
    model_id: str | None
    metric_keys: tuple[str, ...]


def open_run(client: Any, root: Path, spec: RunSpec, started_at_ms: int) -> OpenRun:
    """The run of spec.run_key, made when it is missing, brought to what spec says."""
    experiment = experiment_id(client, root, spec.experiment)
    run_id = find_run(client, experiment, spec.run_key)
    tags = {**spec.tags, RUN_KEY_TAG: spec.run_key}
    if spec.parent_run_key is not None:
        parent_id = find_run(client, experiment, spec.parent_run_key)
        if parent_id is not None:
            tags[PARENT_TAG] = parent_id
    tags = {name: value[:MAX_TAG_LETTERS] for name, value in tags.items()}
    if run_id is None:
        run = client.create_run(
            experiment, start_time=started_at_ms, tags=tags, run_name=spec.run_name
        )
        run_id = run.info.run_id
    else:
        client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        run = client.get_run(run_id)
    _log_params(client, run, spec)
    _log_dataset(client, run, spec)
    model_id = _open_model(client, experiment, run_id, spec) if spec.model_name else None
    return OpenRun(run_id, model_id, tuple(run.data.metrics))


def find_run(client: Any, experiment: str, run_key: str) -> str | None:
    """Id of the oldest run with this run_key that nobody deleted; None when there is none."""
    runs = client.search_runs(
        [experiment],
        f"tags.`{RUN_KEY_TAG}` = {quoted(run_key)}",
        run_view_type=ViewType.ACTIVE_ONLY,
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    return str(runs[0].info.run_id) if runs else None


def find_model(client: Any, experiment: str, run_id: str) -> Any | None:
    """The oldest LoggedModel that this run made; None when there is none."""
    models = client.search_logged_models(
        [experiment],
        filter_string=f"source_run_id = {quoted(run_id)}",
        order_by=[{"field_name": "creation_timestamp", "ascending": True}],
        max_results=1,
    )
    return models[0] if models else None


def _log_params(client: Any, run: Any, spec: RunSpec) -> None:
    """Params of a run never change in MLflow: only the missing ones are sent."""
    recorded = run.data.params
    wanted = {name: value[:MAX_PARAM_LETTERS] for name, value in spec.params.items()}
    changed = {n: v for n, v in wanted.items() if n in recorded and recorded[n] != v}
    if changed:
        log.warning("run %s keeps its first values of %s", spec.run_name, ", ".join(changed))
    missing = [Param(name, value) for name, value in wanted.items() if name not in recorded]
    for begin in range(0, len(missing), PARAMS_PER_CALL):
        client.log_batch(run.info.run_id, params=missing[begin : begin + PARAMS_PER_CALL])


def _log_dataset(client: Any, run: Any, spec: RunSpec) -> None:
    if spec.dataset is None or run.inputs.dataset_inputs:
        return
    dataset = Dataset(
        name=spec.dataset.name,
        digest=spec.dataset.digest[:MAX_DIGEST_LETTERS],
        source_type="dvc",
        source=spec.dataset.source,
    )
    tag = InputTag("mlflow.data.context", "training")
    client.log_inputs(run.info.run_id, datasets=[DatasetInput(dataset, [tag])])


def _open_model(client: Any, experiment: str, run_id: str, spec: RunSpec) -> str:
    """Id of the run's LoggedModel, PENDING until `register` has put the files into it."""
    model = find_model(client, experiment, run_id)
    if model is None:
        model = client.create_logged_model(
            experiment,
            name=spec.model_name,
            source_run_id=run_id,
            tags={RUN_KEY_TAG: spec.run_key},
            params={name: value[:MAX_PARAM_LETTERS] for name, value in spec.params.items()},
            model_type="image-diffusion",
        )
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)
