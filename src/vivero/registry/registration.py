"""Putting a model into the MLflow registry, once for the same weights and sampling.

A version is a pyfunc model from code (no pickle) whose artifacts are the bundle, the report it was
judged by, and the sample of real images that drift is measured against. It is signed once its
number is known; until then it is refused everywhere, and the next `register` signs it.
"""

import importlib.metadata
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # at import MLflow warns of its own type hints
    import mlflow.pyfunc
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from vivero.config.environment import tracking_uri
from vivero.errors import BundleError, SignatureNeededError
from vivero.files import sha256_of_file
from vivero.registry.bundle import Bundle, Identity, load_bundle
from vivero.registry.report_record import read_report_record
from vivero.registry.signed_uploads import add_signed_report, add_signed_verdict, sign_version
from vivero.registry.verdict_record import read_verdict, require_verdict_on
from vivero.registry.versions import (
    CHAMPION,
    SAMPLING_TAG,
    WEIGHTS_TAG,
    ModelVersion,
    download,
    find_number,
    identity_of,
    list_versions,
    register_run_key,
    report_tag,
)
from vivero.tracking.runs import RUN_KEY_TAG, find_run
from vivero.tracking.store import open_client, quoted, refusals, store_lock

SERVED_MODEL_PATH = Path(__file__).with_name("served_model.py")
MODEL_NAME = "vivero"  # of the files in MLflow; the registered model has its own
MAX_TAG_LETTERS = 4000
MAX_DESCRIPTION_LETTERS = 5000  # what MLflow's database keeps; sqlite alone keeps more
SAID_BY_ABSENT = "RESOURCE_DOES_NOT_EXIST"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """What is to be registered.

    Attributes:
        bundle_dir: The bundle.
        metrics_path: Its report, evaluate's metrics.json.
        drift_reference_path: Real images' features for drift; may be absent.
        verdict_path: The gate's verdict on this model and report, verdict.json.
        card_path: The model card with its figures, MODEL_CARD.md.
        run_id: The training's MLflow run.
        model_id: The LoggedModel that the training announced; None to make one.
        per_image_path: The figures of each image, for paired comparisons; may be absent.
    """

    bundle_dir: Path
    metrics_path: Path
    drift_reference_path: Path
    verdict_path: Path
    card_path: Path
    run_id: str
    model_id: str | None
    per_image_path: Path | None = None

    @property
    def report_files(self) -> list[Path]:
        """The report and what belongs to it."""
        optional = [path for path in [self.per_image_path] if path is not None and path.exists()]
        return [self.metrics_path, *optional]

    @property
    def files(self) -> list[Path]:
        """Files and folders of the version; each keeps its name."""
        optional = [path for path in [self.drift_reference_path] if path.exists()]
        return [self.bundle_dir, self.card_path, self.verdict_path, *self.report_files, *optional]


def register_version(root: Path, name: str, candidate: Candidate) -> tuple[ModelVersion, bool]:
    """Make a model version of the candidate, or find the one of its identity.

    Returns:
        The version, and whether it is new.

    Raises:
        TrackingError: When MLflow cannot be reached or refuses.
        BundleError: When the bundle is damaged.
        DataError: When the report cannot be used, or the verdict is about another model or report.
    """
    bundle = load_bundle(candidate.bundle_dir)
    read_report_record(candidate.metrics_path)
    verdict = read_verdict(candidate.verdict_path)
    require_verdict_on(verdict, bundle.identity, candidate.metrics_path)
    client = open_client(root)
    with refusals(tracking_uri(root)), store_lock(root):
        version = _one_version(client, root, name, bundle.identity)
        is_new = version is None
        if version is None:
            version = _make_version(client, root, name, candidate, bundle)
        _complete(client, root, version, candidate)
        version = find_number(root, name, version.version)  # with the signature that it has now
        if not is_new:
            _update_evidence(root, client, version, candidate)
    return find_number(root, name, version.version), is_new


