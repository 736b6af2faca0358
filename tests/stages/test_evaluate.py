"""The stage evaluate on tiny samples, a tiny model and tiny real images."""

import csv
import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from tests.prepared_images import stripes, write_prepared
from tests.stages.test_sample import make_bundle
from vivero.errors import DataError
from vivero.evaluation.directions import better_of, is_share
from vivero.evaluation.findings import Findings
from vivero.evaluation.per_image import OF_REFERENCE, PER_IMAGE_NAME, load_per_image
from vivero.evaluation.reference import load_reference
from vivero.files import sha256_of_json, write_json
from vivero.registry.bundle import Bundle, load_bundle
from vivero.stages import compute_reference, evaluate
from vivero.stages.evaluate import read_exhibit, run
from vivero.stages.sample import write_samples

CLASS_NAMES = ["top", "middle", "low"]
FIGURES = {
    "fd.efficientnet_lite0.20", "kd.efficientnet_lite0.20", "is.efficientnet_lite0.20",
    "precision.efficientnet_lite0.20", "recall.efficientnet_lite0.20",
    "density.efficientnet_lite0.20", "coverage.efficientnet_lite0.20",
    "label_agreement.small_cnn.20", "cas.small_cnn.20", "denoising_loss.mean.8",
    "copied_share.pixels.10", "nearest_ratio.pixels.10", "near_equal_share.pixels.20",
    "copied_share.features.10", "nearest_ratio.features.10", "unusable_share.efficientnet_lite0.20",
}  # fmt: skip
FIELDS = {
    "value", "low", "high", "std_error", "n", "floor", "floor_low", "floor_high", "floor_n",
    "extractor", "extractor_sha256", "resize", "better",
}  # fmt: skip


def house(root: Path, config, class_names: list[str]) -> Path:
    """All that evaluate reads: real images, their reference, a model, and samples."""
    images_dir = write_prepared(root, class_names)
    compute_reference.run(config, root)
    make_bundle(root / "artifacts/sample/bundle", config, class_names)
    curves_dir = root / "artifacts/train/curves"
    curves_dir.mkdir(parents=True)
    (curves_dir / "loss.csv").write_text("images_seen,loss\n8,1.0\n16,0.5\n")
    images, labels = stripes(config.sample.num_images, class_names, seed=99)
    images[0] = np.load(images_dir / "train.npy")[3]  # a copy, to be found
    sample_dir = root / "artifacts/sample"
    bundle = load_bundle(sample_dir / "bundle")
    write_samples(sample_dir, images, np.maximum(labels, 0), sample_record(bundle, config))
    return root


def sample_record(bundle: Bundle, config) -> dict[str, object]:
    """What samples.json must hold of the model and its settings."""
    model = {"weights_sha256": bundle.weights_sha256, "seed": config.sample.seed}
    return {**model, **bundle.sampling_defaults}


@pytest.fixture(scope="module")
def root(tmp_path_factory, tiny_config) -> Path:
    root = house(tmp_path_factory.mktemp("house"), tiny_config, CLASS_NAMES)
    run(tiny_config, root)
    return root


@pytest.fixture(scope="module")
def out_dir(root: Path) -> Path:
    return root / "artifacts" / "evaluate"


@pytest.fixture(scope="module")
def report(out_dir: Path):
    return json.loads((out_dir / "metrics.json").read_text())


def test_every_figure_has_its_interval_n_judge_and_floor(report):
    assert set(report["metrics"]) == FIGURES
    assert report["not_computed"] == {}
    for name, figure in report["metrics"].items():
        assert set(figure) == FIELDS, name
        assert figure["low"] <= figure["value"] <= figure["high"], name
        assert figure["std_error"] >= 0, name
        assert figure["better"] == better_of(name), name
        assert not is_share(name) or 0 <= figure["low"] <= figure["high"] <= 1, name
        if not name.startswith(("denoising_loss", "nearest_ratio")):
            assert figure["floor_low"] <= figure["floor"] <= figure["floor_high"], name
    of_features = report["metrics"]["fd.efficientnet_lite0.20"]
    assert of_features["extractor_sha256"].startswith("579344248a93")
    assert of_features["n"] == of_features["floor_n"] == 20


