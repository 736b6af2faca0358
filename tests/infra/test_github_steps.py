"""What the jobs of a retraining and a promotion do, with real git and a `gh` that takes notes."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from ruamel.yaml import YAML

from infra.environment.__main__ import write_state
from infra.github.alias import command
from infra.github.branches import is_on_remote
from infra.github.commits import commit_file
from infra.github.gate import unfit
from infra.github.propose import ProposalError, describe, propose
from infra.github.register import collect
from infra.github.retrain import ACTS, KEYS, run_python
from infra.github.sign import key_of
from infra.github.small_pipeline import apply_overrides
from vivero.config.load import load_config
from vivero.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
GH = """#!{python}
import json, sys
from pathlib import Path
log = Path({log!r})
with log.open("a") as file:
    file.write(json.dumps([sys.argv[1:], sys.stdin.read()]) + "\\n")
created = '["pr", "create"' in log.read_text()
if sys.argv[1:3] == ["pr", "list"]:
    print('[{{"number": 3}}]' if created else "[]")
"""
GATE = {
    "name": "fd over floor",
    "passed": True,
    "value": 4.3,
    "limit": 30.0,
    "reason": "at most 30",
}


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a remote, a finished proposal, and a `gh` on PATH that takes notes."""
    (tmp_path / "bin").mkdir()
    gh = tmp_path / "bin/gh"
    gh.write_text(GH.format(python=sys.executable, log=str(tmp_path / "log")))
    gh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GITHUB_REF_NAME", "main")
    git(tmp_path, "init", "--quiet", "--bare", "remote.git")
    root = tmp_path / "checkout"
    git(tmp_path, "clone", "--quiet", str(tmp_path / "remote.git"), str(root))
    (root / "dvc.lock").write_text("old\n")
    (root / "data.dvc").write_text("outs\n")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "first")
    git(root, "push", "--quiet", "origin", "HEAD:refs/heads/main")
    hand_over(tmp_path, "promote")
    return root


def hand_over(folder: Path, verdict: str) -> Path:
    proposal = folder / "proposal"
    proposal.mkdir(exist_ok=True)
    (proposal / "dvc.lock").write_text("new\n")
    (proposal / "data.dvc").write_text("outs\n")
    (proposal / "verdict.json").write_text(json.dumps({"verdict": verdict, "gates": [GATE]}))
    (proposal / "registered.json").write_text(json.dumps({"version": "8"}))
    return proposal


def calls(root: Path) -> list[Any]:
    log = root.parent / "log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_a_candidate_that_passed_is_proposed_on_a_branch_of_the_run(checkout: Path):
    assert propose(checkout, checkout.parent / "proposal", "42") == "runs/github-42"
    remote = checkout.parent / "remote.git"
    assert git(remote, "show", "runs/github-42:dvc.lock") == "new"
    changed = git(remote, "diff", "--name-only", "main", "runs/github-42")
    assert changed == "dvc.lock"
    asked = [" ".join(arguments[:3]) for arguments, _ in calls(checkout)]
    assert asked == ["pr list --head", "pr create --head", "workflow run ci.yml"]
    _, body = calls(checkout)[1]
    assert "Version 8 is registered" in body
    assert "| fd over floor | yes | at most 30 |" in body


def test_what_an_alarm_asked_for_is_on_its_own_branch(checkout: Path):
    proposal = checkout.parent / "proposal"
    assert propose(checkout, proposal, "42", "monitor-vivero-3-0a1b2c3d") == (
        "runs/alarm-monitor-vivero-3-0a1b2c3d"
    )
    branches = git(checkout.parent / "remote.git", "branch", "--format=%(refname:short)")
    assert branches.split() == ["main", "runs/alarm-monitor-vivero-3-0a1b2c3d"]
    with pytest.raises(ProposalError, match="the key of an alarm must be"):
        propose(checkout, proposal, "42", "a:refs/heads/main")


def test_the_champions_own_weights_record_the_lock_and_promote_nothing(checkout: Path):
    assert propose(checkout, hand_over(checkout.parent, "champion"), "42") == "runs/github-42"
    assert git(checkout.parent / "remote.git", "show", "runs/github-42:dvc.lock") == "new"
    arguments, body = calls(checkout)[1]
    assert "the champion is the same" in arguments[arguments.index("--title") + 1]
    assert "made the weights of version 8 again, which is champion" in body
    assert "promot" not in body


def test_a_second_start_of_the_same_run_changes_nothing(checkout: Path):
    propose(checkout, checkout.parent / "proposal", "42")
    git(checkout, "checkout", "--quiet", "HEAD~1")  # a fresh checkout of what was trained
    before = git(checkout.parent / "remote.git", "rev-parse", "runs/github-42")
    propose(checkout, checkout.parent / "proposal", "42")
    assert git(checkout.parent / "remote.git", "rev-parse", "runs/github-42") == before
    assert sum(arguments[:2] == ["pr", "create"] for arguments, _ in calls(checkout)) == 1


