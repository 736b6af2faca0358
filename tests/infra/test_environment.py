"""The environment is installed from known hashes, and belongs to the folder it was made in."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from infra.environment import __main__ as environment
from infra.environment.__main__ import (
    CPU_LOCK,
    INPUTS,
    INSTALLER_LOCK,
    LOCK,
    STATE,
    SetupError,
    is_current,
    refuse_folder,
    set_up,
    write_state,
)

REPOSITORY = Path(__file__).parents[2]
LOCKS = (LOCK, INSTALLER_LOCK, CPU_LOCK)
HASH = re.compile(r" --hash=sha256:[0-9a-f]{64}( \\)?")


def entries(name: str) -> list[list[str]]:
    """Each requirement of a lock file: its own line, then the lines of its hashes."""
    found: list[list[str]] = []
    for line in (REPOSITORY / name).read_text().splitlines():
        if line.startswith(" "):
            found[-1].append(line)
        else:
            found.append([line])
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_each_package_of_a_lock_file_has_one_version_and_its_hashes(name: str):
    for first, *hashes in entries(name):
        requirement = Requirement(first.rstrip(" \\"))
        assert [specifier.operator for specifier in requirement.specifier] == ["=="]
        assert hashes, f"{requirement.name} has no hash"
        assert all(HASH.fullmatch(line.strip("\n")[3:]) for line in hashes), requirement.name


def test_the_lock_names_every_requirement_of_the_project_and_no_address():
    locked = {Requirement(first.rstrip(" \\")).name for first, *_ in entries(LOCK)}
    project = (REPOSITORY / "pyproject.toml").read_text()
    asked = {
        Requirement(row).name
        for row in re.findall(r'^    "([^"]+)",', project.split("[project.scripts]")[0], re.M)
    }
    assert asked - locked - {"vivero"} == set()
    assert not any("://" in (REPOSITORY / name).read_text() for name in LOCKS)


def test_the_builds_of_torch_are_of_one_version():
    pins = {environment.pin_of(REPOSITORY / name) for name in (LOCK, CPU_LOCK)}
    assert {pin.removesuffix("+cpu") for pin in pins} == {environment.pin_of(REPOSITORY / LOCK)}


def test_nothing_is_installed_without_hashes():
    """Wherever this repository installs packages: the module, the image, workflows, manifests."""
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    places = [
        name
        for name in listed.stdout.splitlines()
        if name.startswith((".github/", ".ci/", "infra/", "Makefile"))
        and not name.endswith(".lock")
    ]
    assert "infra/docker/Dockerfile" in places
    for name in places:
        text = (REPOSITORY / name).read_text().replace("\\\n", " ")
        for line in re.findall(r"^.*\bpip\S* install\b.*$", text, re.MULTILINE):
            assert "--require-hashes" in line, f"{name}: {line}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the lock files and an environment that is complete, as far as is recorded."""
    for name in INPUTS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, tmp_path / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    write_state(tmp_path)
    return tmp_path


def test_a_complete_environment_stays_as_it_is(root: Path):
    assert is_current(root)
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    set_up(root)
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize("name", INPUTS)
def test_a_changed_input_makes_it_again(root: Path, name: str):
    (root / name).write_text((root / name).read_text() + "# other\n")
    assert not is_current(root)


def test_a_python_that_is_gone_makes_it_again(root: Path):
    (root / ".venv/bin/python").unlink()
    (root / ".venv/bin/python").symlink_to(root / "gone")
    assert not is_current(root)


def test_an_environment_that_was_copied_or_moved_is_not_taken(root: Path, tmp_path: Path):
    copied = tmp_path / "copied"
    shutil.copytree(root, copied, symlinks=True)
    assert is_current(root)
    assert not is_current(copied)
    moved = root.rename(root.with_name(f"{root.name} moved"))
    assert not is_current(moved)


def test_an_interrupted_or_older_installation_is_not_taken(root: Path):
    for text in ("", "{", "[]"):
        (root / STATE).write_text(text)
        assert not is_current(root)


def test_a_linked_environment_is_not_emptied(root: Path, tmp_path: Path):
    other = tmp_path / "worktree"
    for name in INPUTS:
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, other / name)
    (other / ".venv").symlink_to(root / ".venv")
    with pytest.raises(SetupError, match=r"is a link to .*remove it"):
        set_up(other)
    assert is_current(root)


@pytest.mark.parametrize("name", ["a:b", "a\nb", "100%", "why?"])
def test_a_folder_in_which_no_environment_works_is_named_at_once(tmp_path: Path, name: str):
    with pytest.raises(SetupError, match="Rename the folder"):
        refuse_folder(tmp_path / name)


@pytest.mark.parametrize("name", ["a b", "it's", 'a"b', "café", "日本", "$HOME", "a;b#c&d"])
def test_every_other_folder_is_taken(tmp_path: Path, name: str):
    refuse_folder(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["ACTIONS_ID_TOKEN_REQUEST_TOKEN", "AWS_SECRET_ACCESS_KEY", "VIVERO_SIGNING_KEY_PEM"]
)
def test_what_installs_sees_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("PIP_FIND_LINKS", "kept")
    script = "import os; print(sorted(os.environ.items()))"
    for env in (None, dict(os.environ)):
        seen = environment.run(tmp_path, sys.executable, "-c", script, given="", env=env)
        assert "kept" in seen
        assert "canary" not in seen


def test_a_target_that_is_given_secrets_installs_nothing(tmp_path: Path):
    for name in (*INPUTS, "Makefile", "params.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, tmp_path / name)
    shutil.copytree(
        REPOSITORY / "infra/environment", tmp_path / "infra/environment", dirs_exist_ok=True
    )
    for target in ("plan", "retrain", "sign", "register", "promote", "rollback"):
        command = ["make", target, f"PYTHON={sys.executable}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2
        assert "run `make setup` first" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("lock", "package"),
    [(INSTALLER_LOCK, "uv"), (LOCK, "zipp"), (LOCK, "typer"), (LOCK, "setuptools")],
)
def test_a_file_of_another_hash_is_not_installed(tmp_path: Path, lock: str, package: str):
    """zipp is asked for by other packages alone, setuptools also builds one of them."""
    root = tmp_path / "it's a clone"
    for name in INPUTS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, root / name)
    shutil.copytree(
        REPOSITORY / "infra/environment", root / "infra/environment", dirs_exist_ok=True
    )
    text = (root / lock).read_text()
    entry = re.search(rf"^{package}==.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    assert entry
    wrong = re.sub(r"sha256:\w{8}", "sha256:00000000", entry.group())
    (root / lock).write_text(text.replace(entry.group(), wrong))
    done = subprocess.run(
        [sys.executable, "-m", "infra.environment"],
        cwd=root,
        env={**os.environ, "UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", "")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert re.search("DO NOT MATCH THE HASHES|Hash mismatch", done.stderr), done.stderr
    assert not (root / STATE).exists()
