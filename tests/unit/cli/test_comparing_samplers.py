"""`vivero compare-samplers` on a bundle made in a second: files, resuming, words and refusals."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import REPOSITORY, TINY
from vivero.cli import comparing_samplers
from vivero.cli.comparing_samplers import Request, compare_samplers
from vivero.config.schema import Config
from vivero.errors import ConfigError, DataError, SamplingError
from vivero.evaluation import sampler_runs
from vivero.evaluation.extractors import Extractor
from vivero.evaluation.reference import ReferenceFacts, save_reference
from vivero.evaluation.sampler_comparison import Cell
from vivero.models.load import build_network
from vivero.registry.bundle import BundleContents, write_bundle
from vivero.registry.bundle_config import BundleConfig, bundle_config

CLASSES = ["left", "right"]
WEIGHTS = "0" * 64
ESTIMATE = {
    "type": "object",
    "required": ["value", "low", "high", "std_error", "n"],
    "additionalProperties": {"type": "number"},
}
OR_NULL = {"type": ["number", "null"]}
CELL = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "sampler", "num_steps", "n", "frechet", "evaluations", "ms_per_image"],
    "properties": {
        "name": {"type": "string"},
        "sampler": {"type": "string"},
        "num_steps": {"type": "integer"},
        "n": {"type": "integer"},
        "frechet": {"anyOf": [ESTIMATE, {"type": "null"}]},
        "evaluations": OR_NULL,
        "ms_per_image": OR_NULL,
        "equivalent_evaluations": OR_NULL,
        "divergence": OR_NULL,
        "error": {"type": ["string", "null"]},
        "floor": ESTIMATE,
        "baseline_at_this_n": {"anyOf": [ESTIMATE, {"type": "null"}]},
        "about_divergence": {"type": ["string", "null"]},
    },
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["model", "protocol", "converged", "floor", "cells", "pareto_front", "target"],
    "properties": {
        "model": {"type": "string"},
        "protocol": {
            "type": "object",
            "required": ["weights_sha256", "seed", "guidance", "n", "device", "reference_sha256"],
        },
        "converged": {
            "type": "object",
            "required": ["sampler", "num_steps", "n", "change_from_half_the_steps", "unit"],
        },
        "floor": ESTIMATE,
        "cells": {"type": "array", "items": CELL, "minItems": 1},
        "pareto_front": {"type": "array", "items": {"type": "string"}},
        "target": {
            "type": "object",
            "required": ["max_evaluations", "tolerance", "baseline", "is_met", "best", "sentence"],
        },
    },
}


def write_clone(root: Path) -> None:
    """Settings and a reference whose features are the means of the quarters of an image."""
    document = YAML().load((REPOSITORY / "params.yaml").read_text())
    for name, value in TINY.items():
        *blocks, key = name.split(".")
        block = document
        for part in blocks:
            block = block[part]
        block[key] = value
    YAML().dump(document, root / "params.yaml")
    generator = torch.Generator().manual_seed(0)
    features, held_out = 128 + 20 * torch.randn(2, 60, 4, generator=generator)
    facts = ReferenceFacts(
        "tiny", WEIGHTS, None, 8, "8 px", 60, 60, "d.dir", "1" * 64, 0,
        real_accuracy=None, classifier_sha256=None, class_names=[], image_std=0.7,
    )  # fmt: skip
    folder = root / "artifacts" / "compute_reference" / "reference"
    save_reference(folder, facts, features, (held_out, None), 0.5)


def make_bundle(folder: Path, config: Config, scale: float = 0.1) -> str:
    values = bundle_config(config, CLASSES)
    generator = torch.Generator().manual_seed(0)
    state = build_network(BundleConfig.model_validate(values).network).state_dict()
    weights = {n: scale * torch.randn(v.shape, generator=generator) for n, v in state.items()}
    write_bundle(folder, BundleContents(weights, values, {}, "# A model\n"))
    return str(folder)


def tiny_extractor(*_: object) -> Extractor:
    def quarters(images: Tensor) -> tuple[Tensor, None]:
        return torch.nn.functional.adaptive_avg_pool2d(images.mean(1), 2).flatten(1), None

    return Extractor("tiny", WEIGHTS, 8, 4, None, quarters)


def request(**changes: Any) -> Request:
    values: dict[str, Any] = {
        "num_images": 12,
        "num_ddpm_images": 6,
        "seed": 0,
        "guidance": None,
        "samplers": None,
        "steps": [5, 8],
    }
    return Request(**{**values, **changes})


@pytest.fixture(scope="module")
def plain_config(config_factory: Callable[..., Config]) -> Config:
    """Of a model that is no tree, whatever the default is."""
    return config_factory({"train.model.name": "unet"})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing_samplers, "build_extractor", tiny_extractor)
    for module in (sampler_runs, comparing_samplers):
        monkeypatch.setattr(module, "CONVERGED", Cell("heun", 16))
        monkeypatch.setattr(module, "HALF_CONVERGED", Cell("heun", 8))


@dataclass(frozen=True)
class Finished:
    root: Path
    model: str
    out_dir: Path
    report: dict[str, Any]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, plain_config: Config) -> Finished:
    """A clone in which a narrowed grid with DDPM's 250 steps was compared."""
    root = tmp_path_factory.mktemp("clone")
    write_clone(root)
    model, out_dir = make_bundle(root / "bundle", plain_config), root / "out"
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        patch.chdir(root)
        compare_samplers(model, request(steps=[5, 8, 250]), out_dir)
    return Finished(root, model, out_dir, json.loads((out_dir / "results.json").read_text()))


