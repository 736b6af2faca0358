"""A clone has the bytes that were committed, whatever the user's git is set to."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NOBODY = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")


def git(root: Path, *arguments: str) -> str:
    command = ["git", *NOBODY, *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the files here, committed byte for byte."""
    root = tmp_path_factory.mktemp("origin")
    listed = git(REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, root / name)
    git(root, "init", "--quiet", "--initial-branch", "main")
    git(root, "-c", "core.autocrlf=false", "add", "--all", "--force")
    git(root, "commit", "--quiet", "--message", "as it is here")
    return root


def digests(root: Path) -> dict[str, str]:
    names = filter(None, git(root, "ls-files", "-z").split("\0"))
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names}


@pytest.mark.parametrize("setting", ["core.autocrlf=true", "core.autocrlf=input", "core.eol=crlf"])
def test_no_setting_of_git_changes_a_byte(origin: Path, tmp_path: Path, setting: str):
    clone = tmp_path / "clone"
    settings = ("-c", "core.autocrlf=true", "-c", setting) if "eol" in setting else ("-c", setting)
    git(tmp_path, *settings, "clone", "--quiet", "--config", setting, str(origin), str(clone))
    expected = digests(origin)
    assert len(expected) > 400
    assert digests(clone) == expected
