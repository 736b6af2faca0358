"""A champion under another protocol, and the same weights with another sampler: all for real."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model_versions import make_artifacts, read
from tests.prepared_images import write_prepared
from vivero.config.schema import Config
from vivero.evaluation.protocol import protocol_hash
from vivero.files import sha256_of_file, write_json
from vivero.models.load import build_network
from vivero.registry.bundle import BundleContents, write_bundle
from vivero.registry.bundle_config import BundleConfig, bundle_config
from vivero.registry.keys import SigningKey, _make_key, export_key, public_key_of
from vivero.registry.signatures import Record, new_record, sign_folder
from vivero.registry.signing_requests import sign_requests
from vivero.registry.versions import (
    CHAMPION,
    RECORDED_TAG,
    SIGNATURE_TAG,
    WEIGHTS_TAG,
    ModelVersion,
    find_alias,
    list_versions,
    report_folder,
)
from vivero.stages import (
    compute_reference,
    evaluate,
    judge,
    measure_champion,
    register,
    sample,
)
from vivero.stages.champion_report import _folder, _sign, kept_evaluation, no_report
from vivero.tracking.store import open_client

CLASS_NAMES = ["top", "middle", "low"]
NO_LIMITS = {  # random weights make poor images
    "judge.max_frechet_over_floor": 1e9,
    "judge.min_label_agreement": 0.0,
    "judge.max_copied_share": 1.0,
    "judge.max_unusable_share": 1.0,
    "judge.max_near_equal_share": 1.0,
    "judge.min_recall_over_floor": 0.0,
    "judge.min_coverage_over_floor": 0.0,
}
Factory = Callable[..., Config]


@pytest.fixture
def config(config_factory: Factory) -> Config:
    return config_factory(NO_LIMITS)


def train(root: Path, config: Config, seed: int) -> None:
    """A bundle with random weights in place of a training."""
    values = {**bundle_config(config, CLASS_NAMES), "sampling": None}
    generator = torch.Generator().manual_seed(seed)
    state = build_network(BundleConfig.model_validate(values).network).state_dict()
    weights = {n: 0.1 * torch.randn(v.shape, generator=generator) for n, v in state.items()}
    lineage = {"data_digest": "d" * 32, "params_sha256": "e" * 64, "is_dirty": False, "seed": seed}
    contents = BundleContents(weights, values, lineage, "# A model\n")
    write_bundle(root / "artifacts/train/bundle", contents)


def judge_model(root: Path, config: Config) -> dict[str, Any]:
    sample.run(config, root)
    evaluate.run(config, root)
    judge.run(config, root)
    return read(root, "judge/verdict.json")


@pytest.fixture
def home(root: Path, config: Config) -> Path:
    """A repository with a champion."""
    make_artifacts(root, config)  # the record of a training, which register needs
    shutil.rmtree(root / "artifacts/prepare_data")
    write_prepared(root, CLASS_NAMES)
    compute_reference.run(config, root)
    curves_dir = root / "artifacts/train/curves"
    curves_dir.mkdir(parents=True)
    (curves_dir / "loss.csv").write_text("images_seen,loss\n8,1.0\n16,0.5\n")
    train(root, config, seed=0)
    judge_model(root, config)
    version = register.run(config, root)
    open_client(root).set_registered_model_alias("vivero", CHAMPION, version.version)
    return root


def gate_names(verdict: dict[str, Any]) -> set[str]:
    return {gate["name"] for gate in verdict["gates"]}


def champion_metrics(root: Path, name: str) -> Any:
    champion = find_alias(root, "vivero", CHAMPION)
    assert champion is not None
    folder = report_folder(root, champion, name)
    return folder and json.loads((folder / "metrics.json").read_text())["metrics"]


def test_a_champion_is_evaluated_again_when_the_protocol_changes(
    home: Path, config_factory: Factory, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    changed = config_factory(
        {**NO_LIMITS, "evaluate.num_noise_levels": 4, "sample.seed": 9, "sample.num_images": 24}
    )
    sample.run(changed, home)
    evaluate.run(changed, home)  # of the champion itself: what a new evaluation must find
    expected = read(home, "evaluate/metrics.json")
    shutil.rmtree(home / "artifacts/evaluate")

    train(home, changed, seed=1)
    verdict = judge_model(home, changed)
    name = expected["protocol"]["hash"]
    assert "it is evaluated again, once" in caplog.text
    assert "evaluating version 1: 24 images in 3 steps" in caplog.text
    assert "protocol" not in gate_names(verdict)
    assert verdict["champion"] == "1"
    (folder,) = (home / "work/evaluations").iterdir()
    kept = json.loads((folder / "metrics.json").read_text())
    assert kept["metrics"] == expected["metrics"]
    assert kept["protocol"] == expected["protocol"]

    caplog.clear()
    judge.run(changed, home)
    assert "evaluated again" not in caplog.text

    assert champion_metrics(home, name) is None
    register.run(changed, home)
    shutil.rmtree(home / "work")
    assert champion_metrics(home, name) == expected["metrics"]
    caplog.clear()
    judge.run(changed, home)
    assert "evaluated again" not in caplog.text


NAME = "a" * 64  # of a protocol
VERSION = ModelVersion("vivero", "3", (), {WEIGHTS_TAG: "b" * 64, SIGNATURE_TAG: "c" * 64}, "", 0)
RECORD = new_record(VERSION.name, VERSION.version, VERSION.weights_sha256, NAME)


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    """A key that the repository trusts."""
    made = SigningKey(_make_key(tmp_path / "elsewhere/key.pem"), None)
    export_key(tmp_path, public_key_of(made), "tests")
    return made


def keep(
    root: Path, key: SigningKey | None, record: Record = RECORD, weights: str = "b" * 64
) -> Path:
    """An evaluation in work/, as evaluate_version leaves it."""
    folder = _folder(root, VERSION, RECORD)
    report = {"protocol": {"hash": NAME}, "lineage": {"weights_sha256": weights}}
    write_json(folder / "metrics.json", report)
    (folder / "per_image.safetensors").write_bytes(b"values")
    if key is not None:
        sign_folder(folder, record, key)
    return folder


def test_a_kept_evaluation_that_a_trusted_key_signed_is_used(tmp_path: Path, key: SigningKey):
    folder = keep(tmp_path, key)
    assert kept_evaluation(tmp_path, VERSION, NAME) == folder
    assert kept_evaluation(tmp_path, VERSION, "d" * 64) is None


@pytest.mark.parametrize("name", ["metrics.json", "per_image.safetensors", "record.json", "new"])
def test_a_kept_evaluation_whose_files_changed_is_not_used(
    tmp_path: Path, key: SigningKey, name: str, caplog: pytest.LogCaptureFixture
):
    path = keep(tmp_path, key) / name
    path.write_bytes((path.read_bytes() if path.exists() else b"") + b" ")
    assert kept_evaluation(tmp_path, VERSION, NAME) is None
    assert "is not used: the files in" in caplog.text


def test_a_kept_evaluation_without_a_trusted_signature_is_not_used(
    tmp_path: Path, key: SigningKey, caplog: pytest.LogCaptureFixture
):
    folder = keep(tmp_path, None)
    hashes = {name: sha256_of_file(folder / name) for name in ("metrics.json",)}
    write_json(folder / "evaluation.json", {"files": hashes})  # what a forger can write
    assert kept_evaluation(tmp_path, VERSION, NAME) is None
    assert "are not signed" in caplog.text
    shutil.rmtree(folder)
    keep(tmp_path, SigningKey(_make_key(tmp_path / "elsewhere/other.pem"), None))
    assert kept_evaluation(tmp_path, VERSION, NAME) is None
    assert "which nobody trusts here" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [{"version": "2"}, {"weights_sha256": "e" * 64}, {"protocol_hash": "e" * 64}, {"model": "x"}],
)
def test_a_signed_evaluation_of_something_else_is_not_used(
    tmp_path: Path, key: SigningKey, changes: dict[str, str]
):
    keep(tmp_path, key, replace(RECORD, **changes))
    assert kept_evaluation(tmp_path, VERSION, NAME) is None


def test_a_signed_report_of_other_weights_is_not_used(tmp_path: Path, key: SigningKey):
    keep(tmp_path, key, weights="e" * 64)
    assert kept_evaluation(tmp_path, VERSION, NAME) is None


def test_where_another_process_signs_an_evaluation_is_kept_once_it_is_signed(
    tmp_path: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch
):
    unsigned_dir = tmp_path / "work/unsigned"
    monkeypatch.setenv("VIVERO_UNSIGNED_DIR", str(unsigned_dir))
    folder = keep(tmp_path, None)
    _sign(tmp_path, folder, RECORD)
    assert not (folder / "model.sig").exists()
    assert kept_evaluation(tmp_path, VERSION, NAME) is None
    assert len(sign_requests(unsigned_dir, key)) == 1
    kept = kept_evaluation(tmp_path, VERSION, NAME)
    assert kept is not None
    assert kept.is_relative_to(unsigned_dir)
    assert (kept / "metrics.json").read_bytes() == (folder / "metrics.json").read_bytes()


def test_without_a_usable_key_an_evaluation_is_used_once_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("VIVERO_SIGNING_KEY", str(tmp_path / "missing.pem"))
    _sign(tmp_path, keep(tmp_path, None), RECORD)
    assert "used now, but not kept" in caplog.text


def test_a_version_without_a_report_is_named():
    assert "version 3 of 'vivero' has no report of its registration" in str(no_report(VERSION))


def test_the_same_weights_with_another_sampler_are_judged_and_registered(
    home: Path, config_factory: Factory, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    before = read(home, "evaluate/metrics.json")["protocol"]
    faster = config_factory({**NO_LIMITS, "sampling.num_steps": 2, "sampling.guidance": 1.0})
    verdict = judge_model(home, faster)
    after = read(home, "evaluate/metrics.json")["protocol"]
    assert after["ruler_hash"] == before["ruler_hash"]
    assert after["hash"] != before["hash"]
    assert after["hash"] == protocol_hash(after["ruler_hash"], after["sampling"])
    assert verdict["is_champion_itself"] is False
    assert {"latency", "fd.efficientnet_lite0.20"} <= gate_names(verdict)
    assert "protocol" not in gate_names(verdict)
    assert "evaluated again" not in caplog.text
    version = register.run(faster, home)
    assert version.version == "2"
    assert len({v.weights_sha256 for v in list_versions(home, "vivero")}) == 1


def test_a_champion_of_other_classes_is_held_with_the_reason(home: Path, config: Config):
    shutil.rmtree(home / "artifacts/prepare_data")
    write_prepared(home, ["top", "middle"])
    compute_reference.run(config, home)
    values = {**bundle_config(config, ["top", "middle"]), "sampling": None}
    network = build_network(BundleConfig.model_validate(values).network)
    lineage = {"data_digest": "d" * 32, "params_sha256": "e" * 64, "is_dirty": False}
    contents = BundleContents(network.state_dict(), values, lineage, "# A model\n")
    write_bundle(home / "artifacts/train/bundle", contents)
    verdict = judge_model(home, config)
    assert verdict["verdict"] == "hold"
    reason = verdict["gates"][-1]["reason"]
    assert "version 1 cannot be evaluated on the present data: it makes the classes" in reason


def present_champion(root: Path) -> ModelVersion:
    found = find_alias(root, "vivero", CHAMPION)
    assert found is not None
    return found


def test_the_champion_is_measured_on_images_that_no_judgement_used(
    home: Path, config: Config, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    recorded = measure_champion.run(config, home)
    (folder,) = (home / "work/evaluations").iterdir()
    report = json.loads((folder / "metrics.json").read_text())
    judged = json.loads((home / "artifacts/evaluate/metrics.json").read_text())
    fresh, used = report["protocol"], judged["protocol"]
    assert fresh["sample_seed"] not in (used["sample_seed"], config.sample.seed)
    same = ("n", "code_sha256", "reference_sha256", "sampling", "settings")
    assert {key: fresh[key] for key in same} == {key: used[key] for key in same}
    name = next(name for name in report["metrics"] if name.startswith("fd."))
    value = report["metrics"][name]["value"]
    assert value != judged["metrics"][name]["value"]
    assert recorded.startswith(f"{name} {value:.4g} [")
    assert present_champion(home).tags[RECORDED_TAG] == recorded
    assert champion_metrics(home, fresh["hash"]) == report["metrics"]  # signed, in the registry

    tags = present_champion(home).tags
    shutil.rmtree(home / "work/evaluations")
    caplog.clear()
    assert measure_champion.run(config, home) == recorded  # the registry has it
    assert "evaluating version" not in caplog.text
    assert present_champion(home).tags == tags
