"""A run's own clone: whole, alone, with the stores of all runs, and proposed once."""

import configparser
import subprocess
from pathlib import Path

import pytest

from pipelines import commands, workspace
from pipelines.workspace import BASE, House, Workspace, own_workspace, propose
from vivero.errors import ConfigError, RemoteError

REPOSITORY = Path(__file__).parents[2]
WHO = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str) -> str:
    command = ["git", *WHO, *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """A repository with one commit, and the environment of a worker."""
    source = tmp_path / "source"
    (source / ".dvc").mkdir(parents=True)
    (source / ".dvc" / ".gitignore").write_text("config.local\n")
    (source / ".gitignore").write_text("/work/\n")
    (source / "dvc.lock").write_text("of main\n")
    (source / "params.yaml").write_text("seed: 0\n")
    git(source, "init", "--quiet", "--initial-branch", "main")
    git(source, "add", "--all")
    git(source, "commit", "--quiet", "--message", "first")
    git(tmp_path, "clone", "--quiet", "--bare", str(source), "repository.git")
    monkeypatch.setenv("VIVERO_REPOSITORY", (tmp_path / "repository.git").as_uri())
    monkeypatch.setenv("VIVERO_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("VIVERO_DVC_REMOTE", "s3://bucket/store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    found = workspace.house()
    assert found is not None
    return found


def branches(house: House) -> list[str]:
    return git(house.runs_dir, "ls-remote", "--heads", house.repository).split()[1::2]


def test_a_run_gets_a_clone_with_the_stores_of_all_runs(house: House):
    with own_workspace("quick fox-1234", "main") as place:
        assert place.root == house.runs_dir / "quick-fox-1234"
        assert (place.root / "params.yaml").read_text() == "seed: 0\n"
        config = configparser.ConfigParser()
        config.read(place.root / ".dvc" / "config.local")
        assert config["cache"]["dir"] == str(house.runs_dir / ".shared" / "cache")
        remote = dict(config['remote "runs"'])
        assert remote == {
            "url": "s3://bucket/store",
            "verify": "true",
        }
        checkpoints = place.root / "work" / "checkpoints"
        assert checkpoints.resolve() == house.runs_dir / ".shared" / "checkpoints"
        assert git(place.root, "status", "--porcelain") == ""


def test_the_same_run_started_again_finds_its_clone_and_two_at_once_are_refused(house: House):
    with own_workspace("run", "main") as place:
        (place.root / "work" / "left").write_text("here")
        with pytest.raises(ConfigError, match="this run was started twice"):
            own_workspace("run", "main").__enter__()
    with own_workspace("run", "main") as place:
        assert (place.root / "work" / "left").read_text() == "here"


def test_an_unchanged_lock_makes_no_commit(house: House):
    with own_workspace("run", "main") as place:
        assert propose(place, "dvc.lock", "what a run made") is None
    assert branches(house) == ["refs/heads/main"]


def test_a_new_lock_and_nothing_else_is_proposed_on_a_branch_of_the_run(house: House):
    with own_workspace("run", "main") as place:
        (place.root / "dvc.lock").write_text("new\n")
        (place.root / "params.yaml").write_text("seed: 1\n")
        assert propose(place, "dvc.lock", "what a run made") == "runs/run"
        assert git(place.root, "diff", "--name-only", BASE, "HEAD") == "dvc.lock"
        assert propose(place, "dvc.lock", "what a run made") == "runs/run"
    assert branches(house) == ["refs/heads/main", "refs/heads/runs/run"]


def test_two_runs_that_end_alike_are_proposed_once(house: House):
    for name in ("first", "second"):
        with own_workspace(name, "main") as place:
            (place.root / "dvc.lock").write_text("new\n")
            assert propose(place, "dvc.lock", "what a run made") == "runs/first"
    assert branches(house) == ["refs/heads/main", "refs/heads/runs/first"]


def test_old_clones_go_but_never_one_that_somebody_works_in(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(workspace, "KEEP_CLONES", 2)
    with own_workspace("held", "main"):
        for index in range(4):
            with own_workspace(f"run-{index}", "main"):
                pass
    kept = {path.name for path in house.runs_dir.iterdir() if path.is_dir()}
    assert "held" in kept
    assert "run-3" in kept
    assert "run-0" not in kept


def test_a_flow_that_runs_often_takes_no_clone_of_another_away(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(workspace, "KEEP_CLONES", 1)
    for flow, name in [("experiment", "crashed"), ("monitor", "m-0"), ("monitor", "m-1")]:
        monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__FLOW_NAME", flow)
        with own_workspace(name, "main") as place:
            assert git(place.root, "status", "--porcelain") == ""
    kept = {path.name for path in house.runs_dir.iterdir() if path.is_dir()}
    assert kept == {".shared", "crashed", "m-1"}
    assert not (house.runs_dir / ".m-0.lock").exists()


def test_the_page_of_an_alarm_outlives_the_clone_that_saw_it(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(workspace, "KEEP_ALARMS", 2)
    for number in range(3):
        with own_workspace(f"monitor-{number}", "main") as place:
            folder = place.root / "artifacts" / "monitor" / "last_alarm"
            folder.mkdir(parents=True)
            (folder / "report.html").write_text(f"alarm {number}")
            kept = workspace.keep_alarm(place, folder, f"monitor-vivero-{number}/x")
            (folder / "report.html").write_text("told again")
            assert workspace.keep_alarm(place, folder, f"monitor-vivero-{number}/x") == kept
        assert kept.parent == house.runs_dir / ".shared" / "alarms"
        assert (kept / "report.html").read_text() == f"alarm {number}"
    assert len(list(kept.parent.iterdir())) == 2
    here = Workspace(house.runs_dir, None)
    assert workspace.keep_alarm(here, folder, "key") == folder


def test_a_branch_that_is_not_there_is_named(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _seconds: None)
    with pytest.raises(RemoteError, match="Remote branch nowhere not found"):
        own_workspace("run", "nowhere").__enter__()
    assert not (house.runs_dir / "run").exists()


def test_a_refusal_of_git_shows_no_password(tmp_path: Path):
    with pytest.raises(RemoteError) as refused:
        commands.git(tmp_path, "clone", "--quiet", "file://somebody:secret@/nowhere", "x")
    assert "secret" not in str(refused.value)
    assert "://***@" in str(refused.value)


@pytest.mark.parametrize(
    ("source", "address"),
    [("s3://bucket/in", "s3://bucket/in"), ("incoming", str(REPOSITORY / "incoming"))],
)
def test_a_relative_folder_of_new_images_is_the_drivers(
    source: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("VIVERO_INCOMING", "s3://other/place")
    assert workspace.incoming_address(tmp_path, source) == address
    assert workspace.incoming_address(tmp_path) == "s3://other/place"


def test_a_run_in_a_clone_needs_a_tracking_server(house: House, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(ConfigError, match="would go away with its clone"):
        workspace.house()


def test_without_a_repository_a_run_works_where_it_was_started(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("VIVERO_REPOSITORY", raising=False)
    with own_workspace("run", "main") as place:
        assert place == Workspace(REPOSITORY, None)
