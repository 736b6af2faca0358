"""`make comment` and `make publish-grid`: a pull request's report, shown by trusted code.

Run by a workflow of the default branch, never by the pull request's own code; standard library,
`gh` and `git` only. Which pull request it is comes from GitHub's event, not from the report.

    python -m infra.github.comment publish-grid|comment FOLDER
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from infra.github.commits import BOT, git
from infra.github.markdown import MARK, render
from infra.github.outputs import set_outputs
from infra.github.records import (
    RecordError,
    WorkflowRun,
    parse_workflow_run,
    read_file,
    read_object,
)

BRANCH = "ci-images"
MAX_PICTURE_BYTES, MAX_REPORT_BYTES, MAX_EVENT_BYTES = 2_000_000, 262_144, 10_000_000
PNG = b"\x89PNG\r\n\x1a\n"


def read_picture(folder: Path) -> bytes:
    """The sample grid, if it has the size and the kind that it may have.

    Raises:
        RecordError: When it is no PNG, a link, or too large.
    """
    content = read_file(folder / "grid.png", MAX_PICTURE_BYTES)
    if not content.startswith(PNG):
        raise RecordError("grid.png is no PNG")
    return content


def read_report(folder: Path) -> dict[str, Any]:
    """report.json as a dictionary; its fields are checked where they are shown.

    Raises:
        RecordError: When it is a link, too large, or no JSON object.
    """
    return read_object(folder / "report.json", MAX_REPORT_BYTES)


def publish(picture: bytes, name: str, remote: str) -> None:
    """Put a picture on the branch ci-images: one commit without history, so it never grows much.

    Args:
        picture: Content of the file.
        name: Of the file; one of that name is replaced.
        remote: Address that git pushes to; credentials come from git's own configuration.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        git(root, "init", "--quiet")
        git(root, "remote", "add", operands=["origin", remote])
        listed = git(root, "ls-remote", operands=["origin", f"refs/heads/{BRANCH}"])
        old = listed.partition("\t")[0]
        if old:
            git(root, "fetch", "--quiet", "--depth", "1", operands=["origin"], revisions=[old])
            git(root, "switch", "--quiet", "--detach", revisions=[old])
        git(root, "checkout", "--quiet", "--orphan", BRANCH)
        (root / name).write_bytes(picture)
        git(root, "add", "--all")
        git(root, "commit", "--quiet", "--message", "Sample grids of pull requests")
        lease = f"--force-with-lease=refs/heads/{BRANCH}:{old}"
        git(root, "push", "--quiet", lease, operands=["origin", f"HEAD:refs/heads/{BRANCH}"])


def _gh(*arguments: str, body: dict[str, str] | None = None) -> str:
    given = None if body is None else json.dumps(body)
    command = ["gh", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout


def find_pull_request(run: WorkflowRun, repository: str) -> int | None:
    """Number of the open pull request whose head a run of ci tested; None when it moved on."""
    query = ["-f", "state=open", "-f", f"head={run.head}"]
    found = json.loads(_gh("api", "--method", "GET", f"repos/{repository}/pulls", *query))
    numbers = [pull["number"] for pull in found if pull["head"]["sha"] == run.head_sha]
    return int(numbers[0]) if numbers else None


def post(text: str, number: int, repository: str) -> None:
    """Write the comment, or write it anew where an earlier run left one."""
    issues = f"repos/{repository}/issues"
    comments = json.loads(_gh("api", "--paginate", f"{issues}/{number}/comments"))
    ours = [
        comment["id"]
        for comment in comments
        if comment["body"].startswith(MARK) and comment["user"]["login"] == BOT
    ]
    address = f"{issues}/comments/{ours[0]}" if ours else f"{issues}/{number}/comments"
    method = "PATCH" if ours else "POST"
    _gh("api", "--method", method, address, "--input", "-", body={"body": text})


def _show(action: str, folder: Path) -> None:
    event = read_object(Path(os.environ["GITHUB_EVENT_PATH"]), MAX_EVENT_BYTES)
    run, repository = parse_workflow_run(event), os.environ["GITHUB_REPOSITORY"]
    number = find_pull_request(run, repository)
    if number is None:
        sys.stdout.write("comment: the pull request is closed or has newer commits: nothing said\n")
        return
    server, name = os.environ["GITHUB_SERVER_URL"], f"pull-request-{number}.png"
    if action == "publish-grid":
        publish(read_picture(folder), name, f"{server}/{repository}")
        url = f"{server}/{repository}/blob/{BRANCH}/{name}?raw=true&run={run.run_id}"
        set_outputs({"picture_url": url})
        return
    text = render(read_report(folder), os.environ.get("PICTURE_URL") or None, run.html_url)
    post(text, number, repository)


def main() -> None:
    """Show a report; 1 = it is refused, or GitHub or git refused."""
    try:
        _show(sys.argv[1], Path(sys.argv[2]))
    except (RecordError, OSError) as error:
        sys.exit(f"comment: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"comment: `{' '.join(error.cmd[:3])}` failed: {error.stderr.strip()}")


if __name__ == "__main__":
    main()