def test_a_planted_copy_is_found(report):
    assert report["metrics"]["copied_share.pixels.10"]["value"] == pytest.approx(0.1)
    assert report["metrics"]["copied_share.features.10"]["value"] == pytest.approx(0.1)
    assert report["metrics"]["copied_share.pixels.10"]["floor"] == 0


def test_the_protocol_names_all_that_changes_the_figures(report):
    protocol = report["protocol"]
    ruler = {k: v for k, v in protocol.items() if k not in ("hash", "ruler_hash", "sampling")}
    assert protocol["ruler_hash"] == sha256_of_json(ruler)
    whole = {"ruler": protocol["ruler_hash"], "sampling": protocol["sampling"]}
    assert protocol["hash"] == sha256_of_json(whole)
    assert (protocol["n"], protocol["extractor"]) == (20, "efficientnet_lite0")
    assert report["lineage"]["weights_sha256"]


def test_pictures_tables_and_page_are_there(out_dir: Path):
    names = {"grid", "nearest", "metrics", "loss_by_noise", "per_class", "curves"}
    assert {path.stem for path in (out_dir / "plots").iterdir()} == names
    for path in (out_dir / "plots").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 100, path.name
    page = (out_dir / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(names)
    assert "http://" not in page
    assert "https://" not in page
    with (out_dir / "per_class.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == CLASS_NAMES


def test_values_per_image_say_what_the_figures_say(report, out_dir: Path):
    protocol_hash = report["protocol"]["hash"]
    weights = report["lineage"]["weights_sha256"]
    values = load_per_image(out_dir / PER_IMAGE_NAME, protocol_hash, weights)
    distance = "fd.efficientnet_lite0.20"
    assert set(values) == {
        distance, distance + OF_REFERENCE, "label_agreement.small_cnn.20", "denoising_loss.mean.8",
        "copied_share.pixels.10", "copied_share.features.10", "near_equal_share.pixels.20",
        "precision.efficientnet_lite0.20", "recall.efficientnet_lite0.20",
        "coverage.efficientnet_lite0.20",
        "unusable_share.efficientnet_lite0.20",
    }  # fmt: skip
    for name, row in values.items():
        if name.startswith(distance):
            assert float(row.mean()) == pytest.approx(0, abs=1e-3), name
            continue
        assert float(row.mean()) == pytest.approx(report["metrics"][name]["value"], rel=1e-5), name
    error = values[distance].std(ddof=1) / len(values[distance]) ** 0.5
    assert error == pytest.approx(report["metrics"][distance]["std_error"], rel=1e-4)
    assert load_per_image(out_dir / PER_IMAGE_NAME, "another", weights) == {}


def test_the_summary_is_flat_and_finite(out_dir: Path):
    summary = json.loads((out_dir / "summary.json").read_text())
    assert summary["stage"] == "evaluate"
    numbers = {key: value for key, value in summary.items() if key not in ("stage", "made")}
    assert set(numbers) >= FIGURES
    assert all(math.isfinite(value) for value in numbers.values())


def test_the_same_inputs_give_the_same_report(root: Path, report, tmp_path: Path, tiny_config):
    again = tmp_path / "again"
    shutil.copytree(root, again)
    shutil.rmtree(again / "artifacts/evaluate")
    shutil.rmtree(again / "work")
    run(tiny_config, again)
    assert json.loads((again / "artifacts/evaluate/metrics.json").read_text()) == report
    kept, made = (house / "artifacts/evaluate" / PER_IMAGE_NAME for house in (root, again))
    assert made.read_bytes() == kept.read_bytes()


def test_images_without_labels_are_judged_by_what_needs_none(tmp_path: Path, tiny_config):
    run(tiny_config, house(tmp_path, tiny_config, []))
    report = json.loads((tmp_path / "artifacts/evaluate/metrics.json").read_text())
    labelled = {"label_agreement.small_cnn.20", "cas.small_cnn.20"}
    assert set(report["metrics"]) == FIGURES - labelled
    assert report["not_computed"] == {
        "label agreement": "the data has no labels",
        "classification accuracy score": "the data has no labels",
    }


def test_too_few_samples_leave_a_reason_and_no_nan(root: Path, tmp_path: Path, tiny_config):
    few = tmp_path / "few"
    shutil.copytree(root, few)
    folder = few / "artifacts/sample"
    images, labels = (np.load(folder / f"{name}.npy")[:1] for name in ("images", "labels"))
    write_samples(
        folder, images, labels, sample_record(load_bundle(folder / "bundle"), tiny_config)
    )
    run(tiny_config, few)
    text = (few / "artifacts/evaluate/metrics.json").read_text()
    assert "NaN" not in text
    assert "at least 2 images" in json.loads(text)["not_computed"]["distances"]


@pytest.mark.parametrize("error", [ValueError, DataError, KeyError, np.linalg.LinAlgError])
def test_a_fault_of_the_code_fails_the_stage(
    root: Path, tmp_path: Path, tiny_config, monkeypatch: pytest.MonkeyPatch, error
):
    def fault(*_: object) -> None:
        raise error("a fault")

    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    shutil.rmtree(copy / "artifacts/evaluate")
    monkeypatch.setattr(evaluate, "distance_metrics", fault)
    with pytest.raises(error, match="a fault"):
        run(tiny_config, copy)
    assert not (copy / "artifacts/evaluate/metrics.json").exists()


@pytest.mark.parametrize("key", ["value", "std_error", "low", "high"])
def test_a_metric_that_is_not_finite_is_left_out_with_the_reason(key: str):
    findings = Findings()
    numbers = {"value": 1.0, "std_error": 1.0, "low": 0.0, "high": 2.0, "n": 3}
    findings.add("fine", lambda: {"a": numbers})
    findings.add("broken", lambda: {"b": {**numbers, key: math.nan}})
    assert findings.metrics == {"a": numbers}
    assert findings.not_computed == {"broken": f"b cannot be used: its {key} is nan"}


@pytest.mark.parametrize("key", ["value", "std_error", "low", "high"])
def test_a_metric_without_one_of_its_numbers_is_left_out_with_the_reason(key: str):
    findings = Findings()
    numbers = {"value": 1.0, "std_error": 1.0, "low": 0.0, "high": 2.0, "n": 3}
    del numbers[key]
    findings.add("broken", lambda: {"b": numbers})
    assert findings.metrics == {}
    assert findings.not_computed == {"broken": f"b cannot be used: its {key} is no number"}


def test_of_a_metric_that_is_left_out_nothing_is_kept():
    findings = Findings()
    numbers = {"value": 1.0, "std_error": 1.0, "low": 0.0, "high": 2.0, "n": 3}

    def group(name: str, value: float) -> dict[str, dict[str, float]]:
        findings.keep({name: np.ones(3)})
        findings.details[name] = [1]
        return {name: {**numbers, "value": value}}

    findings.add("fine", lambda: group("a", 1.0))
    findings.add("broken", lambda: group("b", math.nan))
    assert set(findings.metrics) == set(findings.per_image) == set(findings.details) == {"a"}


def test_one_constant_of_the_data_weighs_the_loss_of_every_model(root: Path, config_factory):
    """Networks that give back the noisy image make the same squared errors, whatever sigma_data."""
    reference = load_reference(root / "artifacts/compute_reference/reference")
    train = np.load(root / "artifacts/prepare_data/images/train.npy")
    assert reference.facts.image_std == pytest.approx((train / 127.5 - 1).std())
    losses = []
    for sigma_data in (0.5, 0.8, 1.0, 2.0):
        changed = config_factory({"train.diffusion.sigma_data": sigma_data})
        inputs = read_exhibit(changed, root)
        make_bundle(root / f"{sigma_data}", changed, CLASS_NAMES)
        bundle = load_bundle(root / f"{sigma_data}")
        assert bundle.config.diffusion.sigma_data == sigma_data
        copying = Denoise(bundle.denoiser.null_label)
        inputs = replace(inputs, bundle=replace(bundle, denoiser=copying))
        metrics = evaluate.denoising(inputs, Findings())
        losses.append(metrics["denoising_loss.mean.8"]["value"])
    assert losses == [losses[0]] * 4
    assert losses[0] > 0


@dataclass(frozen=True)
class Denoise:
    """A denoiser that changes nothing."""

    null_label: int

    def __call__(self, noisy: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        return noisy


def test_the_protocol_holds_the_classifier(root: Path, tmp_path: Path, tiny_config):
    other = tmp_path / "other"
    shutil.copytree(root, other)
    path = other / "artifacts/compute_reference/reference/classifier.safetensors"
    weights = bytearray(path.read_bytes())
    weights[-1] ^= 1
    path.write_bytes(weights)
    inputs = read_exhibit(tiny_config, other)
    with pytest.raises(DataError, match="not the classifier of this reference"):
        evaluate.agreement(inputs, Findings())


def test_says_what_to_run_when_samples_are_missing(root: Path, tmp_path: Path, tiny_config):
    without = tmp_path / "without"
    shutil.copytree(root, without)
    shutil.rmtree(without / "artifacts/sample")
    with pytest.raises(DataError, match=r"dvc repro.* sample"):
        run(tiny_config, without)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
def test_samples_that_were_changed_after_sampling_are_refused(
    root: Path, tmp_path: Path, tiny_config, name: str
):
    path = copy_of(root, tmp_path) / "artifacts/sample" / name
    values = np.load(path)
    values[[0, 1]] = values[[1, 0]] if name == "images.npy" else 1 - values[[0, 1]] % 2
    np.save(path, values)
    with pytest.raises(DataError, match=rf"{name} in .* changed after sampling.*dvc repro"):
        read_exhibit(tiny_config, tmp_path / "copy")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"code_sha256": "a" * 64}, "made by other code"),
        ({"code_sha256": None}, "made by other code"),
        ({"files": None}, r"images.npy and labels.npy in .* changed after sampling"),
    ],
)
def test_samples_of_other_code_or_without_hashes_are_refused(
    root: Path, tmp_path: Path, tiny_config, changes: dict[str, object], said: str
):
    path = copy_of(root, tmp_path) / "artifacts/sample/samples.json"
    write_json(path, {**json.loads(path.read_text()), **changes})
    with pytest.raises(DataError, match=said):
        read_exhibit(tiny_config, tmp_path / "copy")


@pytest.mark.parametrize("name", ["train.npy", "train_labels.npy", "test.npy", "test_labels.npy"])
def test_the_last_image_and_label_of_each_split_are_part_of_the_ruler(
    root: Path, tmp_path: Path, config_factory, name: str
):
    config = config_factory({"compute_reference.num_images": 20})
    copy = copy_of(root, tmp_path)
    compute_reference.run(config, copy)
    rulers = [ruler(config, copy)]
    path = copy / "artifacts/prepare_data/images" / name
    values = np.load(path)
    values[-1] = (values[-1] + 1) % 3
    np.save(path, values)
    with pytest.raises(DataError, match="not those that the reference was made from"):
        read_exhibit(config, copy)
    compute_reference.run(config, copy)
    rulers.append(ruler(config, copy))
    assert rulers[0]["reference_sha256"] != rulers[1]["reference_sha256"]


def copy_of(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


def ruler(config, root: Path) -> dict[str, object]:
    return evaluate.protocol(read_exhibit(config, root))
