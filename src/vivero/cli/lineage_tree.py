"""A lineage drawn as a tree for people: what was asked about, then all that belongs to it."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.text import Text
from rich.tree import Tree

from vivero.data.made_images import ImageBatch
from vivero.integrity.records import COMMIT, shown
from vivero.registry.git_history import Commit
from vivero.registry.lineage_records import RunRecord, VersionRecord
from vivero.registry.lineage_trace import DataVersion, Trace

MAX_LINES = 10  # of one kind; --json has them all
UNKNOWN = "unknown"
MAX_TEXT_CHARACTERS = 1000


def lineage_tree(trace: Trace) -> Tree:
    """The tree; nothing that comes from a file or a server is read as markup."""
    target = trace.target
    tree = Tree(_text(f"{target.what} {target.name}", "bold"))
    for key, value in target.facts.items():
        tree.add(_text(f"{key}: {_shown(value, absent='none')}"))
    if target.lineage:
        _origin(tree, trace)
    _branch(tree, "model versions", map(_version_line, trace.versions))
    _branch(tree, "training and other runs", map(_run_line, trace.runs))
    _branch(tree, "commits", map(_commit_line, trace.commits))
    _branch(tree, "data versions", map(_data_line, trace.data))
    _branch(tree, "images recorded", map(_batch_line, trace.images))
    if trace.notes:
        notes = tree.add(_text("to know", "bold yellow"))
        for note in trace.notes:
            notes.add(_text(note))
    return tree


def _origin(tree: Tree, trace: Trace) -> None:
    lineage = trace.target.lineage
    branch = tree.add(_text("made from", "bold"))
    for key, value in lineage.items():
        branch.add(_text(f"{key}: {_shown(value)}"))
    commit = lineage.get("code_commit")
    if not commit:
        return
    for path, is_same in trace.settings.items():
        said = {True: "as committed", False: "not as committed", None: UNKNOWN}[is_same]
        branch.add(_text(f"{path}: {said}"))
    branch.add(_text(f"to go back: {_way_back(commit, is_dirty=lineage.get('is_dirty'))}"))


def _way_back(commit: object, is_dirty: object) -> str:
    """The command that restores what was used; only of a complete hash, since people paste it."""
    if not COMMIT.fullmatch(str(commit)):
        return "the record holds no complete hash of a commit, so there is no command for it"
    if str(is_dirty) != "False":
        return (
            "the tree was dirty or is not known to have been clean, so the commit alone does not "
            "restore it"
        )
    return f"git checkout {commit} && dvc repro"


def _version_line(version: VersionRecord) -> str:
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    weights = version.lineage.get("weights_sha256", UNKNOWN)
    return (
        f"{version.uri}{aliases}, registered {version.made_at}, verdict "
        f"{version.verdict or UNKNOWN}, weights {weights}{_dirty(version.lineage)}"
    )


def _run_line(run: RunRecord) -> str:
    return f"{run.run_id} {run.name or ''} {run.status}, begun {run.started_at or UNKNOWN}"


def _commit_line(commit: Commit) -> str:
    if commit.committed_at is None:
        return f"{commit.sha} (not in this clone's history)"
    return (
        f"{commit.sha} {commit.committed_at} {commit.subject}; data {commit.data_digest or 'none'}"
    )


def _data_line(data: DataVersion) -> str:
    held = UNKNOWN if data.commits is None else f"{len(data.commits)} commits"
    span = f" ({data.commits[-1][:10]} .. {data.commits[0][:10]})" if data.commits else ""
    return f"{data.digest}, held by {held}{span}{', the one here now' if data.is_here else ''}"


def _batch_line(batch: ImageBatch) -> str:
    how = batch.made_with
    return (
        f"{batch.num_images} made {batch.made_at}, seed {how.get('seed')}, "
        f"{how.get('num_steps')} steps of {how.get('sampler')}, "
        f"weights {str(batch.lineage['weights_sha256'])[:12]}, batch {batch.batch_id[:12]}"
    )


def _dirty(lineage: Mapping[str, Any]) -> str:
    return "" if lineage.get("is_dirty") is False else ", tree dirty or unknown"


def _branch(tree: Tree, title: str, lines: Iterable[str]) -> None:
    shown = list(lines)
    branch = tree.add(_text(f"{title}: {len(shown) or 'none known'}", "bold"))
    for line in shown[:MAX_LINES]:
        branch.add(_text(line))
    if len(shown) > MAX_LINES:
        branch.add(_text(f"... and {len(shown) - MAX_LINES} more; --json lists all"))


def _shown(value: Any, absent: str = UNKNOWN) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return absent if value is None or value == "" else str(value)


def _text(text: str, style: str = "") -> Text:
    """One bounded line of text; what would steer the terminal is replaced."""
    return Text(shown(text, MAX_TEXT_CHARACTERS), style=style)
