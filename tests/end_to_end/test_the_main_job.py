"""From a folder of images to a champion, with real components and one command."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Clone, make_clone

pytestmark = pytest.mark.timeout(600)
STAGES = ["validate_data", "prepare_data", "compute_reference", "train", "sample", "evaluate"]


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


def test_it_ends_with_a_first_champion(finished_clone: Clone):
    verdict = json.loads((finished_clone.root / "artifacts/judge/verdict.json").read_text())
    assert verdict["verdict"] == "first"
    output = finished_clone.run("vivero", "models").stdout
    assert "champion" in output


def test_the_end_shows_stages_figures_and_where_to_look(finished_clone: Clone):
    shown = finished_clone.first_output
    for stage in [*STAGES, "check_drift", "judge", "register", "promote"]:
        assert stage in shown
    assert "real against real" in shown
    assert "artifacts/sample/grid.png" in shown
    assert "make ui" in shown


def test_every_stage_left_its_summary(finished_clone: Clone):
    for stage in STAGES:
        path = finished_clone.root / f"artifacts/{stage}/summary.json"
        summary = json.loads(path.read_text())
        assert summary["stage"] == stage
        assert summary["seconds"] >= 0
        assert summary["made"]


def test_a_second_run_has_nothing_to_do(finished_clone: Clone):
    started_at = time.monotonic()
    output = finished_clone.run("dvc", "repro").stdout
    assert not stages_run(output)
    assert time.monotonic() - started_at < 15


def test_the_champion_makes_images_and_each_is_traced(finished_clone: Clone, tmp_path: Path):
    command = ["vivero", "sample", "models:/vivero@champion", "--out", str(tmp_path)]
    finished_clone.run(*command, "--num-images", "4", "--seed", "3", "--num-steps", "2")
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["00000-0.png", "00001-1.png", "00002-0.png", "00003-1.png", "samples.json"]
    traced = finished_clone.run("vivero", "lineage", str(tmp_path / made[0])).stdout
    commit = finished_clone.git("rev-parse", "HEAD").strip()
    assert commit in traced
    weights = json.loads((finished_clone.root / "artifacts/train/summary.json").read_text())
    assert weights["weights_sha256"] in traced


def test_registering_again_makes_no_second_version(finished_clone: Clone):
    before = finished_clone.run("vivero", "models").stdout
    finished_clone.run("vivero", "register")
    assert finished_clone.run("vivero", "models").stdout == before


def test_artifacts_come_back_from_the_cache(finished_clone: Clone):
    path = finished_clone.root / "artifacts/train/bundle/unet/diffusion_pytorch_model.safetensors"
    before = path.read_bytes()
    shutil.rmtree(finished_clone.root / "artifacts/train")
    finished_clone.run("dvc", "checkout")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("setting", "value", "stages"),
    [
        ("train.learning_rate", 1.0e-3, ["train", "sample", "evaluate"]),
        ("evaluate.seed", 5, ["evaluate"]),
        ("sample.guidance", 1.7, ["sample", "evaluate"]),
    ],
)
def test_a_change_runs_what_depends_on_it_and_nothing_before(
    finished_clone: Clone, setting: str, value: float, stages: list[str]
):
    finished_clone.change(setting, value)
    try:
        output = finished_clone.run("dvc", "repro", "--dry").stdout
    finally:
        finished_clone.git("checkout", "--", "params.yaml")
    assert stages_run(output) == stages


@pytest.mark.slow
def test_the_flow_and_dvc_alone_end_with_the_same_lock(
    finished_clone: Clone, images_dir: Path, tmp_path: Path
):
    other = make_clone(tmp_path / "other", images_dir)
    assert stages_run(other.run("dvc", "repro").stdout) == STAGES

    def hashes(clone: Clone) -> dict[str, object]:
        from ruamel.yaml import YAML

        lock = YAML(typ="safe").load((clone.root / "dvc.lock").read_text())["stages"]
        return {
            f"{stage}/{out['path']}": out["md5"]
            for stage, entry in lock.items()
            for out in entry["outs"]
            if out["path"].endswith(("images", "reference", "images.npy", "labels.npy"))
        }

    assert hashes(other) == hashes(finished_clone)
    assert subprocess.run(["git", "status"], cwd=other.root).returncode == 0
