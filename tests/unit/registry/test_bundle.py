"""Bundles: what goes in comes out, whole or not at all; diffusers can read them too."""

import errno
import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vivero.diffusion.generation import GenerationSpec, generate
from vivero.errors import BundleError, ViveroError
from vivero.evaluation.torchvision_door import open_torchvision_door
from vivero.models.load import build_network
from vivero.registry.bundle import BundleContents, load_bundle, write_bundle
from vivero.registry.bundle_config import BundleConfig, bundle_config

CLASS_NAMES = ["shirt", "shoe", "bag"]
LINEAGE = {"data_digest": "d" * 32, "code_commit": None, "weights_sha256": None, "seed": 0}
ADVICE = "dvc checkout`.*dvc repro -f -s sample` for artifacts/sample/bundle"
SAFETENSORS = "unet/diffusion_pytorch_model.safetensors"


def contents(config, class_names=CLASS_NAMES) -> BundleContents:
    values = bundle_config(config, class_names)
    generator = torch.Generator().manual_seed(0)
    network = build_network(BundleConfig.model_validate(values).network)
    random = {
        name: 0.1 * torch.randn(weight.shape, generator=generator)
        for name, weight in network.named_parameters()
    }
    weights = {**network.state_dict(), **random}  # a tree's scales of the data stay as they are
    return BundleContents(weights, values, LINEAGE, "# A model\n")


@pytest.fixture(scope="module")
def kept_dir(tmp_path_factory, tiny_config) -> Path:
    bundle_dir = tmp_path_factory.mktemp("bundles") / "bundle"
    write_bundle(bundle_dir, contents(tiny_config))
    return bundle_dir


@pytest.fixture
def bundle_dir(kept_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept_dir, tmp_path / "bundle"))


def test_what_goes_in_comes_out(bundle_dir, tiny_config):
    bundle = load_bundle(bundle_dir)

    assert bundle.class_names == CLASS_NAMES
    assert bundle.image_shape == (1, 16, 16)
    assert (bundle.num_channels, bundle.image_size_px) == (1, 16)
    assert bundle.config.model == tiny_config.train.model
    assert bundle.config.diffusion == tiny_config.train.diffusion
    assert bundle.denoiser.null_label == 3
    assert bundle.sampling_defaults["num_steps"] == tiny_config.sampling.num_steps
    weights = contents(tiny_config).network
    loaded = bundle.network.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_the_lineage_names_the_weights(bundle_dir):
    bundle = load_bundle(bundle_dir)
    digest = hashlib.sha256((bundle_dir / SAFETENSORS).read_bytes()).hexdigest()
    assert bundle.weights_sha256 == digest
    assert bundle.lineage.values() == {**LINEAGE, "weights_sha256": digest}


def test_equal_contents_give_equal_bytes(kept_dir, tmp_path, tiny_config):
    write_bundle(tmp_path / "again", contents(tiny_config))
    again = json.loads((tmp_path / "again" / "manifest.json").read_text())
    assert again == json.loads((kept_dir / "manifest.json").read_text())


def test_a_new_bundle_takes_the_place_of_the_old_one(bundle_dir, tiny_config):
    (bundle_dir / "left-over").write_text("old")
    write_bundle(bundle_dir, contents(tiny_config))
    load_bundle(bundle_dir)
    assert [path.name for path in bundle_dir.parent.iterdir()] == ["bundle"]


def test_what_cannot_be_written_leaves_the_old_bundle_alone(bundle_dir, tiny_config):
    whole = contents(tiny_config)
    broken = BundleContents({}, whole.config, whole.lineage, whole.model_card)
    with pytest.raises(ValueError, match="names differ"):
        write_bundle(bundle_dir, broken)
    load_bundle(bundle_dir)
    assert [path.name for path in bundle_dir.parent.iterdir()] == ["bundle"]


def test_holds_no_pickle_and_names_every_file(bundle_dir):
    found = {p.relative_to(bundle_dir).as_posix() for p in bundle_dir.rglob("*") if p.is_file()}
    assert found == {
        "MODEL_CARD.md",
        "config.json",
        "lineage.json",
        "manifest.json",
        "model_index.json",
        "pipeline.py",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        SAFETENSORS,
        "unet/vivero_unet.py",
    }


@pytest.mark.parametrize("name", ["config.json", SAFETENSORS, "pipeline.py", "MODEL_CARD.md"])
@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_damaged_file_is_named(bundle_dir: Path, name: str, damage: str):
    path = bundle_dir / name
    if damage == "missing":
        path.unlink()
    else:
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
    with pytest.raises(BundleError, match=rf"{name} (is missing|was altered).*{ADVICE}"):
        load_bundle(bundle_dir)


def test_a_file_too_many_is_named(bundle_dir: Path):
    (bundle_dir / "unet" / "extra.bin").write_bytes(b"?")
    with pytest.raises(BundleError, match=r"extra\.bin is not in manifest\.json"):
        load_bundle(bundle_dir)


@pytest.mark.parametrize("name", ["config.json", "unet"])
def test_a_link_is_refused(bundle_dir: Path, name: str):
    outside = bundle_dir.parent / "outside"
    (bundle_dir / name).rename(outside)
    (bundle_dir / name).symlink_to(outside)
    with pytest.raises(BundleError, match=f"{name} is a link"):
        load_bundle(bundle_dir)


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", '{"files": 3}'])
def test_without_its_manifest_it_is_no_bundle(bundle_dir: Path, text: str | None):
    (bundle_dir / "manifest.json").unlink()
    if text is not None:
        (bundle_dir / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"no readable manifest\.json in .*bundle"):
        load_bundle(bundle_dir)


