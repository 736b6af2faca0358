"""What `vivero lineage` was asked about: an image, a bundle, a version, weights, a commit, data."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vivero.data.made_images import ImageBatch, Key, MadeImage, MadeImages, pixel_hashes_of
from vivero.errors import BundleError, DataError, TrackingError, ViveroError
from vivero.evaluation.grids import read_provenance
from vivero.integrity.records import ImageRecord, read_record, shown
from vivero.registry.bundle import load_bundle
from vivero.registry.git_history import GitHistory
from vivero.registry.image_runs import fetch_batches
from vivero.registry.lineage_records import LineageRecords, VersionRecord
from vivero.registry.versions import bring_here, find_version
from vivero.tracking.lineage import data_digest, digest_in_pointer

FORMS = (
    "name an image file, a bundle folder, models:/NAME@ALIAS, models:/NAME/NUMBER, a commit (7 or "
    "more characters of its hash, HEAD, a branch or a tag), a data version (7 or more characters "
    "of the md5 in data.dvc, or data.dvc itself), or 7 or more characters of the sha256 of "
    "weights; commit:..., data:... and weights:... say which of them is meant"
)
HEX = re.compile(r"([0-9a-f]{7,64})(\.dir)?")
NOT_SHOWN = ("file", "pixels_sha256")  # of an image's entry: the file itself does not hold them
KEYS: dict[str, Key] = {
    "commit": "code_commit",
    "data": "data_digest",
    "weights": "weights_sha256",
}


@dataclass(frozen=True)
class Target:
    """What was asked about, and by which fact of a lineage the rest is found.

    Attributes:
        what: "image", "bundle", "model version", "weights", "commit" or "data version".
        name: How a person calls it.
        key: The fact of a lineage that what belongs to it shares with it.
        value: That fact; empty when it is not known.
        lineage: Its own lineage; empty for a commit, data and weights.
        facts: What else is known of it alone.
        version: Of a model version.
        notes: What a reader must know, such as that something could not be checked.
    """

    what: str
    name: str
    key: Key
    value: str
    lineage: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    version: VersionRecord | None = None
    notes: tuple[str, ...] = ()


class Sources:
    """All that is asked: git, MLflow, the record of images; each may be missing."""

    def __init__(self, root: Path | None) -> None:
        """Connect; an MLflow that does not answer leaves a note, and its facts unknown."""
        self.root = root
        self.git = GitHistory(root)
        self.images = None if root is None else MadeImages(root)
        self.records: LineageRecords | None = None
        self.versions: list[VersionRecord] = []
        self.notes: list[str] = []
        if root is None:
            self.notes.append(
                "this is no clone of the repository: versions, runs, commits and other images "
                "are unknown"
            )
            return
        try:
            self.records = LineageRecords(root)
            self.versions = self.records.versions()
        except TrackingError as error:
            self.records = None
            self.notes.append(f"versions and runs are unknown: {error}")
        else:
            self._fetch_images(root, self.records)
        if not self.git.is_there:
            self.notes.append("there is no git history here: what commits hold is unknown")
        elif self.git.is_shallow:
            self.notes.append("this clone is shallow: older commits are unknown here")

    def _fetch_images(self, root: Path, records: LineageRecords) -> None:
        try:
            fetch_batches(root, records)
        except ViveroError as error:
            self.notes.append(f"images made on other machines are unknown: {error}")


def find_target(text: str, sources: Sources) -> Target:
    """What the text names.

    Raises:
        DataError: When it names nothing or more than one thing; it says what the forms are.
        BundleError: When a bundle is damaged, or no repository is there to ask.
        TrackingError: When there is no such version.
    """
    if text.startswith("models:"):
        return _version(text, sources)
    path = Path(text)
    if path.is_dir():
        bundle = load_bundle(path)
        facts = {"folder": str(path)}
        lineage = {**bundle.lineage.values(), "weights_sha256": bundle.weights_sha256}
        return Target("bundle", text, "weights_sha256", bundle.weights_sha256, lineage, facts)
    if path.is_file():
        return _pointer(path) if path.suffix == ".dvc" else _image(path, sources)
    found = _named(text, sources)
    if not found:
        raise DataError(f"'{shown(text)}' does not exist and is nothing known here; {FORMS}")
    if len(found) > 1:
        meanings = ", ".join(sorted(f"{t.what.split()[0]}:{t.value}" for t in found))
        raise DataError(f"'{shown(text)}' is ambiguous, it could be: {meanings}; write one of them")
    return found[0]


def _version(uri: str, sources: Sources) -> Target:
    if sources.root is None:
        raise BundleError("a registry address needs a clone of the repository to be run in")
    version = find_version(sources.root, uri)
    (record,) = [
        r for r in sources.versions if (r.name, r.version) == (version.name, version.version)
    ]
    facts = {
        "model": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "registered": record.made_at,
        "verdict": record.verdict,
    }
    lineage, notes = _checked_lineage(sources.root, record, version)
    weights_sha256 = str(lineage.get("weights_sha256") or "")
    name = f"models:/{version.name}/{version.version}"
    return Target(
        "model version", name, "weights_sha256", weights_sha256, lineage, facts, record, notes
    )


def _checked_lineage(
    root: Path, record: VersionRecord, version: Any
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The lineage in the bundle, which is checked, or else that of the tags, with a note."""
    if not record.lineage:
        return {}, ("it was not registered by Vivero, or its tags were removed: unknown origin",)
    try:
        bundle = load_bundle(bring_here(root, version) / "bundle")
    except ViveroError as error:
        return dict(record.lineage), (f"its files were not checked, tags are shown: {error}",)
    lineage = {**bundle.lineage.values(), "weights_sha256": bundle.weights_sha256}
    other = [
        key
        for key, value in record.lineage.items()
        if key in lineage and str(lineage[key]) != str(value)
    ]
    if other:
        return lineage, (f"its tags say otherwise than its bundle: {', '.join(sorted(other))}",)
    return lineage, ()


