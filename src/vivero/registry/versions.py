"""Model versions in the MLflow registry: found by name, brought here, checked."""

import logging
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow

from vivero.config.environment import tracking_uri
from vivero.config.paths import work_dir
from vivero.errors import BundleError, TrackingError
from vivero.files import read_json, sha256_of_file
from vivero.integrity.records import (
    ALIAS,
    MODEL_NAME,
    SHA256,
    UNREADABLE,
    VERSION_NUMBER,
    shown,
)
from vivero.registry.bundle import Identity, check_manifest, read_identity, weights_sha256_of
from vivero.registry.keys import trusted_keys
from vivero.registry.signatures import (
    REPORTS_DIR,
    SIGNATURE_NAME,
    check_record,
    new_record,
    verify_folder,
)
from vivero.tracking.store import open_client, quoted, refusals

CHAMPION, PREVIOUS = "champion", "previous"
NAME, NUMBER = re.compile(MODEL_NAME), re.compile(VERSION_NUMBER)
MODEL_ID = re.compile(r"m-[0-9a-f]{32}")
URI = re.compile(
    rf"models:/(?P<name>{MODEL_NAME})(?:/(?P<version>{VERSION_NUMBER})|@(?P<alias>{ALIAS}))"
)
WEIGHTS_TAG, SAMPLING_TAG = "vivero.weights_sha256", "vivero.sampling_sha256"
SIGNATURE_TAG = "vivero.signature_sha256"
RECORDED_TAG = "vivero.recorded"  # the champion's distance on images that no judgement used

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model.

    Attributes:
        name: Registered model.
        version: Its number, as text: stores differ in the type.
        aliases: Such as champion, previous.
        tags: What was recorded of it.
        source: Address of its files.
        created_at_ms: Milliseconds since 1970.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    source: str
    created_at_ms: int

    @property
    def weights_sha256(self) -> str:
        """Hash of the weights file; empty for versions that others made."""
        return self._hash(WEIGHTS_TAG)

    @property
    def sampling_sha256(self) -> str:
        """Hash of the settings of sampling; empty for versions of before they had a tag."""
        return self._hash(SAMPLING_TAG)

    @property
    def register_run_key(self) -> str:
        """Key of the MLflow run that registered the version."""
        return register_run_key(self.weights_sha256, self.sampling_sha256)

    @property
    def signature_sha256(self) -> str:
        """Hash of the signature's file; empty for a version that is not signed."""
        return self._hash(SIGNATURE_TAG)

    @property
    def model_id(self) -> str:
        """The LoggedModel that holds the files.

        Raises:
            TrackingError: When the registry names none.
        """
        model_id = self.source.removeprefix("models:/")
        if not MODEL_ID.fullmatch(model_id):
            raise TrackingError(
                f"{UNREADABLE}: the source of {self.name} version {self.version} is "
                f"{shown(self.source)!r}; expected models:/m- and 32 hex digits. Vivero did not "
                f"register this version; use another one (`vivero models`)"
            )
        return model_id

    def _hash(self, tag: str) -> str:
        """The sha256 in a tag; empty when the tag is missing or holds something else."""
        value = self.tags.get(tag, "")
        return value if SHA256.fullmatch(value) else ""


def register_run_key(weights_sha256: str, sampling_sha256: str) -> str:
    """Key of the MLflow run that registers a model; sampling is empty for older versions."""
    return "-".join(filter(None, ("register", weights_sha256, sampling_sha256[:12])))


def identity_of(root: Path, version: ModelVersion) -> Identity:
    """Weights and sampling of a version; where it has no tag, read from its verified bundle.

    Raises:
        BundleError: When the bundle had to be read, and is not signed or was altered.
    """
    if version.sampling_sha256:
        return Identity(version.weights_sha256, version.sampling_sha256)
    return read_identity(bring_here(root, version) / "bundle")


def list_versions(root: Path, name: str) -> list[ModelVersion]:
    """All versions of a registered model, oldest first; none when there is no such model.

    Raises:
        TrackingError: When name is no name of a model, or MLflow does not answer.
    """
    require_model_name(name)
    client = open_client(root)
    with refusals(tracking_uri(root)):
        registered = client.search_registered_models(filter_string=f"name = {quoted(name)}")
        if not registered:
            return []
        aliases: dict[str, list[str]] = {}
        for alias, number in client.get_registered_model(name).aliases.items():
            aliases.setdefault(str(number), []).append(alias)
        found = client.search_model_versions(f"name = {quoted(name)}")
    versions = [
        ModelVersion(
            name=name,
            version=version_number(item),
            aliases=tuple(sorted(aliases.get(str(item.version), []))),
            tags=dict(item.tags),
            source=item.source,
            created_at_ms=item.creation_timestamp,
        )
        for item in found
    ]
    return sorted(versions, key=lambda item: int(item.version))


