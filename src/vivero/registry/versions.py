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
from vivero.registry.bundle import load_bundle
from vivero.tracking.store import open_client, refusals

CHAMPION, PREVIOUS = "champion", "previous"
URI = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[A-Za-z0-9_.-]+))")
REPORTS_DIR = "reports"
WEIGHTS_TAG = "vivero.weights_sha256"

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
        return self.tags.get(WEIGHTS_TAG, "")


def list_versions(root: Path, name: str) -> list[ModelVersion]:
    """All versions of a registered model, oldest first; none when there is no such model."""
    client = open_client(root)
    with refusals(tracking_uri(root)):
        registered = client.search_registered_models(filter_string=f"name = '{name}'")
        if not registered:
            return []
        aliases: dict[str, list[str]] = {}
        for alias, number in client.get_registered_model(name).aliases.items():
            aliases.setdefault(str(number), []).append(alias)
        found = client.search_model_versions(f"name = '{name}'")
    versions = [
        ModelVersion(
            name=name,
            version=str(item.version),
            aliases=tuple(sorted(aliases.get(str(item.version), []))),
            tags=dict(item.tags),
            source=item.source,
            created_at_ms=item.creation_timestamp,
        )
        for item in found
    ]
    return sorted(versions, key=lambda item: int(item.version))


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
            f"'{uri}' is no model; write models:/NAME@champion, models:/NAME/3, "
            f"or the path of a bundle folder"
        )
    if match["version"]:
        return find_number(root, match["name"], match["version"])
    found = find_alias(root, match["name"], match["alias"])
    if found is None:
        raise TrackingError(
            f"model '{match['name']}' has no alias '{match['alias']}'; "
            f"`vivero models` lists versions and aliases, `vivero run` makes a first champion"
        )
    return found


def bring_here(root: Path, version: ModelVersion) -> Path:
    """The files of a version as a folder in work/models, downloaded once, checked each time.

    Returns:
        Folder with bundle/, metrics.json and, where they were recorded, drift.safetensors and
        reports/.

    Raises:
        BundleError: When what arrived is not what was registered.
    """
    key = version.weights_sha256[:16] or version.version
    folder = work_dir(root) / "models" / f"{version.name}-{key}"
    if folder.exists():
        try:
            _check(folder, version)
        except BundleError as error:
            log.warning("a local copy is damaged and is downloaded again: %s", error)
        else:
            return folder
    return download(root, version, folder)


def download(root: Path, version: ModelVersion, folder: Path) -> Path:
    """The files of a version, fetched anew into folder; what lay there is replaced.

    Raises:
        BundleError: When what arrived is not what was registered.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    open_client(root)  # says clearly when nobody answers
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as part:
        with refusals(tracking_uri(root)):
            uri = f"models:/{version.name}/{version.version}"
            got = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=part))
        _check(got / "artifacts", version)
        if folder.exists():
            folder.rename(Path(part) / "former")
        (got / "artifacts").rename(folder)
    return folder


def _check(folder: Path, version: ModelVersion) -> None:
    """Compare a version's files with the bundle's manifest and with what was registered."""
    found = load_bundle(folder / "bundle").weights_sha256
    if version.weights_sha256 and found != version.weights_sha256:
        raise BundleError(
            f"the weights of {version.name} version {version.version} have sha256 {found[:12]}, "
            f"registered were {version.weights_sha256[:12]}: the stored files were altered. "
            f"Use another version (`vivero models`), and register this model anew"
        )


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


def champion_report(
    root: Path, name: str, protocol_hash: str | None = None
) -> dict[str, Any] | None:
    """A report on the champion; None when there is no champion.

    Args:
        root: Top of the repository.
        name: Registered model.
        protocol_hash: The protocol wanted; without a report under it, and for None, the report
            that came with the champion's registration.

    Raises:
        BundleError: When a report is not the one that was registered.
    """
    champion = find_alias(root, name, CHAMPION)
    if champion is None:
        return None
    folder = bring_here(root, champion)
    path = folder / "metrics.json"
    recorded = champion.tags.get(report_tag(protocol_hash)) if protocol_hash else None
    if protocol_hash and recorded and read_json(path)["protocol"]["hash"] != protocol_hash:
        path = folder / REPORTS_DIR / report_name(protocol_hash)
        if not path.exists():  # it was added after the folder was downloaded
            path = download(root, champion, folder) / REPORTS_DIR / report_name(protocol_hash)
    if recorded and (not path.exists() or sha256_of_file(path) != recorded):
        raise BundleError(
            f"the report {path.name} on {name} version {champion.version} is not the one that was "
            f"registered; delete {folder}, and run the same command again"
        )
    return dict(read_json(path))


def report_tag(protocol_hash: str) -> str:
    """Tag of a version that holds the sha256 of its report under a protocol."""
    return f"vivero.report.{protocol_hash[:12]}"


def report_name(protocol_hash: str) -> str:
    """File, in a version's reports/, of its report under a protocol."""
    return f"{protocol_hash[:12]}.json"


def champion_drift_reference(root: Path, name: str) -> Path | None:
    """The sample that drift is measured against; None when no champion brought one."""
    folder = champion_folder(root, name)
    path = None if folder is None else folder / "drift.safetensors"
    return path if path is not None and path.exists() else None
