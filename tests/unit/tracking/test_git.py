"""Git is run in one place, and no value from outside is ever one of its options."""

import ast
import subprocess
from pathlib import Path

import pytest

from vivero.tracking.git import git_output, git_text, resolve_commit, run_git

REPOSITORY = Path(__file__).parents[3]


def git(root: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    command = ["git", *who, *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    for message in ("first", "second"):
        git(root, "commit", "--quiet", "--allow-empty", "-m", message)
    return root


def test_a_name_becomes_a_full_hash(repository: Path):
    first, second = git(repository, "rev-list", "--reverse", "HEAD").split()
    git(repository, "tag", "-m", "annotated", "v1", first)
    named = {"HEAD": second, "HEAD~1": first, "main": second, "v1": first, "main@{0}": second}
    assert {name: resolve_commit(repository, name) for name in named} == named
    assert resolve_commit(repository, first) == first


@pytest.mark.parametrize(
    "name",
    ["", "-h", "--all", "--output={canary}", "-o{canary}", "nothing", "HEAD\n", "HEAD\0x",
     "HEAD\x1b[31m", "x" * 300, "HEAD:file", "HEAD^{tree}", "main..HEAD", "^HEAD"],
)  # fmt: skip
def test_what_is_no_name_of_a_commit_resolves_to_nothing(repository: Path, name: str):
    canary = repository.parent / "canary"
    assert resolve_commit(repository, name.format(canary=canary) if "{c" in name else name) is None
    assert not canary.exists()


@pytest.mark.parametrize("sha", ["HEAD", "main", "-h", "--output=x", "a" * 39, "A" * 40, ""])
def test_a_revision_that_is_no_full_hash_never_reaches_git(repository: Path, sha: str):
    for revision in (sha, f"{sha}^{{commit}}", f"{sha}:data.dvc"):
        with pytest.raises(ValueError, match="expected the full hash"):
            git_output(repository, "show", revisions=[revision])
    assert not (repository / "x").exists()


@pytest.mark.parametrize("operand", ["--upload-pack=touch x", "-x", "a\nb", "a\x1b[0m"])
def test_an_operand_that_is_an_option_never_reaches_git(repository: Path, operand: str):
    with pytest.raises(ValueError, match="expected a name or an address"):
        run_git(repository, "ls-remote", operands=[operand])


def test_variables_of_another_repository_do_not_redirect_git(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    head = git(repository, "rev-parse", "HEAD").strip()
    git(tmp_path, "init", "--quiet", "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "other"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "other" / "index"))
    assert git_text(repository, "rev-parse", "HEAD") == head
    assert git_text(repository, "rev-parse", "--show-toplevel") == str(repository)


def test_a_repository_of_a_folder_above_does_not_count(repository: Path):
    (repository / "below").mkdir()
    assert git_text(repository / "below", "rev-parse", "HEAD") is None


def test_only_one_module_runs_git_with_values():
    """Elsewhere a command is fixed: integrity is below tracking, and asks git who may read."""
    callers = {
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("src", "pipelines", "infra", "bench")
        for path in (REPOSITORY / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.List | ast.Tuple)
        and node.elts
        and isinstance(node.elts[0], ast.Constant)
        and node.elts[0].value == "git"
        and not (path.name == "clone.py" and is_fixed(node))
    }
    assert callers == {"src/vivero/tracking/git.py"}


def is_fixed(command: ast.List | ast.Tuple) -> bool:
    return all(isinstance(part, ast.Constant) for part in command.elts)