def version_number(item: Any) -> str:
    """The number of a version as the registry has it: it becomes part of paths and addresses.

    Raises:
        TrackingError: When it is no number.
    """
    number = str(item.version)
    if not NUMBER.fullmatch(number):
        raise TrackingError(
            f"{UNREADABLE}: MLflow names version {shown(number)!r} of {shown(item.name)!r}; "
            f"expected a whole number. Check the server with `vivero doctor`"
        )
    return number


def require_model_name(name: str) -> None:
    """Refuse a name that a filter of MLflow or a path could read as something else.

    Raises:
        TrackingError: When it has other characters than a model's name.
    """
    if not NAME.fullmatch(name):
        raise TrackingError(
            f"{shown(name)!r} is no name of a model; expected letters, digits and . _ - "
            f"(`vivero models` lists what is registered)"
        )


def find_alias(root: Path, name: str, alias: str) -> ModelVersion | None:
    """The version that an alias names; None when there is none."""
    return next((v for v in list_versions(root, name) if alias in v.aliases), None)


def find_number(root: Path, name: str, number: str) -> ModelVersion:
    """The version of this number.

    Raises:
        TrackingError: When there is none; it says which there are.
    """
    versions = list_versions(root, name)
    for version in versions:
        if version.version == number:
            return version
    known = ", ".join(version.version for version in versions) or "none"
    raise TrackingError(
        f"model '{name}' has no version {number} (there are: {known}); "
        f"`vivero models` lists them, `vivero run` makes one"
    )


def find_version(root: Path, uri: str) -> ModelVersion:
    """The version that models:/NAME/NUMBER or models:/NAME@ALIAS names.

    Raises:
        TrackingError: When there is none.
    """
    match = URI.fullmatch(uri)
    if not match:
        raise TrackingError(
            f"'{shown(uri)}' is no model; write models:/NAME@champion, models:/NAME/3, "
            f"or the path of a bundle folder. NAME has letters, digits and . _ -"
        )
    if match["version"]:
        return find_number(root, match["name"], match["version"])
    versions = list_versions(root, match["name"])
    found = next((version for version in versions if match["alias"] in version.aliases), None)
    if found is None:
        known = ", ".join(alias for version in versions for alias in version.aliases) or "none"
        raise TrackingError(
            f"model '{match['name']}' has no alias '{match['alias']}' (there are: {known}); "
            f"`vivero models` lists versions and aliases, `vivero run` makes a first champion"
        )
    return found


def bring_here(root: Path, version: ModelVersion) -> Path:
    """The files of a version as a folder in work/models, downloaded once, verified each time.

    Returns:
        Folder with bundle/, metrics.json and, where they were recorded, drift.safetensors and
        reports/. Nobody else may write there, so what was verified is what is loaded.

    Raises:
        BundleError: When what arrived is not signed, or not what was signed; it names the file.
    """
    if not version.signature_sha256:
        if SIGNATURE_TAG in version.tags:
            raise BundleError(
                f"{UNREADABLE}: the tag {SIGNATURE_TAG} of {version.name} version "
                f"{version.version} is {shown(version.tags[SIGNATURE_TAG])!r}; expected a sha256. "
                f"Run `vivero register` where its artifacts/ are"
            )
        raise BundleError(
            f"{version.name} version {version.version} is not signed, so it is not loaded; run "
            f"`vivero register` where its artifacts/ are, or use another version (`vivero models`)"
        )
    folder = _local_folder(root, version)
    if folder.exists():
        try:
            _check(root, folder, version)
        except BundleError as error:
            log.warning("a local copy is damaged and is downloaded again: %s", error)
        else:
            return folder
    return download(root, version)


def download(root: Path, version: ModelVersion) -> Path:
    """`bring_here`, fetched anew; what lay in work/models is replaced.

    Raises:
        BundleError: When what arrived is not signed, or not what was signed; it names the file.
    """
    folder = _local_folder(root, version)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.parent.chmod(0o700)
    open_client(root)  # says clearly when nobody answers
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as part:
        with refusals(tracking_uri(root)):
            uri = f"models:/{version.name}/{version.version}"
            got = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=part))
        _check(root, got / "artifacts", version)
        if folder.exists():
            folder.rename(Path(part) / "former")
        (got / "artifacts").rename(folder)
    return folder


def _local_folder(root: Path, version: ModelVersion) -> Path:
    key = f"{version.name}-{version.version}-{version.signature_sha256[:16]}"
    return work_dir(root) / "models" / key


def _check(root: Path, folder: Path, version: ModelVersion) -> None:
    """Hold a version's files against their signature, its record and what was registered."""
    try:
        require_signature(folder, version.signature_sha256)
        record = verify_folder(folder, trusted_keys(root))
        check_record(record, new_record(version.name, version.version, version.weights_sha256))
        check_manifest(folder / "bundle")
        _require_weights(folder / "bundle", version.weights_sha256)
        _require_sampling(folder / "bundle", version.sampling_sha256)
    except BundleError as error:
        raise BundleError(
            f"{version.name} version {version.version} is refused: {error}. "
            f"Use another version (`vivero models`), or register this model anew"
        ) from error


