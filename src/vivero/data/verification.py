"""Compares data/ with data.dvc byte for byte, and names the files that differ."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vivero.errors import DataError

MAX_NAMED = 10


@dataclass(frozen=True)
class Verified:
    """A folder that is as its pointer says. md5: DVC's, over all files."""

    md5: str
    num_files: int
    num_bytes: int


def verify_data(data_dir: Path, pointer_path: Path) -> Verified:
    """Hash every file of data_dir and compare with the pointer that DVC wrote.

    DVC's own hashes are not asked, because it trusts what it believes to have seen before.

    Raises:
        DataError: When something differs; the message names the files where DVC's cache still
            holds the list of what should be there.
    """
    expected = _pointer(pointer_path)
    md5s = {
        path.relative_to(data_dir).as_posix(): _md5_of_file(path)
        for path in sorted(data_dir.rglob("*"))
        if path.is_file()
    }
    md5 = listing_md5(md5s)
    if md5 == expected["md5"]:
        num_bytes = sum((data_dir / name).stat().st_size for name in md5s)
        return Verified(md5, len(md5s), num_bytes)
    differences = _differences(md5s, _cached_listing(pointer_path.parent, expected["md5"]))
    raise DataError(
        f"{data_dir.name}/ is not as {pointer_path.name} says ({md5} instead of "
        f"{expected['md5']}, {len(md5s)} files instead of {expected.get('nfiles', '?')})"
        f"{differences}. If the change was an accident, `vivero data fetch --overwrite` brings the "
        f"data back; if it was meant, `dvc add {data_dir.name}` makes it the new version"
    )


def listing_md5(md5s: dict[str, str]) -> str:
    """DVC's md5 of a folder: over the JSON of the names and md5s of its files, sorted by name."""
    listing = [{"md5": md5s[name], "relpath": name} for name in sorted(md5s, key=_parts)]
    text = json.dumps(listing, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _parts(name: str) -> tuple[str, ...]:
    return tuple(name.split("/"))


def _md5_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _pointer(path: Path) -> dict[str, Any]:
    try:
        document = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        expected: dict[str, Any] = document["outs"][0]
        if str(expected["md5"]).endswith(".dir"):
            return expected
    except (OSError, YAMLError, KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"{path} is not a pointer of DVC to a folder ({error}); run `git checkout {path.name}`"
        ) from error
    raise DataError(f"{path} points to a file and not to a folder; run `dvc add data`")


def _cached_listing(root: Path, md5: str) -> dict[str, str] | None:
    """Names and md5s of what should be there, when DVC's cache has the list."""
    path = root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    try:
        listing = json.loads(path.read_text(encoding="utf-8"))
        return {entry["relpath"]: entry["md5"] for entry in listing}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _differences(found: dict[str, str], expected: dict[str, str] | None) -> str:
    if expected is None:
        return ""
    said = [
        *(f"{name} is missing" for name in sorted(expected.keys() - found.keys())),
        *(f"{name} should not be there" for name in sorted(found.keys() - expected.keys())),
        *(
            f"{name} has changed"
            for name in sorted(found.keys() & expected.keys())
            if found[name] != expected[name]
        ),
    ]
    rest = f", and {len(said) - MAX_NAMED} more" if len(said) > MAX_NAMED else ""
    return ": " + ", ".join(said[:MAX_NAMED]) + rest