def test_the_report_has_its_form_and_every_cell(finished: Finished):
    report = finished.report
    jsonschema.validate(report, SCHEMA)
    names = [cell["name"] for cell in report["cells"]]
    fast = ("ddim", "heun", "dpm_solver_pp_2m", "sde_dpm_solver_pp_2m", "uni_pc")
    assert names == ["ddpm-250", *(f"{name}-{steps}" for name in fast for steps in (5, 8))]
    for cell in report["cells"]:
        assert cell["error"] is None
        assert cell["frechet"]["n"] == cell["n"] == 12
        assert cell["ms_per_image"] > 0
        assert cell["equivalent_evaluations"] > 0
        assert cell["num_steps"] <= cell["evaluations"] <= 4 * cell["num_steps"]  # Heun, guided
        assert (cell["divergence"] is None) == (cell["sampler"] in {"ddpm", "sde_dpm_solver_pp_2m"})
    assert "adds fresh noise" in report["cells"][0]["about_divergence"]
    assert set(report["pareto_front"]) <= set(names)
    assert report["target"]["is_met"] in {True, False}


def test_pictures_are_drawn(finished: Finished):
    with Image.open(finished.out_dir / "samples.png") as picture:
        assert picture.height > 10 * 56  # nine cells and the converged solution
    assert (finished.out_dir / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_finished_cells_are_not_made_again(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    made: list[str] = []

    def counted(subject, cell, num_images, advance):
        made.append(cell.name)
        return sampler_runs.made_images(subject, cell, num_images, advance)

    monkeypatch.setattr(comparing_samplers, "made_images", counted)
    monkeypatch.chdir(finished.root)
    (finished.out_dir / "cells" / "heun-8.json").unlink()
    compare_samplers(finished.model, request(steps=[5, 8, 250]), finished.out_dir)
    assert made == ["heun-8"]
    report = json.loads((finished.out_dir / "results.json").read_text())
    others = [cell for cell in report["cells"] if cell["name"] != "heun-8"]
    assert others == [cell for cell in finished.report["cells"] if cell["name"] != "heun-8"]
    shown = capsys.readouterr().out
    assert "UniPC" in shown
    assert "The target is" in shown.splitlines()[-1]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_clone(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_stop_loses_the_running_cell_at_most(
    clone: Path, plain_config: Config, monkeypatch: pytest.MonkeyPatch
):
    model = make_bundle(clone / "bundle", plain_config)
    begun: list[str] = []

    def stopped(subject, cell, num_images, advance):
        begun.append(cell.name)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return sampler_runs.made_images(subject, cell, num_images, advance)

    monkeypatch.setattr(comparing_samplers, "made_images", stopped)
    narrow = request(samplers=["ddim", "uni_pc"])
    with pytest.raises(KeyboardInterrupt):
        compare_samplers(model, narrow, clone / "out")
    kept = {path.stem for path in (clone / "out" / "cells").glob("*.json")}
    assert kept == {"converged", *begun[:2]}
    compare_samplers(model, narrow, clone / "out")
    assert begun[3:] == [begun[2], begun[4]]
    assert len(set(begun)) == 4


def test_a_sampler_that_diverges_is_a_row_with_step_and_value(
    clone: Path,
    plain_config: Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def diverging(subject, cell, num_images, advance):
        if cell == Cell("ddim", 5):
            raise SamplingError("sampling diverged at step 3 (sigma 0.2): it reached 1e+05; less")
        return sampler_runs.made_images(subject, cell, num_images, advance)

    monkeypatch.setattr(comparing_samplers, "made_images", diverging)
    model = make_bundle(clone / "bundle", plain_config)
    compare_samplers(model, request(samplers=["ddim"]), clone / "out")
    report = json.loads((clone / "out" / "results.json").read_text())
    jsonschema.validate(report, SCHEMA)
    broken, sound = report["cells"]
    assert "diverged at step 3" in broken["error"]
    assert broken["frechet"] is None
    assert sound["error"] is None
    assert "reached 1e+05" in capsys.readouterr().out


def test_fewer_images_of_ddpm_stand_beside_the_baseline_at_as_many(
    clone: Path, plain_config: Config, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(comparing_samplers, "LONGEST_STEPS", 8)
    monkeypatch.setattr(comparing_samplers, "BASELINE", Cell("ddim", 5))
    model = make_bundle(clone / "bundle", plain_config)
    compare_samplers(model, request(samplers=["ddim"]), clone / "out")
    report = json.loads((clone / "out" / "results.json").read_text())
    many, few = report["cells"]
    assert (many["n"], few["n"]) == (12, 6)
    assert few["baseline_at_this_n"]["n"] == few["floor"]["n"] == 6
    assert many["baseline_at_this_n"] is None
    assert report["pareto_front"] == ["ddim-5"]


def test_all_that_is_asked_for_reaches_the_images(clone: Path, plain_config: Config):
    model = make_bundle(clone / "bundle", plain_config)
    for place, changes in enumerate(({}, {"seed": 1}, {"guidance": 3.0})):
        asked = request(samplers=["ddim"], steps=[5], **changes)
        compare_samplers(model, asked, clone / str(place))
    paths = [clone / str(place) / "cells" / "ddim-5.safetensors" for place in range(3)]
    pictures = [load_file(path)["images"] for path in paths]
    assert not torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


def test_without_a_reference_it_says_what_to_run(clone: Path, plain_config: Config):
    model = make_bundle(clone / "bundle", plain_config)
    (clone / "artifacts/compute_reference/reference/features.safetensors").unlink()
    with pytest.raises(DataError, match="dvc repro -f compute_reference"):
        compare_samplers(model, request(), clone / "out")
    assert not (clone / "out").exists()


def test_a_reference_of_other_weights_is_refused(
    clone: Path, plain_config: Config, monkeypatch: pytest.MonkeyPatch
):
    def other(*_: object) -> Extractor:
        return Extractor("other", "f" * 64, 8, 4, None, lambda images: (images, None))

    monkeypatch.setattr(comparing_samplers, "build_extractor", other)
    model = make_bundle(clone / "bundle", plain_config)
    with pytest.raises(DataError, match=r"made with tiny .* names other .*dvc repro"):
        compare_samplers(model, request(), clone / "out")


def test_the_hierarchical_sampler_is_refused_without_a_tree(clone: Path, plain_config: Config):
    model = make_bundle(clone / "bundle", plain_config)
    with pytest.raises(ConfigError, match="descends a tree"):
        compare_samplers(model, request(samplers=["hierarchical"]), clone / "out")
