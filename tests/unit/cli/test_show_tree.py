"""`vivero show-tree` on a tree made in a second: its files, its figures, and its refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ruamel.yaml import YAML

from tests.conftest import REPOSITORY, TINY
from vivero.cli.showing_tree import show_tree
from vivero.config.schema import Config
from vivero.data.prepared import PreparedCard, write_prepared_card
from vivero.errors import BundleError
from vivero.models.load import build_network
from vivero.models.tree import TreeNetwork
from vivero.registry.bundle import BundleContents, write_bundle
from vivero.registry.bundle_config import BundleConfig, bundle_config

CLASSES = ["left", "right"]
NUM_IMAGES, SIDE_PX = 6, 16
PICTURES = {"bands.png", "branches.png", "fusion.png", "denoising.png", "descent.png"}


def prepared_images() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (NUM_IMAGES, 1, SIDE_PX, SIDE_PX), dtype=np.uint8)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings and a test split of noise."""
    document = YAML().load((REPOSITORY / "params.yaml").read_text())
    for name, value in TINY.items():
        *blocks, key = name.split(".")
        block = document
        for part in blocks:
            block = block[part]
        block[key] = value
    YAML().dump(document, tmp_path / "params.yaml")
    images_dir = tmp_path / "artifacts" / "prepare_data" / "images"
    images_dir.mkdir(parents=True)
    np.save(images_dir / "test.npy", prepared_images())
    np.save(images_dir / "test_labels.npy", np.arange(NUM_IMAGES) % 2)
    rows = list(range(NUM_IMAGES))
    table = {"key": [str(row) for row in rows], "row": rows, "split": ["test"] * NUM_IMAGES}
    pq.write_table(pa.table(table), images_dir / "index.parquet")
    write_prepared_card(
        images_dir,
        PreparedCard("noise", "none", CLASSES, 1, SIDE_PX, "0" * 64, {"test": NUM_IMAGES}),
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_bundle(folder: Path, config: Config) -> str:
    values = bundle_config(config, CLASSES)
    torch.manual_seed(0)
    network = build_network(BundleConfig.model_validate(values).network)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    if isinstance(network, TreeNetwork):
        network.fit(torch.from_numpy(prepared_images()))
    write_bundle(folder, BundleContents(network.state_dict(), values, {}, "# A model\n"))
    return str(folder)


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "tree.json").read_text())
    return report


def test_all_pictures_and_figures_of_a_tree(
    clone: Path, config_factory: Callable[..., Config], capsys: pytest.CaptureFixture[str]
):
    model = make_bundle(clone / "bundle", config_factory({"train.model.name": "tree"}))
    show_tree(model, NUM_IMAGES, 0, clone / "out")
    assert {path.name for path in (clone / "out").iterdir()} == PICTURES | {"tree.json"}
    report = report_of(clone / "out")
    pixels = prepared_images()[:, 0] / 127.5 - 1
    a, b = pixels[:, ::2, ::2], pixels[:, ::2, 1::2]
    c, d = pixels[:, 1::2, ::2], pixels[:, 1::2, 1::2]
    details = np.stack([a - b + c - d, a + b - c - d, a - b - c + d]) / 2
    assert report["bands"][0]["details_std"] == pytest.approx(details.std(), rel=1e-4)
    assert report["band_std_of_training"][0] == pytest.approx(details.std(), rel=1e-4)
    assert report["thresholds"] == pytest.approx([4 * details.std()], rel=1e-4)
    finest, root = report["branches"]
    assert (finest["up_to_sigma"], root["up_to_sigma"]) == (report["thresholds"][0], None)
    assert finest["num_steps"] + root["num_steps"] == report["sampling"]["num_steps"] == 3
    spent = sum(row["num_passes"] * row["macs"] for row in (finest, root))
    most = sum(row["num_passes"] for row in (finest, root)) * finest["macs"]
    assert report["sampling"]["relative_cost"] == pytest.approx(spent / most)
    fused = report["fusion"]["levels"]
    assert fused[0]["sigma"] == pytest.approx(0.02)
    assert fused[-1]["sigma"] == pytest.approx(report["thresholds"][0], rel=1e-3)
    assert all(0 < row["low"] <= row["weight"] <= row["high"] < 1 for row in fused)
    assert report["n"] == NUM_IMAGES
    assert "2 branches" in capsys.readouterr().out


def test_a_tree_that_is_neither_routed_nor_fused(
    clone: Path, config_factory: Callable[..., Config], capsys: pytest.CaptureFixture[str]
):
    changes = {
        "train.model.name": "tree",
        "train.model.tree.threshold": None,
        "train.model.tree.is_fused": False,
    }
    model = make_bundle(clone / "bundle", config_factory(changes))
    show_tree(model, NUM_IMAGES, 0, clone / "out")
    report = report_of(clone / "out")
    assert report["thresholds"] == [None]
    assert report["fusion"]["levels"] == report["handovers"] == []
    assert report["sampling"]["relative_cost"] == 1
    assert not (clone / "out" / "fusion.png").exists()
    assert "is_fused: false" in capsys.readouterr().out


def test_a_u_net_is_refused_with_what_to_do(clone: Path, config_factory: Callable[..., Config]):
    model = make_bundle(clone / "bundle", config_factory({"train.model.name": "unet"}))
    with pytest.raises(BundleError, match=r"no tree but a unet.*name: tree"):
        show_tree(model, NUM_IMAGES, 0, clone / "out")
    assert not (clone / "out").exists()


def test_images_of_another_size_are_refused(clone: Path, config_factory: Callable[..., Config]):
    changes = {"train.model.name": "tree", "prepare_data.image_size_px": 8}
    model = make_bundle(clone / "bundle", config_factory(changes))
    with pytest.raises(BundleError, match="the clone where its images are prepared"):
        show_tree(model, NUM_IMAGES, 0, clone / "out")
