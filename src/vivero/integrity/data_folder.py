"""data/ against its pointer data.dvc, which git holds, and its shards against data/card.json."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vivero.errors import DataError
from vivero.files import read_json
from vivero.integrity.artifacts import differing_files
from vivero.integrity.damage import MAX_NAMED, MISSING, Damage
from vivero.integrity.hashing import (
    FileHash,
    files_below,
    hashes_of,
    listing_md5,
    md5_of_file,
    md5_of_path,
)
from vivero.integrity.manifests import parsed_hashes
from vivero.integrity.records import OBJECT_NAME, shown

CARD, SHARDS = "card.json", "shards"
DATA, POINTER = "data", "data.dvc"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verified:
    """A folder that is as its pointer says. md5: DVC's, over all files."""

    md5: str
    num_files: int
    num_bytes: int


def hashes_of_shards(data_dir: Path) -> dict[str, FileHash]:
    """What `data/card.json` says of the shards, by file name."""
    paths = sorted(path for path in data_dir.glob("*-of-*.parquet"))
    return {path.name: hashed for path, hashed in hashes_of(paths).items()}


def damaged_data(root: Path) -> list[Damage]:
    """Hash data/ anew; name the shards that are not as card.json says, or what data.dvc tells.

    DVC takes a changed data/ for a new version and writes a new data.dvc before the first stage, so
    the hashes in the card are what finds a damaged shard; the pointer finds a damaged card. A card
    of another tool names no hashes: then the pointer alone is asked.
    """
    data_dir, pointer_path = root / DATA, root / POINTER
    if not data_dir.is_dir():
        return [Damage(DATA, "the folder of the images", MISSING)]
    damages = _differing_shards(root)
    if damages or not pointer_path.exists():
        return damages
    expected = _pointer(pointer_path)["md5"]
    found = md5_of_path(data_dir)
    if found == expected:
        return []
    named = _differences(_md5s(data_dir), _cached_listing(root, expected))
    return [Damage(DATA, f"md5 {expected}, as data.dvc says", f"md5 {found}{named}")]


def _differing_shards(root: Path) -> list[Damage]:
    try:
        expected = parsed_hashes(read_json(root / DATA / CARD)[SHARDS])
    except KeyError:
        log.info("data/card.json holds no sha256 of the shards (made by another tool): md5 only")
        return []
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return [Damage(f"{DATA}/{CARD}", "the card of a data set", str(error))]
    shards = {path.name for path in (root / DATA).glob("*-of-*.parquet")}
    return [
        damage
        for name in sorted(shards | expected.keys())
        for damage in differing_files(
            root,
            f"{DATA}/{name}",
            {f"{DATA}/{name}": expected[name]} if name in expected else {},
        )
    ]


def verify_data(data_dir: Path, pointer_path: Path) -> Verified:
    """Hash every file of data_dir and compare with the pointer that DVC wrote.

    DVC's own hashes are not asked, because it trusts what it believes to have seen before.

    Raises:
        DataError: When something differs; the message names the files where DVC's cache still
            holds the list of what should be there.
    """
    expected = _pointer(pointer_path)
    md5s = _md5s(data_dir)
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


def _md5s(data_dir: Path) -> dict[str, str]:
    return {name: md5_of_file(path) for name, path in files_below(data_dir).items()}


def _pointer(path: Path) -> dict[str, Any]:
    try:
        document = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        expected: dict[str, Any] = document["outs"][0]
        md5 = str(expected["md5"])
    except (OSError, YAMLError, KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"{path} is not a pointer of DVC to a folder ({error}); run `git checkout {path.name}`"
        ) from error
    if not OBJECT_NAME.fullmatch(md5):  # it becomes part of a path in DVC's cache
        raise DataError(
            f"{path}: unreadable record: its md5 is {shown(md5)!r}; expected hex digits. Run "
            f"`git checkout {path.name}`"
        )
    if md5.endswith(".dir"):
        return expected
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
