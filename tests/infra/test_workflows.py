"""The workflows are of GitHub's schema, give away nothing, and call what a person can call here."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.github.propose import PASSED
from tests.infra import workflow_rules as rules
from tests.infra.workflow_rules import Workflow, targets, triggers

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PATHS = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))
WORKFLOWS: dict[str, Workflow] = {path.stem: yaml.safe_load(path.read_text()) for path in PATHS}
# What is seen in public workflows beside each commit (docs/guides/github.md).
PINS = {
    "actions/checkout": "3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1",
    "actions/setup-python": "ece7cb06caefa5fff74198d8649806c4678c61a1 # v6.3.0",
    "actions/upload-artifact": "043fb46d1a93c77aae656e7c1c64a875d1fc6a0a # v7.0.1",
    "actions/download-artifact": "3e5f45b2cfb9172054b4087a40e8e0b5a5461e7c # v8.0.1",
    "aws-actions/configure-aws-credentials": "e1253824e5c10ff9df46874f81ed3ec929e19cfd # v6.3.0",
}
WRITES_WITH_A_TOKEN = {"gate", "propose", "comment", "publish-grid"}


def test_the_workflows_that_are_promised_are_there():
    assert set(WORKFLOWS) == {"ci", "retrain", "promote", "rollback", "pull-request-report"}


def test_they_are_of_githubs_schema():
    for schema, paths in (
        ("vendor.github-workflows", PATHS),
        ("vendor.dependabot", [REPOSITORY / ".github/dependabot.yml"]),
    ):
        command = [BIN / "check-jsonschema", "--builtin-schema", schema, *paths]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def audit(folder: Path) -> str:
    command = [
        BIN / "zizmor",
        "--offline",
        "--pedantic",
        "--no-progress",
        "--format",
        "json",
        folder,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    return "\n".join(finding["ident"] for finding in json.loads(done.stdout))


def test_zizmor_finds_nothing_even_when_pedantic():
    assert audit(REPOSITORY / ".github") == ""


@pytest.mark.parametrize("name", WORKFLOWS)
@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_every_rule_is_kept(name: str, rule: Callable[[Workflow], list[str]]):
    assert rule(WORKFLOWS[name]) == []


def step_of(workflow: Workflow, job: str, word: str) -> dict[str, Any]:
    return next(step for step in workflow["jobs"][job]["steps"] if word in str(step))


def unpin(ci: Workflow) -> None:
    step_of(ci, "check", "checkout")["uses"] = "actions/checkout@v7"


def shell(ci: Workflow) -> None:
    step_of(ci, "check", "make")["run"] = "make check && curl example.org | sh"


def interpolate(ci: Workflow) -> None:
    step_of(ci, "check", "make")["run"] = (
        "make check TITLE='${{ github.event.pull_request.title }}'"
    )


def write_at_top(ci: Workflow) -> None:
    ci["permissions"] = {"contents": "write"}


def write_in_job(ci: Workflow) -> None:
    ci["jobs"]["test"]["permissions"] = {"contents": "write"}


def gpu(ci: Workflow) -> None:
    ci["jobs"]["pipeline"]["runs-on"] = ["self-hosted", "gpu"]


def gpu_by_input(ci: Workflow) -> None:
    ci["jobs"]["pipeline"]["runs-on"] = "${{ inputs.runner }}"


def secret(ci: Workflow) -> None:
    step_of(ci, "check", "make")["env"] = {"KEY": "${{ secrets.KEY }}"}


def no_timeout(ci: Workflow) -> None:
    del ci["jobs"]["gate"]["timeout-minutes"]


def keep_credentials(ci: Workflow) -> None:
    del step_of(ci, "test", "checkout")["with"]


def target_with_head(ci: Workflow) -> None:
    ci[True] = {"pull_request_target": None}


def head_after_the_run(ci: Workflow) -> None:
    ci[True] = {"workflow_run": {"workflows": ["ci"]}}
    step_of(ci, "check", "checkout")["with"]["ref"] = "${{ github.event.workflow_run.head_sha }}"


def promote_here(ci: Workflow) -> None:
    step_of(ci, "check", "make")["run"] = "make promote"


def stored_key(ci: Workflow) -> None:
    step_of(ci, "check", "make")["env"] = {"AWS_SECRET_ACCESS_KEY": "${{ vars.KEY }}"}


def key_for_packages(ci: Workflow) -> None:
    step_of(ci, "test", "make")["env"] = {"KEY": "${{ vars.KEY }}"}


def role_for_packages(ci: Workflow) -> None:
    ci["jobs"]["check"]["steps"].insert(0, {"uses": "aws-actions/configure-aws-credentials@0"})


def key_for_training(ci: Workflow) -> None:
    step_of(ci, "gate", "make")["env"] = {"KEY": "${{ secrets.KEY }}"}


def key_for_a_job(ci: Workflow) -> None:
    ci["jobs"]["gate"]["env"] = {"KEY": "${{ secrets.KEY }}"}


def signs_with_more(ci: Workflow) -> None:
    step_of(ci, "gate", "make").update(run="make sign", env={"A": "${{ secrets.A }}", "B": "b"})


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (unpin, rules.unpinned_actions),
        (shell, rules.not_only_make),
        (interpolate, rules.interpolation_into_shell),
        (write_at_top, rules.broad_permissions),
        (write_in_job, rules.broad_permissions),
        (gpu, rules.machines_for_strangers),
        (gpu_by_input, rules.machines_for_strangers),
        (secret, rules.secrets_for_strangers),
        (no_timeout, rules.open_ends),
        (keep_credentials, rules.open_ends),
        (target_with_head, rules.pulled_heads),
        (head_after_the_run, rules.pulled_heads),
        (promote_here, rules.alias_moved_unasked),
        (stored_key, rules.long_lived_keys),
        (key_for_packages, rules.packages_beside_secrets),
        (role_for_packages, rules.packages_beside_secrets),
        (key_for_training, rules.secrets_beside_other_work),
        (key_for_a_job, rules.secrets_beside_other_work),
        (signs_with_more, rules.secrets_beside_other_work),
    ],
    ids=lambda function: function.__name__,
)
def test_a_broken_workflow_is_found(
    damage: Callable[[Workflow], None], rule: Callable[[Workflow], list[str]]
):
    broken = copy.deepcopy(WORKFLOWS["ci"])
    damage(broken)
    assert rule(broken)


@pytest.mark.parametrize(
    ("name", "old", "new", "finding"),
    [
        ("ci", "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7", "unpinned-uses"),
        ("ci", "permissions: {}", "permissions: write-all", "excessive-permissions"),
        ("promote", "run: make promote", "run: vivero ${{ inputs.version }}", "template-injection"),
    ],
)
def test_zizmor_would_find_it(tmp_path: Path, name: str, old: str, new: str, finding: str):
    text = (REPOSITORY / f".github/workflows/{name}.yml").read_text()
    assert old in text
    folder = tmp_path / ".github/workflows"
    folder.mkdir(parents=True)
    (folder / f"{name}.yml").write_text(text.replace(old, new))
    assert finding in audit(folder.parent)


def test_every_pin_is_the_commit_of_the_version_beside_it():
    for path in PATHS:
        for action, pin in re.findall(r"uses: ([^@\s]+)@(.+)$", path.read_text(), re.MULTILINE):
            assert pin == PINS[action], f"{path.name}: {action}"


def makefile_targets() -> dict[str, str]:
    found = re.findall(r"^([a-z-]+):(.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    return dict(found)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_target_that_is_called_exists(name: str):
    called = {target for names in targets(WORKFLOWS[name]).values() for target in names}
    assert called
    assert called <= set(makefile_targets())


def test_what_holds_a_writing_token_makes_no_environment():
    prerequisites = makefile_targets()
    for workflow in WORKFLOWS.values():
        for job, called in targets(workflow).items():
            granted = workflow["jobs"][job]["permissions"]
            if "write" in {granted.get("contents"), granted.get("pull-requests")}:
                assert set(called) <= WRITES_WITH_A_TOKEN
    for target in WRITES_WITH_A_TOKEN:
        assert "setup" not in prerequisites[target]


@pytest.mark.parametrize("module", ["gate", "propose", "comment"])
def test_trusted_code_needs_the_standard_library_alone(module: str):
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path[:0] = ['.', 'src']; import infra.github.{module}",
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_ci_is_one_required_check_over_all_its_jobs():
    jobs = WORKFLOWS["ci"]["jobs"]
    assert set(jobs["gate"]["needs"]) == set(jobs) - {"gate"}
    assert jobs["gate"]["if"] == "always()"
    assert {"check", "test"} <= {t for names in targets(WORKFLOWS["ci"]).values() for t in names}


def test_the_script_of_ci_calls_the_targets_of_the_workflow():
    script = REPOSITORY / ".ci/run"
    found = subprocess.run([BIN / "shellcheck", "--severity=style", script], capture_output=True)
    assert found.returncode == 0, found.stdout.decode()
    called = set(re.findall(r"^make ([a-z-]+)$", script.read_text(), re.MULTILINE))
    assert called == {"check", "test"}
    assert called <= {t for names in targets(WORKFLOWS["ci"]).values() for t in names}


def test_retraining_starts_as_promised_and_never_from_a_pull_request():
    retrain = WORKFLOWS["retrain"]
    assert triggers(retrain) == {"schedule", "workflow_dispatch", "repository_dispatch", "push"}
    minute = retrain[True]["schedule"][0]["cron"].split()[0]
    assert minute not in ("0", "*")
    assert retrain[True]["push"]["paths"] == ["data.dvc", "params.yaml", "dvc.yaml", "src/**"]
    assert retrain["concurrency"] == {
        "group": "retrain",
        "cancel-in-progress": False,
        "queue": "max",
    }


def test_only_jobs_in_an_environment_may_ask_for_a_role():
    for workflow in WORKFLOWS.values():
        for job in workflow["jobs"].values():
            asks = job["permissions"].get("id-token") == "write"
            assert asks == ("environment" in job)


def test_what_propose_takes_is_what_starts_it():
    condition = WORKFLOWS["retrain"]["jobs"]["propose"]["if"]
    assert set(re.findall(r"needs\.train\.outputs\.verdict == '(\w+)'", condition)) == set(PASSED)


def test_the_key_of_an_alarm_goes_from_the_plan_to_the_proposal():
    jobs = WORKFLOWS["retrain"]["jobs"]
    assert jobs["plan"]["outputs"]["alarm_key"] == "${{ steps.plan.outputs.alarm_key }}"
    assert "plan" in jobs["propose"]["needs"]
    step = step_of(WORKFLOWS["retrain"], "propose", "make propose")
    assert step["env"]["ALARM_KEY"] == "${{ needs.plan.outputs.alarm_key }}"


def test_the_plan_has_no_credentials_but_the_token_that_reads():
    plan = WORKFLOWS["retrain"]["jobs"]["plan"]
    assert plan["permissions"] == {"contents": "read"}
    assert "environment" not in plan
    assert "secrets" not in str(plan)
    assert "credentials@" not in str(plan)
