"""Lineage, both ways: from an image, a version, a commit or data to all the others.

Every record in the house carries the same facts (`tracking.lineage.Lineage`), so all that belongs
to a target is what shares one of three facts with it: the weights, the commit, the data.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vivero.data.made_images import ImageBatch
from vivero.registry.git_history import Commit
from vivero.registry.image_runs import KIND, KIND_TAG
from vivero.registry.lineage_records import RunRecord, VersionRecord
from vivero.registry.lineage_target import Sources, Target, find_target
from vivero.tracking.lineage import data_digest

SETTLED_FILES = {  # facts of a lineage, and the file whose sha256 they are
    "params_sha256": "params.yaml",
    "requirements_sha256": "requirements.lock",
    "dvc_lock_sha256": "dvc.lock",
}


@dataclass(frozen=True)
class DataVersion:
    """A version of data/.

    Attributes:
        digest: The md5 in data.dvc.
        is_here: Whether data.dvc of this workspace names it now.
        commits: Hashes of the commits that hold it, newest first; None without git.
    """

    digest: str
    is_here: bool
    commits: tuple[str, ...] | None


@dataclass(frozen=True)
class Trace:
    """A target and all that belongs to it.

    Attributes:
        target: What was asked about.
        versions: Model versions.
        runs: MLflow runs.
        commits: Of the code; for a data version those that something was made at, or that
            brought the data.
        data: Versions of the data.
        images: Batches of images.
        settings: By file, whether its hash in the lineage is that of the commit; None = unknown.
        notes: What is unknown, and what does not fit.
    """

    target: Target
    versions: list[VersionRecord]
    runs: list[RunRecord]
    commits: list[Commit]
    data: list[DataVersion]
    images: list[ImageBatch]
    settings: dict[str, bool | None]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """Plain values; what and the target's own facts first."""
        target = self.target
        return {
            "what": target.what,
            "name": target.name,
            "facts": target.facts,
            "shared": {target.key: target.value or None},
            "lineage": target.lineage,
            "matches_commit": self.settings,
            "versions": [asdict(version) for version in self.versions],
            "runs": [{**asdict(run), "tags": None, "lineage": run.lineage} for run in self.runs],
            "commits": [asdict(commit) for commit in self.commits],
            "data": [asdict(item) for item in self.data],
            "images": [asdict(batch) for batch in self.images],
            "notes": self.notes,
        }


def trace(text: str, root: Path | None) -> Trace:
    """All that belongs to what the text names.

    Args:
        text: See `lineage_target.FORMS`.
        root: Top of the repository whose records are asked; None for none.

    Raises:
        DataError: When the text names nothing, or more than one thing.
        BundleError: When a bundle is damaged or missing.
        TrackingError: When the registry has no such model.
    """
    sources = Sources(root)
    target = find_target(text, sources)
    versions = [
        version
        for version in sources.versions
        if version == target.version
        or (target.value and version.lineage.get(target.key) == target.value)
    ]
    runs = _runs(target, versions, sources)
    images = _images(target, sources)
    lineages: list[dict[str, Any]] = [
        target.lineage,
        *(version.lineage for version in versions),
        *(run.lineage for run in runs),
        *(batch.lineage for batch in images),
    ]
    return Trace(
        target=target,
        versions=versions,
        runs=runs,
        commits=_commits(target, lineages, sources),
        data=_data(target, lineages, sources),
        images=images,
        settings=_settings(target, sources),
        notes=[*target.notes, *_unreadable(versions, runs), *sources.notes],
    )


def _unreadable(versions: list[VersionRecord], runs: list[RunRecord]) -> list[str]:
    """A note for each record in MLflow of which a field was left out."""
    of_versions = [f"{v.uri}: {v.unreadable}" for v in versions if v.unreadable]
    return of_versions + [f"run {r.run_id}: {r.unreadable}" for r in runs if r.unreadable]


def _runs(target: Target, versions: list[VersionRecord], sources: Sources) -> list[RunRecord]:
    if sources.records is None:
        return []
    found = sources.records.runs_with(target.key, target.value) if target.value else []
    found = [run for run in found if run.tags.get(KIND_TAG) != KIND]  # they are images
    known = {run.run_id for run in found}
    named = {version.run_id for version in versions if version.run_id}
    return [*found, *(sources.records.run(run_id) for run_id in sorted(named - known))]


def _images(target: Target, sources: Sources) -> list[ImageBatch]:
    if sources.images is None or not target.value:
        return []
    return sources.images.batches_with(target.key, target.value)


def _commits(target: Target, lineages: list[dict[str, Any]], sources: Sources) -> list[Commit]:
    shas = _values("code_commit", target, lineages)
    if target.key == "data_digest":
        shas |= set(_introducing(target.value, sources))
    commits = [sources.git.commit(sha) for sha in shas]
    return sorted(commits, key=lambda commit: commit.committed_at or "", reverse=True)


def _introducing(digest: str, sources: Sources) -> list[str]:
    """Commits that brought this data: they hold it, and their first parent does not."""
    digests = sources.git.data_digests
    return [
        sha
        for sha, parent in sources.git.first_parents.items()
        if digests.get(sha) == digest and digests.get(parent or "") != digest
    ]


def _data(target: Target, lineages: list[dict[str, Any]], sources: Sources) -> list[DataVersion]:
    values = _values("data_digest", target, lineages)
    if target.key == "code_commit":
        at_commit = sources.git.data_digest_at(target.value)
        values |= {at_commit} if at_commit else set()
    here = data_digest(sources.root) if sources.root else None
    return [
        DataVersion(digest, digest == here, _holders(digest, sources)) for digest in sorted(values)
    ]


def _holders(digest: str, sources: Sources) -> tuple[str, ...] | None:
    if not sources.git.is_there:
        return None
    return tuple(sha for sha, held in sources.git.data_digests.items() if held == digest)


def _values(key: str, target: Target, lineages: list[dict[str, Any]]) -> set[str]:
    own = {target.value} if target.key == key else set()
    return own | {str(lineage[key]) for lineage in lineages if lineage.get(key)}


def _settings(target: Target, sources: Sources) -> dict[str, bool | None]:
    """Whether going back to the commit also goes back to the settings."""
    commit = target.lineage.get("code_commit")
    if not commit:
        return {}
    return {
        path: sources.git.is_same_at(str(commit), path, target.lineage.get(key))
        for key, path in SETTLED_FILES.items()
    }
