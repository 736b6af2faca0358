"""One alarm, one branch: what may be its name, and that the second time is recognised."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infra.github.branches import alarm_branch, is_on_remote, run_branch
from infra.github.plan import answered_on, decide
from infra.github.request import Request
from vivero.errors import RemoteError
from vivero.registry.retraining import Memory, idempotency_key

KEY = "monitor-vivero-3-0a1b2c3d"
ALARM = Request(reason="blur", has_new_data=True, alarm_key=KEY)


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone of a bare repository with one commit on main."""
    git(tmp_path, "init", "--quiet", "--bare", "remote.git")
    root = tmp_path / "checkout"
    git(tmp_path, "clone", "--quiet", "remote.git", str(root))
    git(root, "commit", "--quiet", "--allow-empty", "--message", "first")
    git(root, "push", "--quiet", "origin", "HEAD:refs/heads/main")
    return root


def test_an_alarm_that_comes_twice_is_answered_once(checkout: Path):
    assert answered_on(checkout, ALARM) is None
    git(checkout, "push", "--quiet", "origin", f"HEAD:refs/heads/{alarm_branch(KEY)}")
    assert answered_on(checkout, ALARM) == f"runs/alarm-{KEY}"
    assert decide(ALARM, [], answered_on(checkout, ALARM))["must_run"] == "false"
    other = Request(reason="blur", has_new_data=True, alarm_key=f"{KEY}0")
    assert answered_on(checkout, other) is None


def test_a_start_without_an_alarm_asks_no_repository(tmp_path: Path):
    assert answered_on(tmp_path, Request(reason="schedule")) is None


def test_a_repository_that_does_not_answer_is_no_new_alarm(checkout: Path):
    (checkout.parent / "remote.git").rename(checkout.parent / "gone.git")
    with pytest.raises(RemoteError, match=r"whether it has the branch runs/alarm-.*ls-remote"):
        answered_on(checkout, ALARM)
    with pytest.raises(subprocess.CalledProcessError):
        is_on_remote(checkout, "main")


@given(key=st.text(alphabet="aZ09._-:/~^@{}*?[\\ \n'\"$`", max_size=8))
@example(key="a.lock")
@example(key="a..b")
@example(key="a.")
@example(key=".a")
@example(key="-f")
@example(key="a\n")
@example(key="a" * 128)
def test_a_key_that_is_taken_makes_one_part_of_a_name_that_git_takes(key: str):
    try:
        branch = alarm_branch(key)
    except ValueError:
        return
    assert branch.count("/") == 1
    assert git(Path(), "check-ref-format", "--branch", branch) == branch


@pytest.mark.parametrize(
    "key", ["", "a:b", "a..b", "a.lock", "a.", "a/b", "a b", "a\n", "$(id)", "*", "a" * 129]
)
def test_a_key_that_could_be_more_than_a_name_is_refused(key: str):
    with pytest.raises(ValueError, match="the key of an alarm must be"):
        alarm_branch(key)


def test_the_keys_of_the_monitor_are_taken():
    key = idempotency_key("vivero", Memory())
    assert alarm_branch(key) == f"runs/alarm-{key}"


def test_a_run_that_no_alarm_asked_for_is_named_by_its_number():
    assert run_branch("42") == "runs/github-42"
    with pytest.raises(ValueError, match="digits"):
        run_branch("42; id")
