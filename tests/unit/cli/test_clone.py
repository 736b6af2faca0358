"""A clone of another folder or another user is named at once, with what to type."""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vivero.cli.clone import foreign_environment
from vivero.errors import ConfigError
from vivero.integrity.clone import git_refusal

REPOSITORY = Path(__file__).parents[3]


SLOW = pytest.mark.slow  # each starts programs; one name holds a space, a quote and a dollar


@pytest.fixture(
    params=[
        pytest.param("a clone", marks=SLOW),
        "it's $HOME",
        pytest.param("café 日本", marks=SLOW),
    ]
)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / request.param
    (folder / ".venv").mkdir(parents=True)
    (folder / ".venv" / "pyvenv.cfg").touch()
    for name in ("params.yaml", "requirements.lock"):
        (folder / name).write_bytes((REPOSITORY / name).read_bytes())
    return folder


def test_an_environment_with_the_code_of_its_clone_is_taken(root: Path, tmp_path: Path):
    assert foreign_environment(root, root / ".venv", root) is None
    link = tmp_path / "link"
    link.symlink_to(root)
    assert foreign_environment(link, root / ".venv", root) is None
    assert foreign_environment(root, tmp_path / "other" / ".venv", root) is None  # PYTHONPATH


def test_the_environment_of_a_copied_clone_is_named(root: Path, tmp_path: Path):
    original = tmp_path / "original"
    found = foreign_environment(root, root / ".venv", original)
    assert found is not None
    assert f"runs the code of {original}, not of {root}" in found
    assert "make setup" in found


def test_another_clones_environment_is_named_where_there_is_an_own_one(root: Path, tmp_path: Path):
    original = tmp_path / "original"
    found = foreign_environment(root, original / ".venv", original)
    assert found is not None
    assert ". .venv/bin/activate" in found
    shutil.rmtree(root / ".venv")  # a clone that a worker made
    assert foreign_environment(root, original / ".venv", original) is None


def run_vivero(root: Path, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "vivero.cli.app", *words],
        cwd=root,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )


def test_the_command_line_refuses_and_what_only_asks_is_answered(root: Path):
    refused = run_vivero(root, "models")
    assert refused.returncode == 1
    assert f"but {root} has an environment of its own" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert run_vivero(root, "models", "--help").returncode == 0
    looked = run_vivero(root, "doctor", COLUMNS="300")
    assert looked.returncode == 1
    assert "of another folder" in looked.stdout


def test_a_clone_of_another_user_is_refused_with_gits_remedy(root: Path):
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    assert git_refusal(root) is None
    shutil.rmtree(root / ".venv")
    refused = run_vivero(root, "models", GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    assert refused.returncode == 1
    assert "belongs to another user" in refused.stderr
    line = refused.stderr.split("run: ")[1].split(". Or clone")[0]
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words == ["git", "config", "--global", "--add", "safe.directory", str(root)]
    assert (
        "owned by another user"
        in run_vivero(root, "doctor", GIT_TEST_ASSUME_DIFFERENT_OWNER="1", COLUMNS="300").stdout
    )


STAGES = sorted(path.stem for path in (REPOSITORY / "src/vivero/stages").glob("[a-z]*.py"))
NO_STAGES = ("champion_report", "trainer")


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in NO_STAGES])
def test_a_stage_in_a_clone_of_another_user_is_refused_before_it_begins(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "params.yaml").touch()
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    module = importlib.import_module(f"vivero.stages.{stage}")
    begun: list[Callable[[], object]] = []
    monkeypatch.setattr(module, "run_stage", lambda _name, body: begun.append(body))
    monkeypatch.setattr(sys, "argv", [stage])
    module.main()
    with pytest.raises(ConfigError, match="--add safe"):
        begun[0]()
    assert not (tmp_path / "artifacts").exists()


def test_caches_of_libraries_are_in_the_clone(root: Path, tmp_path: Path):
    shutil.rmtree(root / ".venv")
    home = tmp_path / "home"
    home.mkdir()
    script = (
        "from vivero.processes import start_program; start_program()\n"
        "import matplotlib.font_manager, dvc.dirs\n"
        "print(dvc.dirs.site_cache_dir())"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    for name in ("MPLCONFIGDIR", "DVC_SITE_CACHE_DIR"):
        env.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        env={**env, "HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert list(home.rglob("*")) == []
    assert any((root / "work/caches/matplotlib").iterdir())
    assert done.stdout.strip() == str(root / "work/caches/dvc")