def test_the_commit_that_was_trained_is_the_one_that_is_proposed(checkout: Path):
    trained = checkout.parent / "trained"
    git(checkout.parent, "clone", "--quiet", str(checkout), str(trained))
    (trained / "data.dvc").write_text("more outs\n")
    assert commit_file(trained, "data.dvc")
    (checkout.parent / "proposal/data.dvc").write_text("more outs\n")
    propose(checkout, checkout.parent / "proposal", "42")
    remote = checkout.parent / "remote.git"
    assert git(remote, "rev-parse", "runs/github-42~1") == git(trained, "rev-parse", "HEAD")
    assert git(remote, "log", "--format=%s", "-2", "runs/github-42").splitlines() == [
        "dvc.lock: a retraining",
        "data.dvc: new images",
    ]


@pytest.mark.parametrize("verdict", ["hold", "reject"])
def test_the_gates_decide(checkout: Path, verdict: str):
    assert propose(checkout, hand_over(checkout.parent, verdict), "42") is None
    assert git(checkout.parent / "remote.git", "branch", "--format=%(refname:short)") == "main"
    assert not calls(checkout)


def test_what_did_not_change_is_not_proposed(checkout: Path):
    (checkout.parent / "proposal/dvc.lock").write_text("old\n")
    assert propose(checkout, checkout.parent / "proposal", "42") is None


def test_what_is_not_of_its_form_is_not_pushed(checkout: Path):
    proposal = checkout.parent / "proposal"
    with pytest.raises(ProposalError, match="digits"):
        propose(checkout, proposal, "42; id")
    (proposal / "dvc.lock").write_text("x" * 1_000_001)
    with pytest.raises(ProposalError, match=r"dvc\.lock is no file of at most"):
        propose(checkout, proposal, "42")
    (proposal / "verdict.json").write_text("[]")
    with pytest.raises(ProposalError, match="no object"):
        propose(checkout, proposal, "42")


def test_unusual_words_of_a_gate_are_not_shown():
    verdict = {"verdict": "first", "gates": [{**GATE, "reason": "[x](http://example.org)"}]}
    assert "(not shown: unusual characters)" in describe(verdict, {"version": "1"})
    with pytest.raises(ProposalError, match="no version"):
        describe(verdict, {"version": "1; id"})
    for reason in ("a\u202eb", "a\u2028b", "a\x9bb", "@everyone", "x" * 301, "a|b", ""):
        verdict = {"verdict": "first", "gates": [{**GATE, "reason": reason}]}
        assert "(not shown: unusual characters)" in describe(verdict, {"version": "1"}), reason


@pytest.mark.parametrize("gates", [{}, "x", [], [1], [{"name": "a"}], [GATE] * 101, None])
def test_gates_that_are_not_of_their_form_are_refused(gates: object):
    with pytest.raises(ProposalError, match="verdict"):
        describe({"verdict": "first", "gates": gates}, {"version": "1"})


@pytest.mark.parametrize("passed", [False, None, 1, "true"])
def test_a_verdict_that_contradicts_its_gates_is_not_proposed(checkout: Path, passed: object):
    gates = [GATE, {**GATE, "name": "copies", "passed": passed}]
    path = checkout.parent / "proposal" / "verdict.json"
    path.write_text(json.dumps({"verdict": "promote", "gates": gates}))
    with pytest.raises(ProposalError, match="is 'promote', but did not pass: copies"):
        propose(checkout, path.parent, "42")
    assert not calls(checkout)


@pytest.mark.parametrize("name", ["verdict.json", "registered.json", "dvc.lock", "data.dvc"])
def test_a_link_is_not_proposed(checkout: Path, name: str):
    proposal = checkout.parent / "proposal"
    (proposal / name).rename(proposal / "elsewhere")
    (proposal / name).symlink_to(proposal / "elsewhere")
    with pytest.raises(ProposalError, match="is no file of at most"):
        propose(checkout, proposal, "42")
    assert not is_on_remote(checkout, "runs/github-42")


TYPED = {"VERSION": "7", "EXPECT": "none", "REASON": "sharper bags"}


def test_what_is_typed_becomes_arguments():
    assert command("promote", TYPED) == [
        *("promote", "7", "--expect-champion", "none", "--reason", "sharper bags")
    ]
    on_github = {**TYPED, "GITHUB_RUN_ID": "42", "GITHUB_ACTOR": "maria"}
    assert command("rollback", {**on_github, "EXPECT": "7"}) == [
        *("rollback", "--expect-champion", "7"),
        *("--reason", "sharper bags [github: maria, run 42]"),
    ]


@pytest.mark.parametrize("value", ["", "none", "any", "7; id"])
def test_a_rollback_names_the_version_that_it_takes_back(value: str):
    with pytest.raises(ValueError, match="EXPECT of a rollback must be the version"):
        command("rollback", {**TYPED, "EXPECT": value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VERSION", ""),
        ("VERSION", "7; id"),
        ("VERSION", "$(id)"),
        ("VERSION", "champion"),
        ("VERSION", "--force"),
        ("VERSION", "7\n8"),
        ("REASON", "a\u202eb c"),
        ("REASON", "line\u2028break"),
        ("REASON", "a\x9b31mb"),
        ("EXPECT", "any"),
        ("EXPECT", ""),
        ("REASON", ""),
        ("REASON", "two\nlines"),
        ("REASON", "x" * 201),
    ],
)
def test_what_is_typed_is_held_to_its_form(name: str, value: str):
    with pytest.raises(ValueError, match=f"{name} must be"):
        command("promote", {**TYPED, name: value})