def _one_version(client: Any, root: Path, name: str, identity: Identity) -> ModelVersion | None:
    """The version of this identity; of two that were made at once the later is removed."""
    same = [v for v in list_versions(root, name) if _is_of(root, v, identity)]
    for late in same[1:]:
        if not late.aliases:
            try:
                client.delete_model_version(name, late.version)
            except MlflowException as error:
                if error.error_code != SAID_BY_ABSENT:  # else its maker was quicker
                    raise
    return same[0] if same else None


def _is_of(root: Path, version: ModelVersion, identity: Identity) -> bool:
    if version.weights_sha256 != identity.weights_sha256:
        return False
    try:
        return identity_of(root, version) == identity
    except BundleError as error:
        log.warning("version %s is left alone: %s", version.version, error)
        return False


def _make_version(
    client: Any, root: Path, name: str, candidate: Candidate, bundle: Bundle
) -> ModelVersion:
    """A version that is not signed yet."""
    if not client.search_registered_models(filter_string=f"name = {quoted(name)}"):
        _make_model(client, name)
    model_id = _log_model(client, candidate, bundle)
    protocol_hash = read_report_record(candidate.metrics_path).protocol.hash
    tags = {
        **_tags(candidate, bundle.identity, bundle.lineage.values()),
        report_tag(protocol_hash): sha256_of_file(candidate.metrics_path),
    }
    client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=candidate.run_id,
        tags=tags,
        description=_shortened(candidate.card_path.read_text(encoding="utf-8")),
        model_id=model_id,
    )
    made = _one_version(client, root, name, bundle.identity)
    assert made is not None, "it was just made"  # noqa: S101
    return made


