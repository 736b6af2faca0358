"""A report nobody trusts becomes a comment, or is refused; the picture's branch is a real one."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from infra.github.comment import (
    MAX_PICTURE_BYTES,
    MAX_REPORT_BYTES,
    publish,
    read_picture,
    read_report,
)
from infra.github.markdown import MARK, ReportError, render
from infra.github.records import RecordError, parse_workflow_run
from infra.github.report import join_grids

REPOSITORY = Path(__file__).parents[2]


def metric(value: float, half: float, better: str = "lower") -> dict[str, Any]:
    low, high = value - half, value + half
    return {"value": value, "low": low, "high": high, "floor": None, "n": 500, "better": better}


def side(**metrics: dict[str, Any]) -> dict[str, Any]:
    return {"commit": "a" * 40, "verdict": "first", "seconds": {"train": 30.5}, "metrics": metrics}


REPORT = {
    "head": side(fd=metric(200, 5), kd=metric(1, 0.1), acc=metric(0.9, 0.01, "higher")),
    "base": side(fd=metric(250, 5), kd=metric(1.05, 0.1), acc=metric(0.95, 0.01, "higher")),
}


def row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {name} |"))


def test_a_difference_is_named_only_beyond_its_noise():
    text = render(REPORT, "https://example.org/x.png", "https://example.org/run")
    assert "**-50, better**" in row(text, "fd")
    assert "-0.05, within noise" in row(text, "kd")
    assert "**-0.05, worse**" in row(text, "acc")
    assert "![sample grids of the base branch and of this pull request](https://example" in text
    assert text.startswith(MARK)


def test_equal_figures_and_new_ones_are_called_so():
    report = copy.deepcopy(REPORT)
    report["base"]["metrics"] = {"fd": report["head"]["metrics"]["fd"]}
    text = render(report, None, "https://example.org/run")
    assert row(text, "fd").endswith("| none |")
    assert row(text, "kd").endswith("| new |")
    assert "![" not in text


def test_a_base_that_did_not_run_is_said():
    report = {**REPORT, "base": None}
    assert "base branch did not run" in render(report, None, "https://example.org/run")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("head",), None),
        (("head", "metrics"), {}),
        (("head", "metrics"), {f"m{k}": metric(1, 0.1) for k in range(61)}),
        (("head", "commit"), "[click](https://example.org)"),
        (("head", "verdict"), "**merge me**"),
        (("head", "seconds"), {"train": "long"}),
        (("head", "seconds"), None),
        (("head", "metrics", "@everyone"), metric(1, 0.1)),
        (("head", "metrics", "a|b"), metric(1, 0.1)),
        (("head", "metrics", "fd"), {"value": "1"}),
        (("head", "metrics", "fd", "value"), float("nan")),
        (("base", "metrics", "fd", "low"), float("-inf")),
        (("head", "metrics", "fd", "better"), "<img>"),
        (("head", "metrics", "fd", "value"), 10**400),
        (("head", "metrics", "fd", "value"), 1e300),
        (("head", "metrics", "fd", "value"), True),
        (("head", "metrics", "fd"), [1]),
        (("head", "seconds"), {"train": 10**400}),
        (("head", "commit"), "A" * 40),
        (("head", "commit"), "a" * 41),
        (("head", "commit"), "--output=x"),
        (("head", "metrics", "a" * 61), metric(1, 0.1)),
    ],
)
def test_what_is_not_of_its_form_is_never_shown(where: tuple[str, ...], value: Any):
    report = copy.deepcopy(REPORT)
    place: Any = report
    for part in where[:-1]:
        place = place[part]
    place[where[-1]] = value
    with pytest.raises(ReportError):
        render(report, None, "https://example.org/run")


def test_files_are_held_to_kind_and_size(tmp_path: Path):
    picture, report = tmp_path / "grid.png", tmp_path / "report.json"
    picture.write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(ReportError, match="no PNG"):
        read_picture(tmp_path)
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(MAX_PICTURE_BYTES))
    with pytest.raises(ReportError, match="at most"):
        read_picture(tmp_path)
    picture.unlink()
    picture.symlink_to("/etc/hostname")
    with pytest.raises(ReportError, match="no file"):
        read_picture(tmp_path)
    for text, said in (("[]", "no object"), ("{", "no JSON"), ("[" * 200_000, "no JSON")):
        report.write_text(text)
        with pytest.raises(ReportError, match=said):
            read_report(tmp_path)
    report.write_bytes(b"\xff\xfe")
    with pytest.raises(ReportError, match="no JSON"):
        read_report(tmp_path)


def test_the_report_is_a_file_of_a_bounded_size(tmp_path: Path):
    report, elsewhere = tmp_path / "report.json", tmp_path / "elsewhere.json"
    content = json.dumps(REPORT)
    report.write_text(content.ljust(MAX_REPORT_BYTES))
    assert read_report(tmp_path) == REPORT
    report.write_text(content.ljust(MAX_REPORT_BYTES + 1))
    with pytest.raises(ReportError, match=r"report\.json is no file of at most"):
        read_report(tmp_path)
    report.unlink()
    elsewhere.write_text(content)
    report.symlink_to(elsewhere)
    with pytest.raises(ReportError, match=r"report\.json is no file of at most"):
        read_report(tmp_path)
    report.unlink()
    report.mkdir()
    with pytest.raises(ReportError, match=r"report\.json is no file of at most"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("id",), "9; id"),
        (("id",), True),
        (("html_url",), "https://example.org/) [click](https://example.org"),
        (("html_url",), "javascript:alert(1)"),
        (("head_sha",), "b" * 39),
        (("head_sha",), "--output=x"),
        (("head_branch",), "a\nb"),
        (("head_branch",), "x" * 300),
        (("head_branch",), None),
        (("head_repository", "owner", "login"), "a b"),
        (("head_repository",), None),
    ],
)
def test_an_event_that_is_not_of_its_form_is_refused(where: tuple[str, ...], value: Any):
    event = copy.deepcopy(EVENT)
    assert parse_workflow_run(event).head == "somebody:feature; id"
    place: Any = event["workflow_run"]
    for part in where[:-1]:
        place = place[part]
    place[where[-1]] = value
    with pytest.raises(RecordError):
        parse_workflow_run(event)
    with pytest.raises(RecordError):
        parse_workflow_run({})


def test_a_refused_report_ends_in_one_line(tmp_path: Path):
    (tmp_path / "report.json").symlink_to("/etc/hostname")
    (tmp_path / "event.json").write_text(json.dumps({"workflow_run": []}))
    env = {"PATH": os.environ["PATH"], "GITHUB_EVENT_PATH": str(tmp_path / "event.json")}
    env["GITHUB_REPOSITORY"] = "owner/vivero"
    command = [sys.executable, "-m", "infra.github.comment", "comment", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("comment: the event names no run")
    assert len(done.stderr.splitlines()) == 1


def test_grids_stand_beside_each_other(tmp_path: Path):
    for name, grey in (("base", 40), ("head", 200)):
        Image.new("L", (60, 50), grey).save(tmp_path / f"{name}.png")
    grids = [("base branch", tmp_path / "base.png"), ("this", tmp_path / "head.png")]
    join_grids(grids, tmp_path / "grid.png")
    assert read_picture(tmp_path)
    sheet = Image.open(tmp_path / "grid.png")
    assert sheet.getpixel((30, 40)) == (40, 40, 40)
    assert sheet.getpixel((sheet.width - 30, 40)) == (200, 200, 200)


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_pictures_lie_on_a_branch_of_one_commit(tmp_path: Path):
    remote = tmp_path / "remote.git"
    git(tmp_path, "init", "--quiet", "--bare", str(remote))
    publish(b"first", "pull-request-1.png", str(remote))
    publish(b"second", "pull-request-2.png", str(remote))
    publish(b"third", "pull-request-1.png", str(remote))
    assert git(remote, "rev-list", "--count", "ci-images") == "1"
    assert git(remote, "ls-tree", "--name-only", "ci-images").split() == [
        "pull-request-1.png",
        "pull-request-2.png",
    ]
    assert git(remote, "show", "ci-images:pull-request-1.png") == "third"


GH = """#!{python}
import json, sys
from pathlib import Path
log = Path({log!r})
given = json.loads(sys.stdin.read()) if "--input" in sys.argv else None
with log.open("a") as file:
    file.write(json.dumps([sys.argv[1:], given]) + "\\n")