@pytest.mark.parametrize("scale", [-0.1, math.nan])
def test_scales_that_no_data_has_are_refused(tmp_path: Path, tiny_config, scale: float):
    made = contents(tiny_config)
    weights = {**made.network, "band_std": torch.full_like(made.network["band_std"], scale)}
    write_bundle(tmp_path / "bundle", replace(made, network=weights))
    with pytest.raises(BundleError, match=r"safetensors holds scales of no data: band_std must be"):
        load_bundle(tmp_path / "bundle")


OLDER = {  # settings that bundles of earlier versions do not have, by file
    "no tree": ({"config.json": ("model", "tree"), "unet/config.json": ("model", "tree")}, "unet"),
    "no adaptive threshold": ({"config.json": ("sampling", "adaptive_threshold")}, "tree"),
    "sampling of the training": ({}, "tree"),
}


@pytest.mark.parametrize("layout", OLDER)
def test_a_stored_bundle_of_an_earlier_layout_loads(tmp_path: Path, config_factory, layout: str):
    missing, architecture = OLDER[layout]
    config = config_factory({"train.model.name": architecture})
    write_bundle(tmp_path / "bundle", contents(config))
    before = load_bundle(tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    for name, (block, key) in missing.items():
        path = tmp_path / "bundle" / name
        values = json.loads(path.read_text())
        del values[block][key]
        path.write_text(json.dumps(values))
        manifest["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps(manifest))
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.weights_sha256 == before.weights_sha256
    assert bundle.sampling.num_steps == config.sampling.num_steps
    assert bundle.sampling.sampler == config.sampling.sampler
    assert bundle.network.state_dict().keys() == before.network.state_dict().keys()


def test_a_missing_folder_is_no_bundle(tmp_path: Path):
    with pytest.raises(BundleError, match=r"no readable manifest\.json"):
        load_bundle(tmp_path / "nothing")


def test_loading_runs_nothing_of_the_bundle(bundle_dir: Path):
    proof = bundle_dir.parent / "proof"
    for name in ("pipeline.py", "unet/vivero_unet.py"):
        (bundle_dir / name).write_text(f"open({str(proof)!r}, 'w').close()")
    manifest = json.loads((bundle_dir / "manifest.json").read_text())
    for name in manifest["files"]:
        digest = hashlib.sha256((bundle_dir / name).read_bytes()).hexdigest()
        manifest["files"][name] = digest
    (bundle_dir / "manifest.json").write_text(json.dumps(manifest))

    load_bundle(bundle_dir)
    assert not proof.exists()


@pytest.mark.parametrize("name", ["config.json", "lineage.json", SAFETENSORS])
def test_a_manifest_that_leaves_out_a_needed_file_does_not_help(bundle_dir: Path, name: str):
    (bundle_dir / name).unlink()
    manifest = json.loads((bundle_dir / "manifest.json").read_text())
    del manifest["files"][name]
    (bundle_dir / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=name):
        load_bundle(bundle_dir)


def test_a_full_disk_is_called_by_its_name(bundle_dir, tiny_config, monkeypatch):
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ViveroError, match="no space left on the disk"):
        write_bundle(bundle_dir, contents(tiny_config))
    monkeypatch.undo()
    load_bundle(bundle_dir)


def test_images_without_labels_need_no_classes(tmp_path: Path, tiny_config):
    write_bundle(tmp_path / "bundle", contents(tiny_config, class_names=[]))
    assert load_bundle(tmp_path / "bundle").denoiser.null_label == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("schedule", ["karras", "linear", "cosine"])
def test_diffusers_makes_the_same_images(tmp_path, monkeypatch, config_factory, schedule: str):
    open_torchvision_door()  # diffusers imports torchvision
    from diffusers import DiffusionPipeline
    from diffusers.utils import dynamic_modules_utils

    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    config = config_factory({"train.diffusion.schedule": schedule, "sampling.guidance": 2.0})
    bundle_dir = tmp_path / f"bundle_{schedule}"
    write_bundle(bundle_dir, contents(config))
    pipeline = DiffusionPipeline.from_pretrained(
        str(bundle_dir), custom_pipeline=str(bundle_dir), trust_remote_code=True
    ).to("cpu")
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(class_labels=[0, 1, 2, 3], seed=7).images

    bundle = load_bundle(bundle_dir)
    defaults = bundle.sampling_defaults
    spec = GenerationSpec(
        seed=7,
        sampler=defaults["sampler"],
        num_steps=defaults["num_steps"],
        guidance=2.0,
        guidance_interval=tuple(defaults["guidance_interval"]),
        batch_images=4,
    )
    chunks = generate(
        bundle.denoiser, bundle.schedule, spec, torch.arange(4), range(4), bundle.image_shape
    )
    expected = torch.cat(list(chunks))[:, 0].int().numpy()
    got = np.stack([np.asarray(picture) for picture in pictures]).astype(int)
    assert got.shape == (4, 16, 16)
    assert np.abs(got - expected).max() <= 2
    assert expected.std() > 5
