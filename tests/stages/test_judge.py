"""Stage `judge`: a verdict with its reasons, against the champion of the registry."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.model_versions import FD, make_artifacts, read, report
from vivero.config.schema import Config
from vivero.errors import DataError, TrackingError
from vivero.evaluation.protocol import BESIDE_THE_RULER, protocol_of
from vivero.files import write_json
from vivero.registry.versions import CHAMPION
from vivero.stages import judge, register
from vivero.tracking.store import open_client


def make_champion(root: Path, config: Config, distance: float = 5.0) -> None:
    make_artifacts(root, config, seed=0, distance=distance)
    judge.run(config, root)
    version = register.run(config, root)
    open_client(root).set_registered_model_alias("vivero", CHAMPION, version.version)


def test_the_first_sound_model_is_first(root: Path, tiny_config: Config):
    weights_sha256 = make_artifacts(root, tiny_config)
    judge.run(tiny_config, root)
    verdict = read(root, "judge/verdict.json")
    assert verdict["verdict"] == "first"
    assert verdict["champion"] is None
    assert verdict["weights_sha256"] == weights_sha256
    assert {gate["name"]: gate["passed"] for gate in verdict["gates"]}["lineage"] is True
    assert read(root, "judge/summary.json")["made"] == "verdict 'first', 12 of 12 gates passed"


@pytest.mark.parametrize(
    ("distance", "expected"), [(4.0, "promote"), (5.05, "hold"), (6.0, "reject")]
)
def test_the_champion_of_the_registry_is_the_measure(
    root: Path, tiny_config: Config, distance: float, expected: str
):
    make_champion(root, tiny_config)
    make_artifacts(root, tiny_config, seed=1, distance=distance)
    assert judge.run(tiny_config, root).verdict == expected
    verdict = read(root, "judge/verdict.json")
    assert verdict["champion"] == "1"
    assert verdict["is_champion_itself"] is False
    reasons = " ".join(gate["reason"] for gate in verdict["gates"])
    assert f"{FD} is {distance:g}, the champion's 5" in reasons
    assert "rounds, in turn" in reasons
    assert all(milliseconds > 0 for milliseconds in verdict["latency_ms"].values())
    written = (root / "artifacts/judge/verdict.md").read_text()
    assert all(gate["name"] in written for gate in verdict["gates"])
    with Image.open(root / "artifacts/judge/verdict.png") as picture:
        assert min(picture.size) > 300


def test_the_verdict_that_made_the_champion_stands(root: Path, tiny_config: Config):
    make_champion(root, tiny_config)
    folder = root / "artifacts" / "judge"
    before = {path: path.read_bytes() for path in folder.glob("verdict.*")}
    assert judge.run(tiny_config, root).verdict == "champion"
    assert "keeps the verdict that let it pass" in read(root, "judge/summary.json")["made"]
    assert {path: path.read_bytes() for path in folder.glob("verdict.*")} == before


def test_the_champion_is_known_again_where_nobody_judged_it(root: Path, tiny_config: Config):
    make_champion(root, tiny_config)
    shutil.rmtree(root / "artifacts" / "judge")
    assert judge.run(tiny_config, root).verdict == "champion"
    verdict = read(root, "judge/verdict.json")
    assert verdict["is_champion_itself"] is True
    assert verdict["latency_ms"] is None
    assert verdict["gates"][-1]["reason"] == "it is the champion: nothing to compare with"


def test_other_limits_judge_the_champion_anew(
    root: Path, tiny_config: Config, config_factory: Callable[..., Config]
):
    make_champion(root, tiny_config)
    stricter = config_factory({"judge.max_frechet_over_floor": 1.5})
    verdict = judge.run(stricter, root)
    assert verdict.verdict == "reject"
    assert verdict.gates[0].reason.endswith("at most 1.5, over by 3.5")


def test_an_export_that_differs_overturns_the_verdict_that_stood(root: Path, tiny_config: Config):
    make_champion(root, tiny_config)
    weights_sha256 = read(root, "judge/verdict.json")["weights_sha256"]
    parity = {"weights_sha256": weights_sha256, "max_difference": 9.0, "tolerance": 0.1}
    write_json(root / "artifacts" / "export" / "parity.json", parity)
    assert judge.run(tiny_config, root).verdict == "reject"
    assert read(root, "judge/verdict.json")["verdict"] == "reject"


@pytest.mark.parametrize("key", ["sampling", "weights", "value"])
def test_a_report_of_another_model_or_sampling_is_refused(
    root: Path, tiny_config: Config, config_factory: Callable[..., Config], key: str
):
    make_artifacts(root, tiny_config)
    path = root / "artifacts" / "evaluate" / "metrics.json"
    found = read(root, "evaluate/metrics.json")
    if key == "sampling":
        found["protocol"] = report(config=config_factory({"sampling.num_steps": 250}))["protocol"]
    elif key == "weights":
        found["lineage"] = {"weights_sha256": "0" * 64}
    else:
        found["protocol"]["name"] = "another"
    write_json(path, found)
    with pytest.raises(DataError, match="dvc repro"):
        judge.run(tiny_config, root)


@pytest.mark.parametrize(
    ("key", "value"), [("compulsory", ["frechet_distance"]), ("code_sha256", "0" * 64), ("n", 5000)]
)
def test_a_protocol_of_other_data_settings_or_code_is_refused(
    root: Path, tiny_config: Config, key: str, value: object
):
    """Its hashes are those of its values: only the present data, settings and code can tell."""
    make_artifacts(root, tiny_config)
    found = read(root, "evaluate/metrics.json")
    ruler = {k: v for k, v in found["protocol"].items() if k not in BESIDE_THE_RULER}
    found["protocol"] = protocol_of({**ruler, key: value}, found["protocol"]["sampling"])
    write_json(root / "artifacts" / "evaluate" / "metrics.json", found)
    with pytest.raises(DataError, match=rf"differs in: {key}\).*dvc repro -f -s evaluate"):
        judge.run(tiny_config, root)


def test_a_report_that_cannot_be_used_is_named(root: Path, tiny_config: Config):
    make_artifacts(root, tiny_config)
    found = read(root, "evaluate/metrics.json")
    found["metrics"][FD] = None
    write_json(root / "artifacts" / "evaluate" / "metrics.json", found)
    with pytest.raises(DataError, match=rf"cannot be used .*{FD}.*dvc repro"):
        judge.run(tiny_config, root)


def test_a_dirty_tree_when_it_is_judged_holds(root: Path, tiny_config: Config):
    make_artifacts(root, tiny_config)
    (root / "src").mkdir()
    (root / "src" / "gates.py").write_text("passed = True\n")
    verdict = judge.run(tiny_config, root)
    assert verdict.verdict == "hold"
    assert "when it was judged, the code differed" in " ".join(verdict.reasons)


def test_a_dirty_tree_when_it_was_evaluated_holds(root: Path, tiny_config: Config):
    make_artifacts(root, tiny_config)
    found = read(root, "evaluate/metrics.json")
    for evaluated_by in ({"code_commit": "c", "is_dirty": True}, None):
        found["evaluated_by"] = evaluated_by
        write_json(root / "artifacts" / "evaluate" / "metrics.json", found)
        verdict = judge.run(tiny_config, root)
        assert verdict.verdict == "hold"
        assert "when it was evaluated, " in " ".join(verdict.reasons)


def test_without_a_report_it_says_what_makes_one(root: Path, tiny_config: Config):
    with pytest.raises(DataError, match=r"metrics\.json is missing; run `dvc repro evaluate`"):
        judge.run(tiny_config, root)


def test_without_mlflow_it_says_so(
    root: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
):
    make_artifacts(root, tiny_config)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="does not answer"):
        judge.run(tiny_config, root)
