"""An event is data: held to its form, refused with the field's name, never near a shell."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infra.github import dispatch as dispatching
from infra.github import plan
from infra.github.dispatch import payload
from infra.github.outputs import set_outputs
from infra.github.plan import decide, describe
from infra.github.request import HOSTED, Request, read_request, request_of_this_run
from vivero.cli.planning import PlannedStage
from vivero.config.load import load_config
from vivero.errors import ConfigError
from vivero.evaluation.drift import Labels, drift_report

REPOSITORY = Path(__file__).parents[2]
KEY = "monitor-vivero-3-0a1b2c3d"
ALARM = {"trigger": True, "reasons": ["blur"], "idempotency_key": KEY, "num_new": 60}


def dispatch(**changes: Any) -> dict[str, Any]:
    return {"action": "vivero-drift", "client_payload": {**ALARM, **changes}}


def test_a_start_by_hand_chooses_the_machine():
    inputs = {"runner": "gpu-a100", "force": "true", "reason": "new drivers"}
    request = read_request("workflow_dispatch", {"inputs": inputs}, "")
    assert request == Request(reason="new drivers", runner="gpu-a100", force=True)
    assert request.labels == ["self-hosted", "gpu-a100"]


def test_empty_fields_fall_back_to_the_repositorys_own_machine():
    inputs = {"runner": "", "force": "false", "reason": ""}
    assert read_request("workflow_dispatch", {"inputs": inputs}, "gpu").runner == "gpu"
    assert read_request("workflow_dispatch", {"inputs": None}, "").labels == [HOSTED]


@pytest.mark.parametrize("event", ["schedule", "push"])
def test_what_comes_by_itself_forces_nothing(event: str):
    request = read_request(event, {"ref": "refs/heads/main"}, "gpu")
    assert (request.force, request.has_new_data, request.runner) == (False, False, "gpu")


def test_an_alarm_of_the_monitor_brings_new_data():
    request = read_request("repository_dispatch", dispatch(), "")
    assert request.has_new_data
    assert request.reason == "blur"
    assert request.alarm_key == KEY


@pytest.mark.parametrize(
    ("event", "content", "said"),
    [
        ("pull_request", {}, "never trains"),
        ("repository_dispatch", {"action": "other", "client_payload": ALARM}, "vivero-drift"),
        ("repository_dispatch", {"action": "vivero-drift"}, "client_payload|valid"),
        ("repository_dispatch", dispatch(command="rm -rf /"), "command: Extra"),
        ("repository_dispatch", dispatch(num_new="60"), "num_new"),
        ("repository_dispatch", dispatch(num_new=-1), "num_new"),
        ("repository_dispatch", dispatch(reasons=[]), "reasons"),
        ("repository_dispatch", dispatch(reasons=["two\nlines"]), "reasons"),
        ("repository_dispatch", dispatch(reasons=["<img src=x>"]), "reasons"),
        ("repository_dispatch", dispatch(reasons=["`id`"]), "reasons"),
        ("repository_dispatch", dispatch(idempotency_key="$(id)"), "idempotency_key"),
        ("repository_dispatch", dispatch(idempotency_key="a:b"), "key of an alarm must be"),
        ("repository_dispatch", dispatch(idempotency_key=7), "idempotency_key"),
        ("repository_dispatch", dispatch(reasons=["x" * 501]), "reasons"),
        ("repository_dispatch", dispatch(trigger=False), "not to train"),
        ("workflow_dispatch", {"inputs": {"runner": "gpu; id"}}, "runner"),
        ("workflow_dispatch", {"inputs": {"runner": '"], "x": ["'}}, "runner"),
        ("workflow_dispatch", {"inputs": {"force": "maybe"}}, "force"),
        ("workflow_dispatch", {"inputs": {"other": "x"}}, "other"),
    ],
)
def test_what_is_not_of_its_form_is_refused(event: str, content: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        read_request(event, content, "")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 200_000, ""])
def test_an_event_that_cannot_be_read_ends_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
):
    (tmp_path / "event.json").write_text(text)
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(tmp_path / "event.json"))
    with pytest.raises(ConfigError, match="GITHUB_EVENT_PATH holds no event"):
        request_of_this_run()


@pytest.mark.parametrize("inputs", ["x", [1], {"reason": "a\u202eb"}, {"reason": "a\x9b1mb"}])
def test_inputs_that_are_not_of_their_form_are_refused(inputs: object):
    with pytest.raises(ConfigError, match="is refused"):
        read_request("workflow_dispatch", {"inputs": inputs}, "")


def test_the_event_is_read_from_githubs_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "event.json").write_text(json.dumps(dispatch()))
    monkeypatch.setenv("GITHUB_EVENT_NAME", "repository_dispatch")
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(tmp_path / "event.json"))
    assert request_of_this_run().has_new_data


def test_what_the_monitor_sends_is_what_is_read():
    decision = {**ALARM, "report": "artifacts/monitor/report.html", "scores": [1.0]}
    sent = payload(decision)
    event = {"action": sent["event_type"], "client_payload": sent["client_payload"]}
    assert read_request("repository_dispatch", event, "").reason == "blur"
    assert set(sent["client_payload"]) == set(ALARM)


def test_the_sentence_of_five_alarming_tests_is_short_enough_to_be_sent():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(200, 32, generator=generator)
    current = 4 * torch.randn(200, 32, generator=generator) + 2
    labels = Labels(np.array([190, 10]), np.array([10, 190]))
    settings = load_config(REPOSITORY / "params.yaml").check_drift
    report = drift_report(reference, current, settings, generator, labels)
    assert [test.is_alarm for test in report.tests] == [True] * 5
    sentence = report.sentence()
    assert len(sentence) > 200
    sent = payload({**ALARM, "reasons": [sentence]})
    event = {"action": sent["event_type"], "client_payload": sent["client_payload"]}
    assert read_request("repository_dispatch", event, "").reason == sentence


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reasons": ["two\nlines"]}, "reasons.0"),
        ({"idempotency_key": "a..b"}, "key of an alarm must be"),
        ({"num_new": None}, "num_new"),
    ],
)
def test_a_decision_that_would_be_refused_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
):
    (tmp_path / "params.yaml").touch()
    decision = tmp_path / "artifacts/monitor/decision.json"
    decision.parent.mkdir(parents=True)
    decision.write_text(json.dumps({**ALARM, **changes}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")  # no `gh` could be started
    with pytest.raises(SystemExit, match=f"not of the form.*{said}.*nothing was sent"):
        dispatching.main()


def test_a_decision_without_a_field_is_not_sent():
    with pytest.raises(ConfigError, match="num_new: Field required"):
        payload({name: value for name, value in ALARM.items() if name != "num_new"})


def test_a_mistake_in_the_settings_ends_the_plan_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text = (REPOSITORY / "params.yaml").read_text()
    assert "\n  batch_images:" in text
    wrong = text.replace("\n  batch_images:", "\n  batch_image:", 1)
    (tmp_path / "params.yaml").write_text(wrong)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"(?s)^plan: params\.yaml has .*did you mean") as ended:
        plan.main()
    assert isinstance(ended.value.code, str)  # printed to standard error, and exit code 1


STAGE = PlannedStage("train", ("train is modified in params.yaml",))


@pytest.mark.parametrize(
    ("request_", "planned", "must_run"),
    [
        (Request(reason="schedule"), [], "false"),
        (Request(reason="schedule"), [STAGE], "true"),
        (Request(reason="by hand", force=True), [], "true"),
        (Request(reason="blur", has_new_data=True), [], "true"),
    ],
)
def test_it_runs_when_something_changed_or_somebody_asks(
    request_: Request, planned: list[PlannedStage], must_run: str
):
    assert decide(request_, planned)["must_run"] == must_run
    assert ("| train |" in describe(request_, planned)) == bool(planned)


def test_an_alarm_that_was_answered_has_nothing_to_do():
    request = Request(reason="blur", has_new_data=True, alarm_key=KEY)
    assert decide(request, [STAGE])["must_run"] == "true"
    assert decide(request, [STAGE])["alarm_key"] == KEY
    branch = f"runs/alarm-{KEY}"
    assert decide(request, [STAGE], branch)["must_run"] == "false"
    assert f"Nothing to do: the branch `{branch}`" in describe(request, [STAGE], branch)


def test_the_labels_are_what_runs_on_reads():
    outputs = decide(Request(reason="x", runner="gpu"), [])
    assert json.loads(outputs["labels"]) == ["self-hosted", "gpu"]


def test_an_output_cannot_set_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    set_outputs({"a": "1"})
    with pytest.raises(ValueError, match="one line"):
        set_outputs({"b": "2\nverdict=promote"})
    assert (tmp_path / "output").read_text() == "a=1\n"
