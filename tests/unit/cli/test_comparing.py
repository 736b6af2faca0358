"""`vivero compare` on bundles made in a second: numbers, picture, words and refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.prepared_images import write_prepared
from vivero.cli.comparing import compare_models
from vivero.config.schema import Config
from vivero.errors import BundleError
from vivero.models.load import build_network
from vivero.registry.bundle import BundleContents, write_bundle
from vivero.registry.bundle_config import BundleConfig, bundle_config

CLASSES = ["left", "right"]


def make_bundle(folder: Path, config: Config, class_names: list[str], seed: int) -> str:
    values = bundle_config(config, class_names)
    generator = torch.Generator().manual_seed(seed)
    state = build_network(BundleConfig.model_validate(values).network).state_dict()
    weights = {n: 0.1 * torch.randn(v.shape, generator=generator) for n, v in state.items()}
    write_bundle(folder, BundleContents(weights, values, {}, "# A model\n"))
    return str(folder)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with tiny settings and tiny prepared images, which we stand in."""
    from ruamel.yaml import YAML

    from tests.conftest import REPOSITORY, TINY

    document = YAML().load((REPOSITORY / "params.yaml").read_text())
    for name, value in TINY.items():
        *blocks, key = name.split(".")
        block = document
        for part in blocks:
            block = block[part]
        block[key] = value
    YAML().dump(document, tmp_path / "params.yaml")
    write_prepared(tmp_path, CLASSES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_models_of_two_parameterisations_are_compared(
    root: Path, config_factory, capsys: pytest.CaptureFixture[str]
):
    changes = {"train.diffusion.parameterisation": "velocity", "train.model.channels": [16, 16]}
    one = make_bundle(root / "one", config_factory(), CLASSES, 0)
    two = make_bundle(root / "two", config_factory(changes), CLASSES, 1)
    compare_models((one, two), root / "out")
    report = json.loads((root / "out" / "comparison.json").read_text())
    assert report["models"]["B"]["name"] == two
    assert len(report["models"]["B"]["weights_sha256"]) == 64
    assert report["n"] == 8
    assert [level["sigma"] for level in report["levels"]] == report["sigmas"]
    for level in [*report["levels"], report["mean"]]:
        difference = level["B"]["value"] - level["A"]["value"]
        assert level["difference"]["value"] == pytest.approx(difference)
    assert (root / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "B against A" in shown
    assert "In the mean over levels" in shown
    assert "Of 3 levels" in shown


def test_one_constant_of_the_data_weighs_both_models(root: Path, config_factory):
    """With the first model's own sigma_data the answer depended on who came first."""
    models = tuple(
        make_bundle(
            root / f"{sigma_data}", config_factory({"train.diffusion.sigma_data": sigma_data}),
            CLASSES, seed,
        )
        for seed, sigma_data in enumerate((0.5, 2.0))
    )  # fmt: skip
    reports = []
    for name, order in (("there", models), ("back", models[::-1])):
        compare_models(order, root / name)
        reports.append(json.loads((root / name / "comparison.json").read_text()))
    train = np.load(root / "artifacts/prepare_data/images/train.npy")
    for there in reports:
        assert there["weight_sigma_data"] == pytest.approx((train / 127.5 - 1).std())
    there, back = (report["mean"] for report in reports)
    assert there["A"]["value"] == back["B"]["value"]
    assert there["B"]["value"] == back["A"]["value"]


def test_a_model_against_itself_is_undecided(
    root: Path, tiny_config: Config, capsys: pytest.CaptureFixture[str]
):
    one = make_bundle(root / "one", tiny_config, CLASSES, 0)
    compare_models((one, one), root / "out")
    shown = capsys.readouterr().out
    assert "neither is better beyond chance (+0.00% to +0.00%)" in shown
    assert "undecided are 3" in shown


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ((CLASSES, ["cat", "dog"]), r"images of A \(.*one\) have classes \['left', 'right'\]"),
        ((["cat", "dog"], ["cat", "dog"]), "those of the prepared images"),
    ],
)
def test_models_of_other_classes_are_refused(
    root: Path, tiny_config: Config, classes: tuple[list[str], list[str]], said: str
):
    models = tuple(
        make_bundle(root / name, tiny_config, names, 0)
        for name, names in zip(("one", "two"), classes, strict=True)
    )
    with pytest.raises(BundleError, match=said):
        compare_models(models, root / "out")
    assert not (root / "out").exists()


def test_models_of_other_sizes_are_refused(root: Path, config_factory):
    one = make_bundle(root / "one", config_factory(), CLASSES, 0)
    larger = config_factory({"prepare_data.image_size_px": 32})
    two = make_bundle(root / "two", larger, CLASSES, 0)
    with pytest.raises(BundleError, match=r"shape \(C, H, W\) \(1, 16, 16\).*\(1, 32, 32\)"):
        compare_models((one, two), root / "out")
