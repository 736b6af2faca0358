"""`vivero plan`: which stages must run, decided by DVC from the lock files alone.

Nothing is pulled and no credentials are needed: what is missing here but named in dvc.lock counts
as unchanged, as in `dvc repro --allow-missing`. `dvc repro --dry` cannot be asked, because it stops
where a stage would run on data that is not here; each stage is asked instead, and what depends on
one that runs is taken along.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
from dvc.exceptions import DvcException
from dvc.repo import Repo

from vivero.errors import ConfigError


@dataclass(frozen=True)
class PlannedStage:
    """A stage that must run, and why."""

    name: str
    reasons: tuple[str, ...]


def plan_stages(root: Path) -> list[PlannedStage]:
    """The stages of dvc.yaml that are not up to date, each after all that it depends on.

    Raises:
        ConfigError: When root is no DVC repository that can be read.
    """
    try:
        with Repo(str(root)) as repo, repo.lock:
            return _planned(repo)
    except DvcException as error:
        raise ConfigError(
            f"the plan cannot be made: {error}; `dvc status` in {root} should say more"
        ) from error


def stage_order(root: Path) -> list[str]:
    """All stages of dvc.yaml, each after what it depends on, else in the order of the file."""
    with Repo(str(root)) as repo:
        return [stage.name for stage in _in_order(repo)]


def _in_order(repo: Any) -> list[Any]:
    order = {stage: position for position, stage in enumerate(repo.index.stages)}
    upstream_first = repo.index.graph.reverse()
    ordered = nx.lexicographical_topological_sort(upstream_first, key=order.__getitem__)
    return [stage for stage in ordered if stage.cmd]  # data.dvc is made by nobody


def _planned(repo: Any) -> list[PlannedStage]:
    graph = repo.index.graph
    planned: dict[Any, PlannedStage] = {}
    for stage in _in_order(repo):
        upstream = list(graph.successors(stage))
        reasons = [
            *_changes(stage, upstream),
            *(f"{source.name} runs" for source in upstream if source in planned),
        ]
        if reasons:
            planned[stage] = PlannedStage(stage.name, tuple(reasons))
    return list(planned.values())


def _changes(stage: Any, upstream: list[Any]) -> list[str]:
    """What of one stage differs from its entry in dvc.lock; [] where DVC itself would skip it."""
    if not stage.changed(allow_missing=True, upstream=upstream):
        return []
    if not any(dependency.hash_info for dependency in stage.deps):
        return ["dvc.lock does not know it"]
    changes = ["its command or its list of dependencies changed"] if stage.changed_stage() else []
    made_now = {out.fs_path: out.hash_info for source in upstream for out in source.outs}
    for dependency in stage.deps:
        is_replaced = made_now.get(dependency.fs_path, dependency.hash_info) != dependency.hash_info
        changes += _dependency_changes(dependency, is_replaced)
    return changes or ["an output in the workspace is not the one that dvc.lock names"]


def _dependency_changes(dependency: Any, is_replaced: bool) -> list[str]:
    changes = []
    for name, state in dependency.status().items():
        if isinstance(state, dict):  # parameters: one state for each
            changes += [f"{key} is {change} in {name}" for key, change in state.items()]
        elif state != "deleted":
            changes.append(f"{name} is {state}")
        elif is_replaced:
            changes.append(f"{name} is not the one that dvc.lock was made from")
    return changes
