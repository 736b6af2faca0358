"""From a folder of images to a champion, with real components and one command."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.end_to_end.conftest import Clone, make_clone
from vivero.files import sha256_of_dir

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


@pytest.mark.slow
def test_a_champion_compared_with_itself_is_undecided(finished_clone: Clone):
    models = ("models:/vivero@champion", "artifacts/sample/bundle")
    shown = finished_clone.run("vivero", "compare", *models, "--out", "work/comparison").stdout
    assert "neither is better beyond chance" in shown
    report = json.loads((finished_clone.root / "work/comparison/comparison.json").read_text())
    assert report["models"]["A"]["weights_sha256"] == report["models"]["B"]["weights_sha256"]


def test_registering_again_makes_no_second_version(finished_clone: Clone):
    before = finished_clone.run("vivero", "models").stdout
    finished_clone.run("vivero", "register")
    assert finished_clone.run("vivero", "models").stdout == before


def test_artifacts_come_back_from_the_cache(finished_clone: Clone, tmp_path: Path):
    artifacts = finished_clone.root / "artifacts"
    owned = [artifacts / stage for stage in STAGES]
    before = {folder: sha256_of_dir(folder) for folder in owned}
    shutil.copytree(artifacts, tmp_path / "kept")
    shutil.rmtree(artifacts)
    finished_clone.run("dvc", "checkout")
    assert {folder: sha256_of_dir(folder) for folder in owned} == before
    for command in ("check_drift", "judge", "register", "promote"):  # not DVC's
        shutil.copytree(tmp_path / "kept" / command, artifacts / command)


def test_what_dvc_documents_works(finished_clone: Clone):
    assert "learning_rate" not in finished_clone.run("dvc", "params", "diff").stdout
    finished_clone.git("add", "--all")
    finished_clone.git("commit", "--quiet", "--message", "done")
    changed = "evaluate.num_denoising_images=7"
    output = finished_clone.run("dvc", "exp", "run", "-S", changed).stdout
    try:
        assert stages_run(output) == ["evaluate"]
        assert "num_denoising_images" in finished_clone.run("dvc", "params", "diff").stdout
        difference = finished_clone.run("dvc", "metrics", "diff").stdout
        assert "denoising_loss.mean.7" in difference
        finished_clone.run("dvc", "plots", "show", "--out", "work/plots")
        page = (finished_clone.root / "work/plots/index.html").read_text()
        assert "grid.png" in page
        assert "loss_by_noise" in page
    finally:
        finished_clone.git("checkout", "--", ".")
        finished_clone.run("dvc", "checkout", "--force")


@pytest.mark.slow
def test_without_git_it_works_and_says_that_the_code_is_unknown(
    finished_clone: Clone, tmp_path: Path
):
    kept = shutil.ignore_patterns(".git", "work", "artifacts", "cache", "tmp", "mlflow.db*")
    root = tmp_path / "archive"
    shutil.copytree(finished_clone.root, root, ignore=kept)
    result = Clone(root).run("vivero", "prepare_data")
    assert "no git repository here" in result.stderr
    assert (root / "artifacts/prepare_data/images/train.npy").exists()


@pytest.mark.parametrize(
    ("setting", "value", "stages"),
    [
        pytest.param(
            *("train.learning_rate", 1.0e-3, ["train", "sample", "evaluate"]),
            marks=pytest.mark.slow,
        ),
        ("evaluate.seed", 5, ["evaluate"]),
    ],
)
def test_a_change_runs_what_depends_on_it_and_nothing_before(
    finished_clone: Clone, setting: str, value: float, stages: list[str]
):
    kept = {name: (finished_clone.root / name).read_bytes() for name in ("params.yaml", "dvc.lock")}
    finished_clone.change(setting, value)
    try:
        assert stages_run(finished_clone.run("dvc", "repro").stdout) == stages
    finally:
        for name, content in kept.items():
            (finished_clone.root / name).write_bytes(content)
        finished_clone.run("dvc", "checkout", "--force")


# What names a commit, a run or seconds differs between two clones of the same content.
OF_ONE_RUN = ("summary.json", "run.json", "journal.jsonl", "loss.csv", "validation.csv", "report")
OF_ONE_COMMIT = ("bundle", "samples.json", "metrics.json", "evaluate/plots")
HOLDS_SUCH = tuple(f"{stage}/manifest.json" for stage in ("train", "sample", "evaluate"))
OF_A_BUNDLE = ("MODEL_CARD.md", "lineage.json", "bundle/manifest.json")


@pytest.mark.slow
def test_the_flow_and_dvc_alone_end_with_one_lock_but_for_what_names_a_run_a_commit_or_seconds(
    finished_clone: Clone, images_dir: Path, tmp_path: Path
):
    other = make_clone(tmp_path / "other", images_dir)
    assert stages_run(other.run("dvc", "repro").stdout) == STAGES

    def lock(clone: Clone) -> dict[str, object]:
        stages = YAML(typ="safe").load((clone.root / "dvc.lock").read_text())["stages"]
        entries = {
            f"{stage}: {entry['path']}": entry["md5"]
            for stage, found in stages.items()
            for entry in [*found["deps"], *found["outs"]]
            if not any(name in entry["path"] for name in (*OF_ONE_RUN, *OF_ONE_COMMIT, *HOLDS_SUCH))
        }
        return {"params": {name: found["params"] for name, found in stages.items()}, **entries}

    def made(clone: Clone) -> dict[str, str]:
        naming = (*OF_ONE_RUN, *OF_ONE_COMMIT[1:], *OF_A_BUNDLE)
        manifests = (clone.root / "artifacts" / name for name in HOLDS_SUCH)
        return {
            f"{manifest.parent.name}/{name}": file["sha256"]
            for manifest in manifests
            for name, file in json.loads(manifest.read_text())["files"].items()
            if not any(part in f"{manifest.parent.name}/{name}" for part in naming)
        }

    def weights(clone: Clone) -> str:
        summary = json.loads((clone.root / "artifacts/train/summary.json").read_text())
        return str(summary["weights_sha256"])

    def figures(clone: Clone) -> dict[str, object]:
        return dict(
            json.loads((clone.root / "artifacts/evaluate/metrics.json").read_text())["metrics"]
        )

    assert lock(other) == lock(finished_clone)
    assert figures(other) == figures(finished_clone)
    assert made(other) == made(finished_clone)
    assert any(name.endswith(".safetensors") for name in made(other))
    assert weights(other) == weights(finished_clone)
