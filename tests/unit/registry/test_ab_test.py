"""A/B tests: everybody gets the same model again, first words count, one test at a time."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.unit.registry.test_registration import NAME, candidate_of
from vivero.cli.ab import app
from vivero.config.schema import Config
from vivero.errors import AbTestError
from vivero.evaluation.sequential import SequentialTest
from vivero.registry import ab_test
from vivero.registry.ab_test import AbTest, Plan, assign, first_of_pair
from vivero.registry.registration import register_version
from vivero.registry.versions import find_alias
from vivero.tracking.store import open_client

PARAMS = Path(__file__).parents[3] / "params.yaml"
ASKED = SequentialTest(0.3, 0.05, 0.05)


def plan(challenger: str = "2") -> Plan:
    return Plan(NAME, challenger, ASKED, "outcome", "is it better?")


def of_salt(salt: str) -> AbTest:
    return AbTest(1, NAME, "1", "2", ASKED, "outcome", salt, None, None)


@pytest.fixture
def two_versions(root: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("VIVERO_AB_DATABASE_URL", raising=False)
    for seed in range(2):
        register_version(root, NAME, candidate_of(root, tiny_config, seed))
    open_client(root).set_registered_model_alias(NAME, "champion", "1")
    return root


def test_the_assignment_is_a_function_with_the_right_share():
    test = of_salt("a")
    arms = [assign(test, f"unit {number}") for number in range(20_000)]
    assert arms == [assign(test, f"unit {number}") for number in range(20_000)]
    assert arms.count("challenger") / 20_000 == pytest.approx(0.3, abs=0.015)
    other = [assign(of_salt("b"), f"unit {number}") for number in range(20_000)]
    both = sum(a == b == "challenger" for a, b in zip(arms, other, strict=True))
    assert both / 20_000 == pytest.approx(0.09, abs=0.01), "another test assigns anew"
    first = [first_of_pair(test, f"unit {number}") for number in range(20_000)]
    assert first.count("challenger") / 20_000 == pytest.approx(0.5, abs=0.015)


def test_a_test_from_start_to_stop(two_versions: Path, monkeypatch: pytest.MonkeyPatch):
    root = two_versions
    for asked in (ab_test.running_test, ab_test.last_test):
        with pytest.raises(AbTestError, match="no test of 'vivero' runs"):
            asked(root, NAME)
    with pytest.raises(AbTestError, match="another version beside it"):
        ab_test.start(root, plan("1"))
    test = ab_test.start(root, plan())
    assert find_alias(root, NAME, "challenger").version == "2"
    with pytest.raises(AbTestError, match="runs already"):
        ab_test.start(root, plan())

    with pytest.raises(AbTestError, match="never served"):
        ab_test.record_outcome(root, test, "ada", is_good=True)
    with pytest.raises(AbTestError, match=r"`vivero ab sample 'ada; id' --out FOLDER`"):
        ab_test.record_outcome(root, test, "ada; id", is_good=True)
    for number in range(60):
        unit = f"unit {number}"
        arm = ab_test.record_exposure(root, test, unit)
        assert ab_test.record_exposure(root, test, unit) == arm == assign(test, unit)
        ab_test.record_outcome(root, test, unit, is_good=arm == "challenger")
        first = first_of_pair(test, unit)
        ab_test.record_preference(root, test, unit, "first" if first == "challenger" else "second")
    ab_test.record_outcome(root, test, "unit 0", is_good=assign(test, "unit 0") == "challenger")
    with pytest.raises(AbTestError, match="the first counts, nothing was changed"):
        ab_test.record_outcome(root, test, "unit 0", is_good=assign(test, "unit 0") != "challenger")

    found = ab_test.status(root, ab_test.running_test(root, NAME))
    assert sum(found.num_outcomes.values()) == sum(found.num_exposed.values()) == 60
    assert found.num_good == {"champion": 0, "challenger": found.num_outcomes["challenger"]}
    assert found.preferences.decision[-1] == "challenger better"
    assert found.decision == found.outcomes.decision[-1] == "challenger better"
    assert found.champion_now == "1"
    ab_test.stop(root, test, found.decision)
    assert find_alias(root, NAME, "challenger") is None
    last = ab_test.last_test(root, NAME)
    assert (last.id, last.verdict) == (test.id, "challenger better")
    assert ab_test.status(root, last).num_outcomes == found.num_outcomes
    (root / "params.yaml").write_text(PARAMS.read_text())
    monkeypatch.setattr("vivero.cli.ab.project_dir", lambda: root)
    shown = CliRunner().invoke(app, ["status"])
    assert shown.exit_code == 0, shown.output
    assert f"challenger better: stopped at {last.stopped_at}" in shown.output
    assert ab_test.start(root, plan()).id != test.id, "another one may begin"
    assert ab_test.last_test(root, NAME).stopped_at is None
