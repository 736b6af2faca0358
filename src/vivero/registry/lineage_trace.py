"""Where does it come from? The lineage of a model version, a bundle, or an image of `sample`."""

from pathlib import Path
from typing import Any

from vivero.config.environment import tracking_uri
from vivero.errors import BundleError, DataError
from vivero.evaluation.grids import read_provenance
from vivero.registry.bundle import load_bundle
from vivero.registry.versions import bring_here, find_version


def trace(target: str, root: Path | None) -> dict[str, Any]:
    """What made the target: data, code, settings, seed, weights.

    Args:
        target: models:/NAME@ALIAS, models:/NAME/NUMBER, a bundle folder, or an image file.
        root: Top of the repository whose registry is asked; may be None for files.

    Returns:
        Facts by name, nested as they were recorded.

    Raises:
        DataError: When the image carries no record.
        BundleError: When the bundle is damaged or missing.
        TrackingError: When the registry has no such model.
    """
    if target.startswith("models:"):
        return _of_version(target, root)
    path = Path(target)
    if path.is_dir():
        return {"what": "bundle", **_of_bundle(path)}
    if not path.is_file():
        raise DataError(
            f"'{target}' does not exist; name an image, a bundle folder or models:/NAME@ALIAS"
        )
    provenance = read_provenance(path)
    if provenance is None:
        raise DataError(
            f"{target} carries no record of its making: it is not from `vivero sample`, or was "
            f"saved again by a program that drops such records. samples.json beside the original "
            f"holds the same"
        )
    return {"what": "image", **provenance}


def _of_version(uri: str, root: Path | None) -> dict[str, Any]:
    if root is None:
        raise BundleError("a registry address needs a clone of the repository to be run in")
    version = find_version(root, uri)
    folder = bring_here(root, version)
    return {
        "what": "model version",
        "model": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "verdict": version.tags.get("vivero.verdict"),
        "registry": tracking_uri(root).split("@")[-1],
        **_of_bundle(folder / "bundle"),
    }


def _of_bundle(bundle_dir: Path) -> dict[str, Any]:
    bundle = load_bundle(bundle_dir)
    return {"weights_sha256": bundle.weights_sha256, "lineage": dict(bundle.lineage)}
