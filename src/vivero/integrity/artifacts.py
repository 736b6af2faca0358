"""Artifacts against the manifests of their stages, and the manifests against dvc.lock."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from vivero.errors import IntegrityError
from vivero.integrity.damage import MISSING, Damage, in_words
from vivero.integrity.hashing import FileHash, files_below, hashes_of, md5_of_path
from vivero.integrity.manifests import read_manifest
from vivero.integrity.pipeline import MANIFEST, Pipeline

IN_LOCK = "as dvc.lock says"


def damaged_artifacts(root: Path, pipeline: Pipeline, paths: Iterable[str]) -> list[Damage]:
    """Hash files and folders below artifacts/ anew and name those that differ.

    The md5 of a manifest is in dvc.lock, the sha256 of a file in the manifest. What no manifest
    names is held to its own md5 in dvc.lock; what neither knows passes.

    Args:
        root: Top of the repository.
        pipeline: dvc.yaml and dvc.lock.
        paths: Outs, or parts of them, relative to root.
    """
    damages: list[Damage] = []
    manifests: dict[str, dict[str, FileHash]] = {}
    for path in paths:
        folder = "/".join(path.split("/")[:2])
        if folder not in manifests:
            manifests[folder], found = _trusted_manifest(root, pipeline, folder)
            damages += found
        if path != f"{folder}/{MANIFEST}":
            damages += _damaged(root, path, _listed(manifests[folder], folder, path), pipeline)
    return damages


def _trusted_manifest(
    root: Path, pipeline: Pipeline, folder: str
) -> tuple[dict[str, FileHash], list[Damage]]:
    """The hashes of a manifest that is as dvc.lock says; none where it is missing or is not."""
    path = f"{folder}/{MANIFEST}"
    expected_md5 = pipeline.locked.get(path)
    if not (root / path).exists():
        if expected_md5 is None:
            return {}, []
        return {}, [Damage(path, f"md5 {expected_md5}, {IN_LOCK}", MISSING)]
    found_md5 = md5_of_path(root / path)
    if expected_md5 not in (None, found_md5):
        return {}, [Damage(path, f"md5 {expected_md5}, {IN_LOCK}", f"md5 {found_md5}")]
    try:
        return read_manifest(root / path), []
    except IntegrityError as error:
        return {}, [Damage(path, "the manifest of a stage", str(error))]


def _listed(hashes: Mapping[str, FileHash], folder: str, path: str) -> dict[str, FileHash]:
    """Those of a manifest that are the path or lie below it; by path from the top."""
    from_top = {f"{folder}/{name}": hashed for name, hashed in hashes.items()}
    return {
        name: hashed
        for name, hashed in from_top.items()
        if name == path or name.startswith(f"{path}/")
    }


def _damaged(
    root: Path, path: str, listed: Mapping[str, FileHash], pipeline: Pipeline
) -> list[Damage]:
    if listed:
        return differing_files(root, path, listed)
    expected_md5 = pipeline.locked.get(path)
    if expected_md5 is None:
        return []
    found = f"md5 {md5_of_path(root / path)}" if (root / path).exists() else MISSING
    expected = f"md5 {expected_md5}"
    return [] if found == expected else [Damage(path, f"{expected}, {IN_LOCK}", found)]


def differing_files(root: Path, path: str, expected: Mapping[str, FileHash]) -> list[Damage]:
    """The files at or below a path that are not exactly the expected ones.

    Args:
        root: Top of the repository.
        path: A file or folder, relative to root.
        expected: Hashes by path from root.
    """
    files = {
        "/".join(part for part in (path, name) if part): file
        for name, file in files_below(root / path).items()
    }
    hashes = hashes_of(files.values())
    found = {name: hashes[file] for name, file in files.items()}
    return [
        Damage(
            name,
            in_words(expected[name]) if name in expected else "no such file",
            in_words(found[name]) if name in found else MISSING,
        )
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
