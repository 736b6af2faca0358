"""`artifacts/<stage>/manifest.json`: sha256 and size of each file that a stage has made.

Equal outputs make equal manifests, to the byte: what holds times is not in it (pipeline.Stage), so
that a stage which depends on a manifest runs again only when something that it reads has changed.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from vivero.errors import IntegrityError
from vivero.files import read_json, write_json
from vivero.integrity.hashing import FileHash, files_below, hashes_of
from vivero.integrity.pipeline import MANIFEST, Stage


def write_manifest(root: Path, stage: Stage) -> None:
    """Hash what a stage has just made and write its manifest.

    Raises:
        IntegrityError: When it has not made all that dvc.yaml says.
    """
    missing = [out for out in stage.outs if not (root / out).exists()]
    if missing:
        raise IntegrityError(
            f"stage {stage.name} ended without making {', '.join(missing)}, which dvc.yaml names "
            f"as its outputs"
        )
    folder = root / stage.folder
    paths = [path for out in stage.outs for path in files_below(root / out).values()]
    files = {
        path.relative_to(folder).as_posix(): asdict(hashed)
        for path, hashed in sorted(hashes_of(paths).items())
    }
    write_json(folder / MANIFEST, {"stage": stage.name, "files": files})


def read_manifest(path: Path) -> dict[str, FileHash]:
    """The files of a manifest, by name relative to its folder.

    Raises:
        IntegrityError: When it is not a manifest.
    """
    try:
        return parsed_hashes(read_json(path)["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path} is no manifest of a stage ({error!r})") from error


def parsed_hashes(values: Any) -> dict[str, FileHash]:
    """Hashes by file name, as JSON holds them.

    Raises:
        TypeError: When they have another form.
    """
    if not isinstance(values, dict):
        raise TypeError("hashes must be given by file name")
    hashes = {str(name): FileHash(**fields) for name, fields in values.items()}
    if not all(isinstance(h.sha256, str) and isinstance(h.num_bytes, int) for h in hashes.values()):
        raise TypeError("a hash must have a sha256 and a num_bytes")
    return hashes