if any(a.endswith("/pulls") for a in sys.argv):
    print(json.dumps([{{"number": 7, "head": {{"sha": {sha!r}}}}}]))
elif any(a.endswith("/comments") for a in sys.argv) and "POST" not in sys.argv:
    print(json.dumps({comments}))
"""
EVENT = {
    "workflow_run": {
        "id": 99,
        "html_url": "https://example.org/runs/99",
        "head_sha": "b" * 40,
        "head_branch": "feature; id",
        "head_repository": {"owner": {"login": "somebody"}},
    }
}
OURS = {"id": 5, "body": MARK + "\nold", "user": {"login": "github-actions[bot]"}}
FORGED = {"id": 6, "body": MARK + "\nnot ours", "user": {"login": "somebody"}}


def comment(folder: Path, sha: str, comments: list[Any]) -> list[Any]:
    """Run the trusted job's target with a `gh` that writes down what it is asked."""
    (folder / "report").mkdir()
    (folder / "report/report.json").write_text(json.dumps(REPORT))
    (folder / "event.json").write_text(json.dumps(EVENT))
    log = folder / "log"
    text = GH.format(python=sys.executable, log=str(log), sha=sha, comments=comments)
    (folder / "gh").write_text(text)
    (folder / "gh").chmod(0o755)
    env = {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_EVENT_PATH": str(folder / "event.json"),
        "GITHUB_REPOSITORY": "owner/vivero",
        "GITHUB_SERVER_URL": "https://example.org",
    }
    command = [sys.executable, "-m", "infra.github.comment", "comment", str(folder / "report")]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_the_comment_goes_to_the_pull_request_of_githubs_event(tmp_path: Path):
    calls = comment(tmp_path, "b" * 40, [FORGED])
    assert "head=somebody:feature; id" in calls[0][0]
    arguments, body = calls[-1]
    assert arguments[:4] == ["api", "--method", "POST", "repos/owner/vivero/issues/7/comments"]
    assert body["body"].startswith(MARK)


def test_a_second_run_writes_its_own_comment_anew(tmp_path: Path):
    arguments, _ = comment(tmp_path, "b" * 40, [FORGED, OURS])[-1]
    assert arguments[:4] == ["api", "--method", "PATCH", "repos/owner/vivero/issues/comments/5"]


def test_nothing_is_said_of_a_commit_that_is_no_longer_the_head(tmp_path: Path):
    assert len(comment(tmp_path, "c" * 40, [])) == 1
