"""One name in five places: stage, params block, module, artifacts folder, test."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parents[2]
STAGES = YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text())["stages"]
PARAMS = YAML(typ="safe").load((REPOSITORY / "params.yaml").read_text())
# How a model is judged and served; the stage that reads it.
BLOCKS_OF_NO_STAGE = {"sampling": "sample"}
OUTSIDE_DVC = ("check_drift", "monitor", "judge", "register", "promote")
FORBIDDEN = {"utils", "util", "helpers", "common", "misc", "base", "core", "manager"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_of_dvc_has_one_name_everywhere(stage: str):
    command = STAGES[stage]["cmd"]
    assert command == "${python} -m vivero.stages." + stage
    more = [block for block, reader in BLOCKS_OF_NO_STAGE.items() if reader == stage]
    assert STAGES[stage]["params"] == [stage, *more]
    made = [*STAGES[stage]["outs"], *STAGES[stage]["metrics"], *STAGES[stage].get("plots", [])]
    for out in made:
        path = out if isinstance(out, str) else next(iter(out))
        assert path.startswith(f"artifacts/{stage}/")


@pytest.mark.parametrize("stage", [*STAGES, *OUTSIDE_DVC])
def test_a_stage_has_its_module_block_and_test(stage: str):
    assert (REPOSITORY / f"src/vivero/stages/{stage}.py").is_file()
    assert (REPOSITORY / f"tests/stages/test_{stage}.py").is_file()
    assert stage in PARAMS


def test_every_block_belongs_to_a_stage_and_every_module_too():
    modules = {path.stem for path in (REPOSITORY / "src/vivero/stages").glob("*.py")}
    # The trainer that the stage train starts; how judge and promote evaluate the champion again.
    of_no_stage = {"__init__", "trainer", "champion_report", "measure_champion"}
    stages = {*STAGES, *OUTSIDE_DVC}
    assert set(PARAMS) - set(BLOCKS_OF_NO_STAGE) == stages
    assert modules - of_no_stage == stages


def test_no_module_has_a_name_that_says_nothing():
    names = {path.stem for path in (REPOSITORY / "src").rglob("*.py")}
    assert not names & FORBIDDEN


def test_package_files_hold_only_a_docstring():
    for path in (REPOSITORY / "src/vivero").rglob("__init__.py"):
        code = path.read_text().strip()
        assert code.startswith('"""'), path
        assert code.endswith('"""'), path
        assert code.count('"""') == 2, path