def _require_weights(bundle_dir: Path, sha256: str) -> None:
    found = weights_sha256_of(bundle_dir)
    if found != sha256:
        raise BundleError(f"the weights have sha256 {found[:12]}, registered were {sha256[:12]}")


def _require_sampling(bundle_dir: Path, sha256: str) -> None:
    found = read_identity(bundle_dir).sampling_sha256
    if sha256 and found != sha256:
        raise BundleError(
            f"the settings of sampling have sha256 {found[:12]}, registered were {sha256[:12]}"
        )


def require_signature(folder: Path, sha256: str) -> None:
    """Refuse a folder whose signature is another than the registry recorded.

    Raises:
        BundleError: Naming the signature's file.
    """
    path = folder / SIGNATURE_NAME
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{path} is missing, so the files are not signed")
    if sha256_of_file(path) != sha256:
        raise BundleError(f"{path} is not the signature that was registered ({sha256[:12]})")


def resolve_model(model: str, root: Path | None) -> Path:
    """The bundle folder that a user means by a registry address or a path.

    Args:
        model: models:/NAME@ALIAS, models:/NAME/NUMBER, or the path of a bundle folder.
        root: Top of the repository whose registry is asked; may be None for a path.

    Raises:
        BundleError: When there is no such folder, or it is damaged.
        TrackingError: When the registry has no such model or does not answer.
    """
    if not model.startswith("models:"):
        path = Path(model)
        if not path.is_dir():
            raise BundleError(
                f"'{model}' is neither a bundle folder nor models:/NAME@ALIAS; "
                f"`vivero models` lists what is registered"
            )
        return path
    if root is None:
        raise BundleError("a registry address needs a clone of the repository to be run in")
    return bring_here(root, find_version(root, model)) / "bundle"


def champion_folder(root: Path, name: str) -> Path | None:
    """The champion's files (`bring_here`); None when there is no champion."""
    champion = find_alias(root, name, CHAMPION)
    return None if champion is None else bring_here(root, champion)


def report_folder(
    root: Path, version: ModelVersion, protocol_hash: str | None = None
) -> Path | None:
    """The verified folder with a version's metrics.json, and per-image values where there are any.

    Args:
        root: Top of the repository.
        version: Of a registered model.
        protocol_hash: The protocol wanted; None for the report that came with the registration.

    Returns:
        The folder; None where the version has no report under this protocol.

    Raises:
        BundleError: When a report is not the one that was registered.
    """
    folder = bring_here(root, version)
    if protocol_hash is None:
        return folder
    tagged = version.tags.get(report_tag(protocol_hash))
    is_own = read_json(folder / "metrics.json")["protocol"]["hash"] == protocol_hash
    if is_own and tagged in (None, sha256_of_file(folder / "metrics.json")):
        return folder
    return None if tagged is None else _added_report(root, version, folder, protocol_hash)


def _added_report(root: Path, version: ModelVersion, folder: Path, protocol_hash: str) -> Path:
    """The verified folder of a report that was added to a version after its registration.

    The copy here may be older than the report: then the files are downloaded again, once.
    """
    for is_last in (False, True):
        try:
            return _verified_report(root, version, folder, protocol_hash)
        except BundleError as error:
            if is_last:
                raise BundleError(
                    f"a report on {version.name} version {version.version} is not the one that was "
                    f"registered: {error}; run `vivero register` where its artifacts/ are"
                ) from error
            folder = download(root, version)
    raise AssertionError("the last try returns or raises")


def _verified_report(root: Path, version: ModelVersion, folder: Path, protocol_hash: str) -> Path:
    place = folder / REPORTS_DIR / report_name(protocol_hash)
    require_signature(place, version.tags[report_tag(protocol_hash)])
    record = verify_folder(place, trusted_keys(root))
    expected = new_record(version.name, version.version, version.weights_sha256, protocol_hash)
    check_record(record, expected)
    return place


def report_tag(protocol_hash: str) -> str:
    """Tag of a version that holds the sha256 of the signature of a report added to it."""
    return f"vivero.report.{report_name(protocol_hash)}"


def report_name(protocol_hash: str) -> str:
    """Folder, in a version's reports/, of a report that was added under a protocol.

    Raises:
        BundleError: When it is no hash: it becomes part of a path.
    """
    if not SHA256.fullmatch(protocol_hash):
        raise BundleError(
            f"{UNREADABLE}: the hash of the report's protocol is {shown(protocol_hash)!r}; "
            f"expected a sha256. Run `vivero evaluate` again"
        )
    return protocol_hash[:12]


def champion_drift_reference(root: Path, name: str) -> Path | None:
    """The sample that drift is measured against; None when no champion brought one."""
    folder = champion_folder(root, name)
    path = None if folder is None else folder / "drift.safetensors"
    return path if path is not None and path.exists() else None
