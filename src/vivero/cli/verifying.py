"""What `vivero verify` does: look at every place, move damage aside, say what is to be done."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from vivero.cli.console import plain_console
from vivero.config.paths import data_dir, project_dir, work_dir
from vivero.integrity.data_folder import DATA
from vivero.integrity.entry import damages_of
from vivero.integrity.hashing import files_below
from vivero.integrity.pipeline import read_pipeline
from vivero.storage.examination import Examined, examine
from vivero.storage.owners import UNKNOWN, owners_of_objects
from vivero.storage.quarantine import quarantine_file, quarantine_object
from vivero.storage.stores import CACHE, Store, has_remote, open_stores

WORKSPACE = "workspace"


@dataclass(frozen=True)
class Found:
    """One damaged file or object.

    Attributes:
        place: "workspace", "cache" or the remote's name.
        name: Path from the top of the repository, or the object's name.
        belongs_to: The tracked file.
        expected: What its bytes should be.
        found: What they are.
        moved_to: Its quarantine; None = it was left where it is.
    """

    place: str
    name: str
    belongs_to: str
    expected: str
    found: str
    moved_to: str | None = None


@dataclass(frozen=True)
class Place:
    """What was looked at in one place, how long that took, and what is wrong there.

    Attributes:
        name: "workspace", "cache" or the remote's name.
        num_files: Files or objects that were read.
        num_bytes: Of all of them.
        seconds: That this took.
        damaged: Those that are not what they should be.
        missing: Tracked paths, or objects, that are not there.
        sent: Objects that the remote was given from the cache.
    """

    name: str
    num_files: int
    num_bytes: int
    seconds: float
    damaged: list[Found] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Mending:
    """Where damage is moved to; folder None = it is left."""

    folder: Path | None
    stamp: str


def verify_all(*, with_remote: bool, mend: bool, as_json: bool) -> int:
    """Look everywhere and print what was found; returns 1 when something is damaged, else 0.

    Raises:
        ConfigError: When there is no DVC here, or no remote.
        RemoteError: When the remote cannot be read.
    """
    root = project_dir()
    stamp = time.strftime("%Y%m%dT%H%M%S")
    mending = Mending(work_dir(root) / "quarantine" / stamp if mend else None, stamp)
    places = [_workspace(root, mending)]
    with open_stores(root, with_remote=with_remote) as stores:
        owners = owners_of_objects(root, stores)
        places += [_store(store, owners, mending) for store in stores]
        if mend and with_remote:
            places[-1] = _filled(places[-1], stores, places[1])
    damaged = [found for place in places for found in place.damaged]
    if as_json:
        report = {"ok": not damaged, "places": [asdict(place) for place in places]}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        _print(places, _advice(root, damaged, is_moved=mend))
    return int(bool(damaged))


def _workspace(root: Path, mending: Mending) -> Place:
    started_at = time.monotonic()
    pipeline = read_pipeline(root)
    here = [path for path in pipeline.locked if (root / path).exists()]
    missing = [path for path in pipeline.locked if not (root / path).exists()]
    has_data = any(data_dir(root).glob("*.parquet"))
    inputs = ((DATA,) if has_data else ()) + tuple(here)
    damages = damages_of(root, inputs, pipeline)
    sizes = [file.stat().st_size for path in inputs for file in files_below(root / path).values()]
    found = [Found(WORKSPACE, d.path, d.path, d.expected, d.found) for d in damages]
    if mending.folder is not None:
        found = [_moved_from_here(root, damage, mending.folder) for damage in found]
    missing += [] if has_data else [DATA]
    seconds = time.monotonic() - started_at
    return Place(WORKSPACE, len(sizes), sum(sizes), seconds, found, missing)


def _moved_from_here(root: Path, damage: Found, folder: Path) -> Found:
    if not (root / damage.name).exists():
        return damage
    target = quarantine_file(root / damage.name, folder, damage.name)
    return Found(**{**asdict(damage), "moved_to": str(target)})


def _store(store: Store, owners: Mapping[str, str], mending: Mending) -> Place:
    started_at = time.monotonic()
    oids = store.objects()
    seen = list(_with_bar(store, oids))
    damaged = [
        Found(store.name, one.oid, owners.get(one.oid, UNKNOWN), f"md5 {one.oid}", one.problem)
        for one in seen
        if one.problem is not None
    ]
    if mending.folder is not None:
        damaged = [_moved_from_store(store, damage, mending) for damage in damaged]
    missing = sorted(owners.keys() - set(oids))
    seconds = time.monotonic() - started_at
    return Place(
        store.name, len(seen), sum(one.num_bytes for one in seen), seconds, damaged, missing
    )


def _moved_from_store(store: Store, damage: Found, mending: Mending) -> Found:
    folder = mending.folder or Path()
    target = quarantine_object(store, damage.name, folder, mending.stamp)
    return Found(**{**asdict(damage), "moved_to": target})


def _filled(place: Place, stores: list[Store], cached: Place) -> Place:
    """Send the remote what it lacks now and the cache has whole."""
    cache, remote = stores
    bad = {found.name for found in cached.damaged}
    lacking = {*place.missing, *(found.name for found in place.damaged)} - bad
    sent = sorted(lacking & set(cache.objects()))
    for oid in tqdm(sent, "sending", unit="object", disable=None):
        remote.receive(oid, cache)
    return replace(place, sent=sent, missing=sorted(set(place.missing) - set(sent)))


def _with_bar(store: Store, oids: list[str]) -> Iterator[Examined]:
    examined = examine(store, oids)
    yield from tqdm(examined, store.name, len(oids), unit="object", disable=None)


def _advice(root: Path, damaged: list[Found], *, is_moved: bool) -> list[str]:
    """What to do now, command by command."""
    if not damaged:
        return []
    is_here = any(found.place in (WORKSPACE, CACHE) for found in damaged)
    is_there = any(found.place not in (WORKSPACE, CACHE) for found in damaged)
    if not is_moved:
        option = " --remote" if is_there else ""
        return [f"vivero verify{option} --mend  moves what is damaged to a quarantine"]
    lines = []
    if is_there:
        lines.append(
            "the remote has got what this cache holds whole; where it still lacks something,"
        )
        lines.append("vivero verify --remote --mend  on the machine that has it")
    if is_here and has_remote(root):
        lines.append("dvc pull                 downloads good copies from the remote")
    if is_here:
        lines += [
            "dvc checkout --force     takes good copies from the cache, where it is undamaged",
            "vivero data fetch        downloads the built-in data again, where nothing else has it",
            "vivero run               makes artifacts again, where nothing else has them",
        ]
    return [*lines, "vivero verify            says whether all is well then"]


def _print(places: list[Place], advice: list[str]) -> None:
    console = plain_console()
    table = Table("where", "files", "MB", "seconds", "damaged", "not there", title="vivero verify")
    for column in table.columns[1:]:
        column.justify = "right"
    for place in places:
        num_damaged = len(place.damaged)
        colour = "red" if num_damaged else "green"
        table.add_row(
            place.name,
            f"{place.num_files:,}",
            f"{place.num_bytes / 1e6:,.1f}",
            f"{place.seconds:.1f}",
            Text(str(num_damaged), style=colour),
            str(len(place.missing)),
        )
    console.print(table)
    for place in places:
        if place.sent:
            console.print(f"{len(place.sent)} objects of the cache sent to {place.name}")
    for found in (found for place in places for found in place.damaged):
        console.print(_lines_of(found), highlight=False, markup=False, soft_wrap=True)
    if advice:
        console.print("What to do:", *(f"  {line}" for line in advice), sep="\n", markup=False)
    elif any(place.num_files for place in places):
        console.print("Every byte that is here is what was made.")
    else:
        console.print("Nothing is here yet: `vivero run` makes it, `dvc pull` downloads it.")


def _lines_of(found: Found) -> str:
    lines = [f"DAMAGED in {found.place}: {found.name}"]
    if found.belongs_to != found.name:
        lines.append(f"  belongs to  {found.belongs_to}")
    lines += [f"  expected    {found.expected}", f"  found       {found.found}"]
    if found.moved_to is not None:
        lines.append(f"  moved to    {found.moved_to}")
    return "\n".join(lines)