def _pointer(path: Path) -> Target:
    digest = digest_in_pointer(path.read_text(encoding="utf-8", errors="replace"))
    if digest is None:
        raise DataError(f"{path} names no data: expected outs with an md5, as `dvc add` writes it")
    return Target("data version", digest, "data_digest", digest)


def _image(path: Path, sources: Sources) -> Target:
    """An image by the record that is kept of its pixels, or else by the record in its file."""
    try:
        recorded = _recorded(path, sources)
    except DataError as error:
        raise DataError(f"{error}; or {FORMS}") from error
    claimed, problem = _record_in(path)
    if recorded:
        made, facts, notes = _compare(claimed, recorded)
        return _image_target(path, made, facts, (*([problem] if problem else []), *notes))
    if problem:
        raise DataError(f"{path}: {problem}. Its pixels are in no record here; {FORMS}")
    if claimed is None:
        raise DataError(
            f"{path} carries no record of its making, and its pixels are in no record here: "
            f"it is not from `vivero sample` of this repository, or was changed since. "
            f"samples.json beside the original holds the same"
        )
    note = "its pixels are in no record here; the record in the file is believed"
    return _image_target(path, claimed, "not recorded", (note,))


def _record_in(path: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The record in an image's file, None without one, and what is wrong with it."""
    try:
        values = read_provenance(path)
        return None if values is None else read_record(ImageRecord, values).values(), None
    except (DataError, ValueError) as error:
        return None, str(error)


def _image_target(
    path: Path, record: dict[str, Any], pixels: str, notes: tuple[str, ...]
) -> Target:
    facts = {k: v for k, v in record.items() if k not in ("lineage", "weights_sha256", *NOT_SHOWN)}
    weights_sha256 = str(record.get("weights_sha256") or "")
    lineage = {**(record.get("lineage") or {}), "weights_sha256": weights_sha256}
    facts = {"pixels": pixels, **facts}
    return Target("image", str(path), "weights_sha256", weights_sha256, lineage, facts, None, notes)


def _recorded(path: Path, sources: Sources) -> list[MadeImage]:
    return [] if sources.images is None else sources.images.images_with(pixel_hashes_of(path))


def _compare(
    claimed: dict[str, Any] | None, recorded: list[MadeImage]
) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    """The kept record that fits the file best, whether all of it fits, and what does not."""
    kept = [{**made.batch.made_with, **made.entry} for made in recorded]
    if claimed is None:
        return kept[0], "as recorded", (
            "it carries no readable record of its own; it was found by its pixels",
            *_other_weights(kept),
        )  # fmt: skip
    differences = [_differences(claimed, record) for record in kept]
    best = min(range(len(kept)), key=lambda index: len(differences[index]))
    if not differences[best]:
        return kept[best], "as recorded", ()
    note = (
        f"the record in the file was moved or altered; shown is the record kept of these pixels. "
        f"The file differs in {'; '.join(differences[best])}"
    )
    return kept[best], "not as recorded", (note,)


def _differences(claimed: dict[str, Any], kept: dict[str, Any]) -> list[str]:
    """Each field that differs, with what the file and what the record says."""
    ours, theirs = _flat(kept), _flat(claimed)
    return [
        f"{name} (file: {shown(theirs.get(name), 80)}, recorded: {shown(ours.get(name), 80)})"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record, those of its lineage with dotted names."""
    lineage = record.get("lineage") or {}
    own = {name: value for name, value in record.items() if name not in ("lineage", *NOT_SHOWN)}
    return {**own, **{f"lineage.{name}": value for name, value in lineage.items()}}


def _other_weights(kept: list[dict[str, Any]]) -> tuple[str, ...]:
    first, *others = [str(record.get("weights_sha256")) for record in kept]
    names = sorted(set(others) - {first})
    return (f"other weights made the very same pixels: {', '.join(names)}",) if names else ()


def _named(text: str, sources: Sources) -> list[Target]:
    """All that a hash, its beginning or a name in git may mean."""
    kind, _, rest = text.partition(":")
    kinds = [kind] if kind in KEYS and rest else list(KEYS)
    name = rest if kind in KEYS and rest else text
    found = []
    if "commit" in kinds:
        found += [Target("commit", sha, "code_commit", sha) for sha in _commits(name, sources)]
    match = HEX.fullmatch(name)
    if match and "data" in kinds:
        digests = _beginning(match[1], _digests(sources))
        found += [Target("data version", d, "data_digest", d) for d in digests]
    if match and not match[2] and "weights" in kinds:
        weights = _beginning(match[1], _known(sources, "weights_sha256"))
        found += [Target("weights", w, "weights_sha256", w) for w in weights]
    return found


def _commits(name: str, sources: Sources) -> list[str]:
    match = HEX.fullmatch(name)
    known = _beginning(name, _known(sources, "code_commit")) if match else []
    return sorted({*sources.git.commits_named(name), *known})


def _digests(sources: Sources) -> set[str]:
    here = data_digest(sources.root) if sources.root else None
    in_git = set(sources.git.data_digests.values())
    return {*_known(sources, "data_digest"), *in_git, *({here} if here else ())}


def _known(sources: Sources, key: Key) -> set[str]:
    """All values of a fact among the versions and the images recorded here."""
    batches: list[ImageBatch] = [] if sources.images is None else sources.images.batches()
    lineages = [*(v.lineage for v in sources.versions), *(batch.lineage for batch in batches)]
    return {str(lineage[key]) for lineage in lineages if lineage.get(key)}


def _beginning(prefix: str, values: Iterable[str]) -> list[str]:
    return sorted(value for value in values if value.startswith(prefix))
