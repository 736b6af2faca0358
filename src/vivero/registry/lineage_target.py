"""What `vivero lineage` was asked about: an image, a bundle, a version, weights, a commit, data."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vivero.errors import BundleError, DataError, TrackingError, ViveroError
from vivero.evaluation.grids import read_provenance
from vivero.registry.bundle import load_bundle
from vivero.registry.git_history import GitHistory
from vivero.registry.image_runs import fetch_batches
from vivero.registry.lineage_records import LineageRecords, VersionRecord
from vivero.registry.made_images import ImageBatch, Key, MadeImage, MadeImages, pixels_sha256
from vivero.registry.versions import bring_here, find_version
from vivero.tracking.lineage import data_digest, digest_in_pointer

FORMS = (
    "name an image file, a bundle folder, models:/NAME@ALIAS, models:/NAME/NUMBER, a commit (7 or "
    "more letters of its hash, HEAD, a branch or a tag), a data version (7 or more letters of the "
    "md5 in data.dvc, or data.dvc itself), or 7 or more letters of the sha256 of weights; "
    "commit:..., data:... and weights:... say which of them is meant"
)
HEX = re.compile(r"([0-9a-f]{7,64})(\.dir)?")
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
        return Target(
            "bundle", text, "weights_sha256", bundle.weights_sha256, bundle.lineage, facts
        )
    if path.is_file():
        return _pointer(path) if path.suffix == ".dvc" else _image(path, sources)
    found = _named(text, sources)
    if not found:
        raise DataError(f"'{text}' does not exist and is nothing known here; {FORMS}")
    if len(found) > 1:
        meanings = ", ".join(sorted(f"{t.what.split()[0]}:{t.value}" for t in found))
        raise DataError(f"'{text}' is ambiguous, it could be: {meanings}; write one of them")
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
    lineage = {**bundle.lineage, "weights_sha256": bundle.weights_sha256}
    other = [
        key
        for key, value in record.lineage.items()
        if key in lineage and str(lineage[key]) != value
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
    """An image by its own record, or else by its pixels."""
    try:
        provenance = read_provenance(path)
    except DataError as error:
        raise DataError(f"{error}; or {FORMS}") from error
    recorded = _recorded(path, sources)
    if provenance is None:
        if not recorded:
            raise DataError(
                f"{path} carries no record of its making, and its pixels are in no record here: "
                f"it is not from `vivero sample` of this repository, or was changed since. "
                f"samples.json beside the original holds the same"
            )
        return _image_target(path, _made_with(recorded[0]), *_from_pixels(recorded))
    lineage = {"weights_sha256": provenance.get("weights_sha256")}
    weights = {made.batch.lineage["weights_sha256"] for made in recorded}
    if not recorded:
        state = "its pixels are in no record here; the record in the file is believed"
    elif lineage["weights_sha256"] in weights:
        state = None
    else:
        state = (
            f"its pixels were recorded with other weights ({', '.join(sorted(weights))[:64]}): "
            f"the record in the file was moved or altered"
        )
    pixels = "as recorded" if recorded and state is None else "not as recorded" if recorded else ""
    return _image_target(path, provenance, pixels or "not recorded", (state,) if state else ())


def _image_target(
    path: Path, record: dict[str, Any], pixels: str, notes: tuple[str, ...]
) -> Target:
    facts = {k: v for k, v in record.items() if k not in ("lineage", "weights_sha256", "images")}
    own = record.get("lineage")
    weights_sha256 = str(record.get("weights_sha256") or "")
    lineage = {**(own if isinstance(own, dict) else {}), "weights_sha256": weights_sha256}
    facts = {"pixels": pixels, **facts}
    return Target("image", str(path), "weights_sha256", weights_sha256, lineage, facts, None, notes)


def _recorded(path: Path, sources: Sources) -> list[MadeImage]:
    return [] if sources.images is None else sources.images.images_with(pixels_sha256(path))


def _made_with(made: MadeImage) -> dict[str, Any]:
    return {**made.batch.made_with, **made.entry}


def _from_pixels(recorded: list[MadeImage]) -> tuple[str, tuple[str, ...]]:
    notes = ["it carries no record of its own; it was found by its pixels"]
    others = {made.batch.lineage["weights_sha256"] for made in recorded[1:]}
    others -= {recorded[0].batch.lineage["weights_sha256"]}
    if others:
        notes.append(f"other weights made the very same pixels: {', '.join(sorted(others))}")
    return "as recorded", tuple(notes)


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
