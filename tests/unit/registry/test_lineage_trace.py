"""`vivero lineage`: from an image, a version, a commit or data to all the others."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.registry.test_registration import NAME, candidate_of
from vivero.config.schema import Config
from vivero.data.made_images import MadeImages, read_batch
from vivero.errors import BundleError, DataError, TrackingError
from vivero.evaluation.grids import save_image
from vivero.files import sha256_of_file, write_json
from vivero.registry.lineage_trace import trace
from vivero.registry.registration import register_version
from vivero.tracking.store import experiment_id, open_client

DATA_A, DATA_B = "a1" * 16 + ".dir", "b2" * 16 + ".dir"
SOURCE = "s3://nowhere/model"  # these versions have no files
WEIGHTS_1, WEIGHTS_2 = "1" * 64, "2" * 64


def git(root: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    command = ["git", *who, *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def commit(root: Path, digest: str, message: str) -> str:
    (root / "data.dvc").write_text(f"outs:\n- md5: {digest}\n  path: data\n")
    (root / "params.yaml").write_text(f"# {message}\n")
    git(root, "add", "data.dvc", "params.yaml")
    git(root, "commit", "--quiet", "-m", message)
    return git(root, "rev-parse", "HEAD").strip()


@dataclass(frozen=True)
class House:
    """A repository with three commits, two versions of ours, one of others, and images."""

    root: Path
    first: str
    second: str
    branch: str
    runs: list[str]
    samples: Path


@pytest.fixture
def house(root: Path) -> House:
    return built(root, NAME)


def built(root: Path, name: str) -> House:
    git(root, "init", "--quiet", "--initial-branch=main")
    first = commit(root, DATA_A, "first")
    second = commit(root, DATA_A, "second: other code")
    git(root, "checkout", "--quiet", "-b", "more-data")
    branch = commit(root, DATA_B, "more data")
    git(root, "checkout", "--quiet", "main")
    client = open_client(root)
    experiment = experiment_id(client, root, name)
    client.create_registered_model(name)
    runs = []
    params = sha256_of_file(root / "params.yaml")
    for weights, sha, digest in ((WEIGHTS_1, second, DATA_A), (WEIGHTS_2, branch, DATA_B)):
        lineage = {"code_commit": sha, "data_digest": digest, "is_dirty": "False", "seed": "0"}
        lineage |= {"params_sha256": params}
        tags = {f"lineage.{key}": value for key, value in lineage.items()}
        run = client.create_run(experiment, tags=tags, run_name="train")
        runs.append(run.info.run_id)
        named = {f"vivero.lineage.{key}": value for key, value in lineage.items()}
        tags = {**named, "vivero.weights_sha256": weights, "vivero.verdict": "promote"}
        client.create_model_version(name, SOURCE, run.info.run_id, tags=tags)
    client.create_registered_model(f"{name} of others'")
    client.create_model_version(f"{name} of others'", SOURCE)
    client.set_registered_model_alias(name, "champion", "2")
    samples = made_images(root, WEIGHTS_1, {"code_commit": second, "data_digest": DATA_A})
    return House(root, first, second, branch, runs, samples)


def made_images(root: Path, weights: str, lineage: dict[str, Any], seed: int = 7) -> Path:
    """A folder as `vivero sample` leaves it, and its record."""
    folder = root / f"samples-{seed}"
    shared = {"weights_sha256": weights, "lineage": lineage, "seed": seed, "sampler": "ddim"}
    images = np.random.default_rng(seed).integers(0, 256, (3, 1, 8, 8), np.uint8)
    entries = [{"index": i, "label": 0, "file": f"{i:05d}-0.png"} for i in range(3)]
    folder.mkdir()
    for entry, image in zip(entries, images, strict=True):
        save_image(folder / str(entry["file"]), image, {**shared, **entry})
    write_json(folder / "samples.json", {**shared, "images": entries})
    MadeImages(root).add(*read_batch(folder))
    return folder


def found_by(house: House, text: str) -> dict[str, Any]:
    """The trace in short, and that it can be written as JSON."""
    found = trace(text, house.root)
    json.dumps(found.as_json(), allow_nan=False)
    return {
        "what": found.target.what,
        "versions": [version.version for version in found.versions],
        "runs": [run.run_id for run in found.runs],
        "commits": {commit.sha for commit in found.commits},
        "data": {item.digest for item in found.data},
        "images": sum(batch.num_images for batch in found.images),
    }


def test_every_kind_of_target_leads_to_all_the_others(house: House):
    of_first = {
        "versions": ["1"],
        "runs": house.runs[:1],
        "commits": {house.second},
        "data": {DATA_A},
        "images": 3,
    }
    image = str(house.samples / "00001-0.png")
    for what, text in [
        ("image", image),
        ("model version", "models:/vivero/1"),
        ("commit", house.second[:7]),
        ("commit", "main"),
        ("weights", WEIGHTS_1[:9]),
    ]:
        assert found_by(house, text) == {"what": what, **of_first}, text
    of_data = {**of_first, "what": "data version", "commits": {house.first, house.second}}
    assert found_by(house, DATA_A[:7]) == of_data, "made at the second, brought by the first"
    assert found_by(house, DATA_A) == of_data
    assert found_by(house, str(house.root / "data.dvc")) == of_data
    of_second = {
        "versions": ["2"],
        "runs": house.runs[1:],
        "commits": {house.branch},
        "data": {DATA_B},
        "images": 0,
    }
    for what, text in [
        ("model version", "models:/vivero@champion"),
        ("commit", "more-data"),
        ("data version", f"data:{DATA_B[:8]}"),
    ]:
        assert found_by(house, text) == {"what": what, **of_second}, text


def test_a_data_version_names_the_commits_that_hold_it(house: House):
    (data,) = trace(DATA_A, house.root).data
    assert data.commits == (house.second, house.first)
    assert data.is_here
    (other,) = trace(DATA_B, house.root).data
    assert other.commits == (house.branch,)
    assert not other.is_here


def test_of_the_commits_that_hold_data_only_those_that_brought_it_are_named(house: House):
    """A commit brings data when it holds it and its first parent does not."""
    root, digests = house.root, {"x": f"{'c3' * 16}.dir", "y": f"{'d4' * 16}.dir"}
    git(root, "checkout", "--quiet", "main")
    brought = commit(root, digests["x"], "x is brought")
    kept = commit(root, digests["x"], "x is kept")
    away = commit(root, digests["y"], "y is brought")
    back = commit(root, digests["x"], "x is back")
    git(root, "checkout", "--quiet", "-b", "side", away)
    side = commit(root, digests["y"], "y is kept aside")
    git(root, "merge", "--quiet", "--no-edit", "--strategy=ours", "main")
    merged = git(root, "rev-parse", "HEAD").strip()
    (of_x,), (of_y,) = (trace(digests[name], root).data for name in "xy")
    assert set(of_x.commits or ()) == {brought, kept, back}
    assert set(of_y.commits or ()) == {away, side, merged}
    assert {c.sha for c in trace(digests["x"], root).commits} == {brought, back}
    assert {c.sha for c in trace(digests["y"], root).commits} == {away}
    orphan = f"{'e5' * 16}.dir"
    git(root, "checkout", "--quiet", "--orphan", "fresh")
    first = commit(root, orphan, "a first commit brings what it holds")
    assert {c.sha for c in trace(orphan, root).commits} == {first}


def test_a_commit_at_which_nothing_was_trained_still_has_its_data(house: House):
    found = found_by(house, house.first)
    assert found["versions"] == []
    assert found["data"] == {DATA_A}


def test_an_image_that_lost_its_record_is_found_by_its_pixels(house: House):
    for name, mode in [("again.png", "L"), ("colour.png", "RGB"), ("alpha.png", "RGBA")]:
        with Image.open(house.samples / "00002-0.png") as picture:
            picture.convert(mode).save(house.root / name)
        found = trace(str(house.root / name), house.root)
        assert found.target.value == WEIGHTS_1
        assert found.target.facts["index"] == 2
        assert found.target.facts["seed"] == 7
        assert "found by its pixels" in found.notes[0]
        assert [version.version for version in found.versions] == ["1"]


def test_a_record_that_was_moved_to_another_image_is_noticed(house: House):
    with Image.open(house.samples / "00000-0.png") as picture:
        array = np.asarray(picture)[None]
    forged = {"weights_sha256": WEIGHTS_2, "lineage": {}, "seed": 1}
    save_image(house.root / "forged.png", array, forged)
    found = trace(str(house.root / "forged.png"), house.root)
    assert found.target.facts["pixels"] == "not as recorded"
    assert "moved or altered" in found.notes[0]
    save_image(house.root / "new.png", 255 - array, forged)
    found = trace(str(house.root / "new.png"), house.root)
    assert found.target.facts["pixels"] == "not recorded"
    assert "is believed" in found.notes[0]


def test_what_others_registered_is_of_unknown_origin(house: House):
    open_client(house.root).create_model_version(NAME, SOURCE)
    found = trace("models:/vivero/3", house.root)
    assert [version.version for version in found.versions] == ["3"]
    assert (found.runs, found.commits, found.data, found.images) == ([], [], [], [])
    assert "unknown origin" in found.notes[0]


def test_a_deleted_run_is_said_to_be_deleted(house: House):
    open_client(house.root).delete_run(house.runs[0])
    (run,) = trace("models:/vivero/1", house.root).runs
    assert (run.run_id, run.status) == (house.runs[0], "deleted")


def test_settings_are_held_against_the_commit(house: House):
    found = trace("models:/vivero/1", house.root)
    assert found.settings == {
        "params.yaml": True, "requirements.lock": None, "dvc.lock": None,
    }  # fmt: skip
    assert trace("models:/vivero/2", house.root).settings["params.yaml"] is False
    assert "were not checked" in found.notes[0], "there are no files behind these versions"


@pytest.mark.parametrize("text", ["nothing", "0123456", "data:0123456", "a1a1a1", "commit:zz", ""])
def test_what_is_unknown_says_what_the_forms_are(house: House, text: str):
    with pytest.raises(DataError, match=r"nothing known here; name an image file, .*7 or more"):
        trace(text or "-", house.root)


def test_what_is_ambiguous_says_how_to_be_clear(house: House):
    version = {"vivero.weights_sha256": DATA_A[:32] * 2}
    open_client(house.root).create_model_version(NAME, SOURCE, tags=version)
    with pytest.raises(DataError, match=rf"ambiguous.*data:{DATA_A}, weights:{DATA_A[:32] * 2}"):
        trace(DATA_A[:9], house.root)
    assert trace(f"weights:{DATA_A[:9]}", house.root).target.what == "weights"


def test_without_git_and_without_mlflow_the_rest_is_told(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    (house.root / ".git").rename(house.root / "no-git")
    found = trace(house.second[:8], house.root)
    assert [version.version for version in found.versions] == ["1"]
    assert found.data[0].commits is None
    assert any("no git history" in note for note in found.notes)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:geheim@127.0.0.1:9")
    found = trace(str(house.samples / "00000-0.png"), house.root)
    assert found.target.facts["pixels"] == "as recorded"
    assert found.versions == []
    (note,) = [note for note in found.notes if "versions and runs are unknown" in note]
    assert "geheim" not in note


def test_a_version_and_its_bundle_tell_the_same(root: Path, tiny_config: Config):
    candidate = candidate_of(root, tiny_config, seed=4)
    version, _ = register_version(root, NAME, candidate)
    of_bundle = trace(str(candidate.bundle_dir), None)
    of_version = trace("models:/vivero/1", root)
    assert of_bundle.target.lineage == of_version.target.lineage
    assert of_bundle.target.value == version.weights_sha256
    assert of_version.target.facts["verdict"] == "first"
    assert not [note for note in of_version.notes if "not checked" in note]
    open_client(root).set_model_version_tag(NAME, "1", "vivero.lineage.seed", "5")
    altered = trace("models:/vivero/1", root)
    assert altered.target.lineage["seed"] == 4
    assert "tags say otherwise than its bundle: seed" in altered.notes[0]


def test_an_image_needs_no_repository(tmp_path: Path):
    lineage = {"data_digest": DATA_A}
    made_by = {"weights_sha256": WEIGHTS_1, "seed": 3, "index": 0, "lineage": lineage}
    save_image(tmp_path / "0.png", np.zeros((1, 8, 8), np.uint8), made_by)
    found = trace(str(tmp_path / "0.png"), None)
    assert found.target.lineage == {**lineage, "weights_sha256": WEIGHTS_1}
    assert any("no clone" in note for note in found.notes)
    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    with pytest.raises(DataError, match=r"carries no record.*samples.json"):
        trace(str(tmp_path / "1.png"), None)
    with pytest.raises(BundleError, match=r"manifest.json"):
        trace(str(tmp_path), None)
    with pytest.raises(BundleError, match="needs a clone"):
        trace("models:/vivero@champion", None)


def test_a_version_that_is_not_there_is_named(house: House):
    with pytest.raises(TrackingError, match="no version 9"):
        trace("models:/vivero/9", house.root)
