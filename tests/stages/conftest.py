"""A repository with an empty MLflow for the stages that ask it."""

import subprocess
from pathlib import Path

import pytest

from tests.mlflow_stores import root as root_without_git  # noqa: F401
from tests.mlflow_stores import server  # noqa: F401


@pytest.fixture
def root(root_without_git: Path) -> Path:  # noqa: F811
    """Top of a repository with a commit, whose tree is clean."""
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    commit = ["commit", "--quiet", "--allow-empty", "--message", "start"]
    for arguments in (["init", "--quiet"], [*who, *commit]):
        subprocess.run(["git", *arguments], cwd=root_without_git, check=True, capture_output=True)
    return root_without_git
