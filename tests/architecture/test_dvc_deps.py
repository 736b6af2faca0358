"""DVC does not follow imports: dvc.yaml must list all the code that a stage runs."""

from pathlib import Path

import grimp
import pytest
from ruamel.yaml import YAML

from vivero.processes import TUNING

REPOSITORY = Path(__file__).parents[2]
STAGES = YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text())["stages"]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("vivero")


def files_run_by(stage: str, graph: grimp.ImportGraph) -> set[str]:
    entry = f"vivero.stages.{stage}"
    code = {entry, *graph.find_upstream_modules(entry)}
    packages = {module for module in code if graph.find_children(module)}
    return {"src/" + module.replace(".", "/") + ".py" for module in code - packages}


def missing_deps(stage: str, deps: list[str], graph: grimp.ImportGraph) -> set[str]:
    return {
        file
        for file in files_run_by(stage, graph)
        if not any(file == dep or file.startswith(dep + "/") for dep in deps)
    }


@pytest.mark.parametrize("stage", STAGES)
def test_stage_lists_all_the_code_it_runs(stage: str, graph: grimp.ImportGraph):
    missing = missing_deps(stage, STAGES[stage]["deps"], graph)
    assert not missing, f"add to the deps of '{stage}' in dvc.yaml: {sorted(missing)}"


@pytest.mark.parametrize("stage", STAGES)
def test_stage_lists_no_code_that_it_does_not_run(stage: str, graph: grimp.ImportGraph):
    files = files_run_by(stage, graph)
    templates = {"src/vivero/registry/pipeline_template"}  # copied into the bundle, not run
    listed = {dep for dep in STAGES[stage]["deps"] if dep.startswith("src/")} - templates
    idle = [dep for dep in listed if not any(f == dep or f.startswith(dep + "/") for f in files)]
    assert not idle, f"remove from the deps of '{stage}' in dvc.yaml: {idle}"


def test_a_forgotten_dependency_is_seen(graph: grimp.ImportGraph):
    deps = [dep for dep in STAGES["train"]["deps"] if dep != "src/vivero/diffusion"]
    assert any("diffusion" in file for file in missing_deps("train", deps, graph))


def test_every_stage_gets_the_tuning_that_processes_names():
    command = YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text())["vars"][0]["python"]
    assert {f"{name}={value}" for name, value in TUNING.items()} <= set(command.split())
