"""The stage `sample` and the folder that `vivero sample` writes, on a real tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vivero.diffusion.generation import image_seed
from vivero.errors import BundleError, ConfigError, ViveroError
from vivero.evaluation.grids import read_provenance
from vivero.evaluation.protocol import sampling_code_digest
from vivero.files import sha256_of_file
from vivero.models.load import build_network
from vivero.registry.bundle import BundleContents, load_bundle, write_bundle
from vivero.registry.bundle_config import BundleConfig, bundle_config
from vivero.stages import sample
from vivero.stages.sample import SampleRequest, grid_rows, run, sample_to_folder

CLASS_NAMES = ["shirt", "shoe", "bag"]


def make_bundle(bundle_dir: Path, config, class_names: list[str]) -> Path:
    values = bundle_config(config, class_names)
    generator = torch.Generator().manual_seed(0)
    state = build_network(BundleConfig.model_validate(values).network).state_dict()
    weights = {n: 0.1 * torch.randn(v.shape, generator=generator) for n, v in state.items()}
    write_bundle(bundle_dir, BundleContents(weights, values, {"seed": 4}, "# A model\n"))
    return bundle_dir


@pytest.fixture
def root(tmp_path: Path, tiny_config) -> Path:
    make_bundle(tmp_path / "artifacts/train/bundle", tiny_config, CLASS_NAMES)
    return tmp_path


@pytest.fixture
def bundle_dir(root: Path) -> Path:
    return root / "artifacts/train/bundle"


def read(path: Path):
    return json.loads(path.read_text())


def test_leaves_images_labels_record_and_grid(root: Path, tiny_config):
    run(tiny_config, root)

    out_dir = root / "artifacts/sample"
    images = np.load(out_dir / "images.npy", allow_pickle=False)
    labels = np.load(out_dir / "labels.npy", allow_pickle=False)
    assert (images.shape, images.dtype) == ((20, 1, 16, 16), np.uint8)
    assert labels.dtype == np.int64
    assert labels.tolist() == [index % 3 for index in range(20)]
    record = read(out_dir / "samples.json")
    weights_sha256 = load_bundle(root / "artifacts/train/bundle").weights_sha256
    assert record["weights_sha256"] == record["lineage"]["weights_sha256"] == weights_sha256
    assert record["seed"] == tiny_config.sample.seed
    for name in ("images.npy", "labels.npy"):
        assert record["files"][name] == sha256_of_file(out_dir / name)
    assert record["code_sha256"] == sampling_code_digest()
    assert record["images"][4] == {
        "index": 4,
        "label": 1,
        "class_name": "shoe",
        "image_seed": image_seed(tiny_config.sample.seed, 4),
    }
    with Image.open(out_dir / "grid.png") as grid:
        assert grid.size[0] > 500
    summary = read(out_dir / "summary.json")
    assert summary["stage"] == "sample"
    guidance = f"{tiny_config.sampling.guidance:g}"
    made = f"20 images (3 steps of dpm_solver_pp_2m, guidance {guidance})"
    assert summary["made"] == made
    assert {path.name for path in out_dir.iterdir()} == {
        *("images.npy", "labels.npy", "samples.json", "grid.png", "summary.json", "bundle")
    }


def test_same_bundle_and_seed_same_bytes(root: Path, tiny_config):
    names = ("images.npy", "labels.npy", "samples.json", "grid.png")
    run(tiny_config, root)
    first = [(root / "artifacts/sample" / name).read_bytes() for name in names]
    run(tiny_config, root)
    assert first == [(root / "artifacts/sample" / name).read_bytes() for name in names]


def test_a_missing_bundle_says_so(tmp_path: Path, tiny_config):
    with pytest.raises(BundleError, match="no whole model bundle"):
        run(tiny_config, tmp_path)


def test_the_grid_has_a_row_for_each_class():
    labels = [index % 3 for index in range(90)]
    rows = [labels[index] for index in grid_rows(labels)]
    assert rows == [0] * 10 + [1] * 10 + [2] * 10
    assert grid_rows([0] * 30) == list(range(30))
    assert grid_rows([0, 1, 2]) == [0, 1, 2]


def test_writes_all_classes_in_turn_with_their_records(bundle_dir: Path, tmp_path: Path):
    paths = sample_to_folder(bundle_dir, SampleRequest(num_images=5, seed=9), tmp_path / "out")

    names = ["00000-0.png", "00001-1.png", "00002-2.png", "00003-0.png", "00004-1.png"]
    assert [path.name for path in paths] == names
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == [*names, "samples.json"]
    record = read(tmp_path / "out/samples.json")
    assert [entry["file"] for entry in record["images"]] == names
    provenance = read_provenance(paths[4])
    assert provenance["seed"] == 9
    assert (provenance["index"], provenance["label"]) == (4, 1)
    assert provenance["class_name"] == "shoe"
    assert provenance["weights_sha256"] == record["weights_sha256"]
    assert provenance["lineage"]["seed"] == 4
    assert provenance["image_seed"] == image_seed(9, 4)
    for name in ("sampler", "num_steps", "guidance", "guidance_interval", "adaptive_threshold"):
        assert provenance[name] == record[name]


def test_what_is_not_asked_for_comes_from_the_bundle(bundle_dir: Path, tmp_path: Path):
    sample_to_folder(bundle_dir, SampleRequest(num_images=1), tmp_path / "default")
    request = SampleRequest(num_images=1, sampler="heun", num_steps=4, guidance=0.0)
    sample_to_folder(load_bundle(bundle_dir), request, tmp_path / "asked")

    keys = ("sampler", "num_steps", "guidance")
    default, asked = (read(tmp_path / d / "samples.json") for d in ("default", "asked"))
    own = load_bundle(bundle_dir).sampling_defaults
    assert [default[key] for key in keys] == [own[key] for key in keys]
    assert [asked[key] for key in keys] == ["heun", 4, 0.0]


def test_one_class_only(bundle_dir: Path, tmp_path: Path):
    paths = sample_to_folder(bundle_dir, SampleRequest(num_images=2, label=2), tmp_path / "out")
    assert [path.name for path in paths] == ["00000-2.png", "00001-2.png"]


@pytest.mark.parametrize("label", [-1, 3])
def test_a_class_that_does_not_exist_is_refused_with_the_names(bundle_dir, tmp_path, label):
    with pytest.raises(ConfigError, match=f"no class {label}; choose one of: 0 = shirt, 1 = shoe"):
        sample_to_folder(bundle_dir, SampleRequest(1, label=label), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sampler_that_does_not_exist_is_refused(bundle_dir, tmp_path):
    with pytest.raises(ConfigError, match="no sampler 'euler'; choose one of: ddpm, ddim, heun"):
        sample_to_folder(bundle_dir, SampleRequest(1, sampler="euler"), tmp_path / "out")


def test_a_model_without_classes_writes_class_0_and_takes_no_label(tmp_path, tiny_config):
    bundle_dir = make_bundle(tmp_path / "bundle", tiny_config, [])
    paths = sample_to_folder(bundle_dir, SampleRequest(num_images=2), tmp_path / "out")
    assert [path.name for path in paths] == ["00000-0.png", "00001-0.png"]
    with pytest.raises(ConfigError, match="trained without classes"):
        sample_to_folder(bundle_dir, SampleRequest(1, label=0), tmp_path / "out")


def test_an_image_depends_on_its_seed_and_number_alone(bundle_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "BATCH_IMAGES", 2)
    few = sample_to_folder(bundle_dir, SampleRequest(3, seed=1), tmp_path / "few")
    monkeypatch.setattr(sample, "BATCH_IMAGES", 7)
    many = sample_to_folder(bundle_dir, SampleRequest(7, seed=1), tmp_path / "many")
    for one, other in zip(few, many, strict=False):
        pixels = [np.asarray(Image.open(path)).astype(int) for path in (one, other)]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_other_images_in_the_folder_are_not_mixed_in(bundle_dir, tmp_path):
    sample_to_folder(bundle_dir, SampleRequest(5), tmp_path / "out")
    sample_to_folder(bundle_dir, SampleRequest(5, seed=8), tmp_path / "out")
    with pytest.raises(ViveroError, match=r"holds 3 images of another request .*empty folder"):
        sample_to_folder(bundle_dir, SampleRequest(2), tmp_path / "out")


def test_ctrl_c_leaves_whole_images_and_no_record(bundle_dir, tmp_path, monkeypatch):
    real, num_saved = sample.save_image, 0

    def interrupted(path, image, provenance=None):
        nonlocal num_saved
        if num_saved == 3:
            raise KeyboardInterrupt
        num_saved += 1
        real(path, image, provenance)

    monkeypatch.setattr(sample, "save_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample_to_folder(bundle_dir, SampleRequest(5), tmp_path / "out")
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["00000-0.png", "00001-1.png", "00002-2.png"]
    for name in found:
        Image.open(tmp_path / "out" / name).load()