def _make_model(client: Any, name: str) -> None:
    try:
        client.create_registered_model(name, description="Made by Vivero.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # else another machine was quicker
            raise


def _complete(client: Any, root: Path, version: ModelVersion, candidate: Candidate) -> None:
    """See to it that the store holds the version signed and whole, by fetching it from there.

    Raises:
        BundleError: When it holds something else even after all files were sent again.
    """
    number = version.version
    if _is_whole(root, version):
        return
    for with_files in (False, True):
        sign_version(root, client, version, candidate.files, with_files=with_files)
        if _is_whole(root, find_number(root, version.name, number)):
            return
    download(root, find_number(root, version.name, number))  # raises, with the reason


def _is_whole(root: Path, version: ModelVersion) -> bool:
    if not version.signature_sha256:
        return False
    try:
        download(root, version)
    except BundleError as error:
        log.warning("what MLflow holds is stored again: %s", error)
        return False
    return True


def _log_model(client: Any, candidate: Candidate, bundle: Bundle) -> str:
    """Id of a finished LoggedModel with the candidate's files."""
    run = client.get_run(candidate.run_id).info
    model_id, has_files = _model_to_fill(client, candidate, bundle.identity, run)
    if has_files:  # a kill came before the version was made
        return model_id
    artifacts = {path.stem: str(path) for path in candidate.files}
    metrics = read_report_record(candidate.metrics_path).metrics
    run_key = register_run_key(bundle.identity.weights_sha256, bundle.identity.sampling_sha256)
    child_id = find_run(client, run.experiment_id, run_key)
    if child_id and _made(client, child_id, model_id):
        client.delete_run(child_id)  # killed half-way; MLflow cannot link the two once more
        child_id = None
    child = {} if child_id else {"parent_run_id": run.run_id, "tags": {RUN_KEY_TAG: run_key}}
    with (
        mlflow.start_run(
            run_id=child_id, experiment_id=run.experiment_id, run_name="register", **child
        ),
        warnings.catch_warnings(),
    ):
        # An example would make images now; the check in a clean process does so before promotion.
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        mlflow.pyfunc.log_model(
            name=MODEL_NAME,
            python_model=str(SERVED_MODEL_PATH),
            artifacts=artifacts,
            signature=_signature(bundle),
            pip_requirements=[f"vivero=={importlib.metadata.version('vivero')}"],
            model_id=model_id,
        )
        mlflow.log_metrics(
            {key: metric.value for key, metric in metrics.items()}, model_id=model_id
        )
    client.set_logged_model_tags(model_id, _identity_tags(bundle.identity))
    return model_id


def _made(client: Any, run_id: str, model_id: str) -> bool:
    outputs = client.get_run(run_id).outputs.model_outputs
    return any(output.model_id == model_id for output in outputs)


def _model_to_fill(
    client: Any, candidate: Candidate, identity: Identity, run: Any
) -> tuple[str, bool]:
    """The LoggedModel that the training announced, or a new one; and whether it has its files.

    A training made again with other threads may end in other weights under the same run: the
    files of the first ones stay as they are.
    """
    if candidate.model_id is not None:
        announced = client.get_logged_model(candidate.model_id)
        if _identity_tags(identity).items() <= announced.tags.items():
            return candidate.model_id, True
        if str(announced.status) == "PENDING":
            return candidate.model_id, False
    made = client.create_logged_model(
        run.experiment_id, name=MODEL_NAME, source_run_id=run.run_id, model_type="image-diffusion"
    )
    return str(made.model_id), False


def _signature(bundle: Bundle) -> ModelSignature:
    """What `predict` takes: a table of label and index, and how to sample."""
    defaults = bundle.sampling_defaults
    params = [
        ParamSpec("seed", DataType.long, 0),
        ParamSpec("sampler", DataType.string, defaults["sampler"]),
        ParamSpec("num_steps", DataType.long, defaults["num_steps"]),
        ParamSpec("guidance", DataType.double, float(defaults["guidance"])),
    ]
    columns = [ColSpec(DataType.long, name) for name in ("label", "index")]
    return ModelSignature(inputs=Schema(columns), params=ParamSchema(params))


def _shortened(card: str) -> str:
    """The card as the registry shows and can hold it: no front matter, whole lines only."""
    if card.startswith("---\n"):
        card = card.split("---\n", 2)[2].lstrip("\n")
    if len(card) <= MAX_DESCRIPTION_LETTERS:
        return card
    note = "\n... (the whole card is MODEL_CARD.md among the model's files)"
    return card[: MAX_DESCRIPTION_LETTERS - len(note)].rpartition("\n")[0] + note


def _update_evidence(root: Path, client: Any, version: ModelVersion, candidate: Candidate) -> None:
    """Store a new report and verdict; where another process signs, both are asked for at once.

    The last verdict counts, but a champion's comparison with itself says nothing new.
    """
    is_champion = CHAMPION in version.aliases
    verdict_files = [] if is_champion else [candidate.verdict_path, candidate.metrics_path]
    waiting = None
    for add, files in (
        (add_signed_report, candidate.report_files),
        (add_signed_verdict, verdict_files),
    ):
        try:
            if files:
                add(root, client, version, files)
        except SignatureNeededError as error:
            waiting = error
    if waiting is not None:
        raise waiting
    for key, value in ({} if is_champion else _verdict_tags(candidate)).items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, version.version, key, value)


def _verdict_tags(candidate: Candidate) -> dict[str, str]:
    """What lists of versions show; a promotion reads the signed verdict.json."""
    verdict = read_verdict(candidate.verdict_path)
    reasons = "; ".join(gate.reason for gate in verdict.gates)
    return {"vivero.verdict": verdict.verdict, "vivero.reasons": reasons[:MAX_TAG_LETTERS]}


def _tags(candidate: Candidate, identity: Identity, lineage: dict[str, Any]) -> dict[str, str]:
    known = {f"vivero.lineage.{key}": str(v) for key, v in lineage.items() if v is not None}
    return {**_identity_tags(identity), **_verdict_tags(candidate), **known}


def _identity_tags(identity: Identity) -> dict[str, str]:
    return {WEIGHTS_TAG: identity.weights_sha256, SAMPLING_TAG: identity.sampling_sha256}