@pytest.mark.parametrize("value", ["$(shell touch PWNED)", "`touch PWNED`", "1; touch PWNED"])
def test_make_hands_a_typed_value_to_no_shell(tmp_path: Path, value: str):
    (tmp_path / "Makefile").write_bytes((REPOSITORY / "Makefile").read_bytes())
    shutil.copytree(REPOSITORY / "infra/environment", tmp_path / "infra/environment")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    python = tmp_path / ".venv/bin/python"
    python.write_text('#!/bin/sh\nprintf "%s" "$VERSION" > seen\n')
    python.chmod(0o755)
    write_state(tmp_path)
    env = {**os.environ, **TYPED, "VERSION": value}
    subprocess.run(["make", "promote"], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "seen").read_text() == value
    assert not (tmp_path / "PWNED").exists()


def results(**jobs: str) -> dict[str, dict[str, object]]:
    return {name: {"result": result, "outputs": {}} for name, result in jobs.items()}


def test_the_gate_is_shut_by_anything_but_success():
    assert unfit(results(a="success", b="success"), set()) == []
    assert unfit(results(a="success", b="failure"), set()) == ["b: failure"]
    assert unfit(results(a="cancelled", b="skipped"), {"a"}) == ["a: cancelled", "b: skipped"]
    assert unfit(results(a="skipped", b="success"), {"a"}) == []


def test_the_gate_of_a_retraining_sees_through_a_skip():
    command = ["make", "--no-print-directory", "gate", f"PYTHON={sys.executable}"]
    for plan, expected in (("success", 0), ("failure", 2)):
        needs = json.dumps(results(plan=plan, train="skipped", propose="skipped"))
        env = {**os.environ, "NEEDS": needs, "MAY_BE_SKIPPED": "train propose"}
        done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
        assert done.returncode == expected, done.stderr


def test_a_retraining_never_moves_the_alias():
    assert "promote" not in ACTS


def test_the_signing_key_is_a_file_of_ours_for_a_moment(tmp_path: Path):
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(*form, serialization.NoEncryption()).decode()
    with key_of(pem, tmp_path) as key:
        assert key.path.read_text() == pem
        assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert not key.path.exists()
    with (
        pytest.raises(ConfigError, match="cannot read the signing key"),
        key_of("no key", tmp_path),
    ):
        pass


@pytest.mark.parametrize("name", KEYS)
def test_no_step_of_a_retraining_sees_a_signing_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setenv(name, "canary")
    script = "import os, pathlib; pathlib.Path('seen').write_text(str(sorted(os.environ.items())))"
    run_python(tmp_path, "step", "-c", script, OTHER="kept")
    seen = (tmp_path / "seen").read_text()
    assert "kept" in seen
    assert "canary" not in seen


def test_nothing_is_signed_where_nothing_waits(tmp_path: Path):
    root = tmp_path / "clone"
    root.mkdir()
    (root / "params.yaml").touch()
    done = subprocess.run(
        [sys.executable, "-m", "infra.github.sign"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "XDG_CONFIG_HOME": str(tmp_path / "c")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "sign: nothing waits for a signature\n")


def test_what_is_handed_over_is_the_lock_and_the_verdict(tmp_path: Path):
    for name in ("dvc.lock", "data.dvc", "artifacts/judge/verdict.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    registered = tmp_path / "artifacts/register/registered.json"
    registered.parent.mkdir()
    registered.write_text("{}")
    collect(tmp_path, tmp_path / "out")
    collect(tmp_path, tmp_path / "out")
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["data.dvc", "dvc.lock", "registered.json", "verdict.json"]


def test_the_small_profile_fits_the_settings(tmp_path: Path):
    params = tmp_path / "params.yaml"
    params.write_text((REPOSITORY / "params.yaml").read_text())
    profile = YAML(typ="safe").load((REPOSITORY / "infra/profiles/small.yaml").read_text())
    apply_overrides(params, profile)
    assert load_config(params).train.total_images == profile["train.total_images"]
    with pytest.raises(ConfigError, match=r"sets 'train\.rate', which"):
        apply_overrides(params, {"train.rate": 1})
    with pytest.raises(ConfigError, match=r"sets 'nothing\.at\.all'"):
        apply_overrides(params, {"nothing.at.all": 1})


@pytest.mark.parametrize("module", ["comment", "propose", "gate"])
def test_what_runs_with_write_permission_needs_no_package(module: str):
    line = f"import sys; sys.path[:0] = ['.', 'src']; import infra.github.{module}"
    command = [sys.executable, "-I", "-S", "-c", line]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
