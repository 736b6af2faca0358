"""Stage `register`: MLflow is filled from the files, and has the model once."""

import time
from pathlib import Path

import pytest

from tests.mlflow_stores import Server, empty_store
from tests.model_versions import make_artifacts, read
from tests.services import Servers, empty_mlflow, rest_mlflow, servers  # noqa: F401
from vivero.config.schema import Config
from vivero.errors import DataError, TrackingError
from vivero.files import sha256_of_file, write_json
from vivero.registry.bundle import load_bundle
from vivero.registry.lineage_trace import trace
from vivero.registry.promotion import rollback
from vivero.registry.versions import SAMPLING_TAG, list_versions, resolve_model
from vivero.stages import judge, promote, register
from vivero.tracking.runs import RUN_KEY_TAG
from vivero.tracking.store import open_client


def judged(root: Path, config: Config, seed: int = 0, distance: float = 5.0) -> str:
    weights_sha256 = make_artifacts(root, config, seed, distance)
    judge.run(config, root)
    return weights_sha256


def test_twice_the_same_makes_one_version_and_one_run(root: Path, tiny_config: Config):
    weights_sha256 = judged(root, tiny_config)
    register.run(tiny_config, root)
    first = read(root, "register/registered.json")
    register.run(tiny_config, root)

    assert read(root, "register/registered.json") == first
    assert first["version"] == "1"
    assert first["weights_sha256"] == weights_sha256
    assert "is already version 1" in read(root, "register/summary.json")["made"]
    (version,) = list_versions(root, "vivero")
    assert version.tags["vivero.verdict"] == "first"
    client = open_client(root)
    run = client.get_run(first["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags[RUN_KEY_TAG] == "fingerprint-0"
    points = client.get_metric_history(first["run_id"], "train/loss")
    assert sorted(point.step for point in points) == [8, 16]
    description = client.get_model_version("vivero", "1").description
    assert "| fd.efficientnet_lite0.5k | 5 | 4.8 to 5.2 | 1 | 5000 | lower |" in description
    experiment = client.get_experiment_by_name("vivero")
    assert len(client.search_runs([experiment.experiment_id])) == 2, "training, registration"


def test_an_emptied_store_is_filled_again(root: Path, tiny_config: Config):
    judged(root, tiny_config)
    register.run(tiny_config, root)
    (root / "mlflow.db").unlink()
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mlflow.db").write_bytes(empty_store())
    (root / "artifacts").rename(elsewhere / "artifacts")
    judge.run(tiny_config, elsewhere)
    register.run(tiny_config, elsewhere)
    run_id = read(elsewhere, "register/registered.json")["run_id"]
    assert len(open_client(elsewhere).get_metric_history(run_id, "train/loss")) == 2
    assert (resolve_model("models:/vivero/1", elsewhere) / "manifest.json").is_file()


@pytest.mark.slow
def test_an_emptied_server_on_postgresql_is_filled_again(
    root: Path,
    tiny_config: Config,
    rest_mlflow: str,  # noqa: F811
    servers: Servers,  # noqa: F811
):
    """The clone stays, with all it has noted; the server knows nothing any more."""
    empty_mlflow(servers)
    weights_sha256 = judged(root, tiny_config)
    register.run(tiny_config, root)
    assert promote.run(tiny_config, root)
    before = read(root, "register/registered.json")

    empty_mlflow(servers)
    assert list_versions(root, "vivero") == []
    judge.run(tiny_config, root)
    register.run(tiny_config, root)
    again = read(root, "register/registered.json")
    assert {**again, "run_id": before["run_id"]} == before
    assert again["run_id"] != before["run_id"]
    points = open_client(root).get_metric_history(again["run_id"], "train/loss")
    assert sorted(point.step for point in points) == [8, 16]
    assert promote.run(tiny_config, root)
    champion = resolve_model("models:/vivero@champion", root)
    assert load_bundle(champion).weights_sha256 == weights_sha256
    (version,) = list_versions(root, "vivero")
    assert version.aliases == ("champion",)


def test_the_lineage_stands_on_the_run_the_model_and_the_version(root: Path, tiny_config: Config):
    weights_sha256 = judged(root, tiny_config)
    register.run(tiny_config, root)
    register.run(tiny_config, root)
    client = open_client(root)
    run_id = read(root, "register/registered.json")["run_id"]
    (version,) = list_versions(root, "vivero")
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    digest = f"{'d' * 32}.dir"
    lineage = {
        "data_digest": digest, "params_sha256": "e" * 64, "weights_sha256": weights_sha256,
    }  # fmt: skip
    for key, value in lineage.items():
        assert client.get_run(run_id).data.tags[f"lineage.{key}"] == value
        assert model.tags[f"lineage.{key}"] == value
        assert version.tags[f"vivero.lineage.{key}"] == value
    key = f"register-{weights_sha256}-{version.tags[SAMPLING_TAG][:12]}"
    experiment = client.get_experiment_by_name("vivero").experiment_id
    (child,) = client.search_runs([experiment], f"tags.`{RUN_KEY_TAG}` = '{key}'")
    (data,) = child.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("tiny", digest)
    (item,) = trace("models:/vivero/1", root).runs
    assert item.run_id == run_id
    card = client.get_model_version("vivero", "1").description
    assert len(card) <= 5000
    assert "## Known limits, memorisation and safety" in card


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("evaluate/metrics.json", "dvc repro evaluate"),
        ("judge/verdict.json", "vivero judge"),
        ("train/journal.jsonl", "dvc repro train"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_makes_it(
    root: Path, tiny_config: Config, missing: str, command: str
):
    judged(root, tiny_config)
    (root / "artifacts" / missing).unlink()
    with pytest.raises(DataError, match=rf"{missing} is missing; run `{command}` first"):
        register.run(tiny_config, root)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights_sha256": "f" * 64}, "other weights .*vivero judge"),
        ({"sampling_sha256": "f" * 64}, "other settings of sampling .*vivero judge"),
        ({"report_sha256": "f" * 64}, "other report .*vivero judge"),
        ({"settings": {}}, "other settings .*vivero judge"),
        ({"verdict": "promote"}, "its gates give 'first'.*vivero judge"),
        ({"gates": []}, "gates.*vivero judge"),
        ({"verdict": "great"}, "verdict.*vivero judge"),
    ],
)
def test_a_verdict_on_something_else_registers_nothing(
    root: Path, tiny_config: Config, changes: dict[str, object], said: str
):
    judged(root, tiny_config)
    verdict = {**read(root, "judge/verdict.json"), **changes}
    write_json(root / "artifacts" / "judge" / "verdict.json", verdict)
    with pytest.raises(DataError, match=said):
        register.run(tiny_config, root)
    assert list_versions(root, "vivero") == []


def test_the_report_of_another_model_registers_nothing(root: Path, tiny_config: Config):
    judged(root, tiny_config)
    metrics_path = root / "artifacts" / "evaluate" / "metrics.json"
    lineage = {"weights_sha256": "f" * 64}
    write_json(metrics_path, {**read(root, "evaluate/metrics.json"), "lineage": lineage})
    verdict = read(root, "judge/verdict.json")
    verdict["report_sha256"] = sha256_of_file(metrics_path)
    write_json(root / "artifacts" / "judge" / "verdict.json", verdict)
    with pytest.raises(DataError, match="report of another model"):
        register.run(tiny_config, root)
    assert list_versions(root, "vivero") == []


def test_without_mlflow_it_says_so_quickly(
    root: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
):
    judged(root, tiny_config)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    began_at = time.monotonic()
    with pytest.raises(TrackingError, match=r"does not answer.*then run the same command again"):
        register.run(tiny_config, root)
    assert time.monotonic() - began_at < 30


@pytest.mark.slow
def test_all_of_it_works_over_http_with_a_real_server(
    root: Path, tiny_config: Config, server: Server
):
    server.start()
    for seed, distance in [(0, 5.0), (1, 3.0)]:
        judged(root, tiny_config, seed, distance)
        register.run(tiny_config, root)
        assert promote.run(tiny_config, root)
    assert (resolve_model("models:/vivero@champion", root) / "manifest.json").is_file()
    assert rollback(root, "vivero", "back").champion == "1"
    assert list((root / "served").rglob("*.safetensors")), "the files went through the server"
    register.run(tiny_config, root)
    assert [v.aliases for v in list_versions(root, "vivero")] == [("champion",), ("previous",)]
