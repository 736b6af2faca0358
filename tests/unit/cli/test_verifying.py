"""`vivero verify`: names what is damaged, moves it aside, and good copies come back."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from tests.unit.data.tiny import rows, write_tiny
from vivero.cli.verifying import verify_all
from vivero.errors import ConfigError
from vivero.files import read_json
from vivero.storage.examination import examine, listing_of
from vivero.storage.stores import open_stores

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what DVC imports
SHARD = "data/train-00000-of-00001.parquet"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of DVC whose data/ is in the cache and in a remote, a folder."""
    folder = tmp_path_factory.mktemp("pushed")
    root = folder / "repository"
    write_tiny(root / "data", {"train": rows("train", 8, 0), "test": rows("test", 2, 9)})
    (root / "params.yaml").touch()
    with Repo.init(str(root), no_scm=True):
        pass
    (root / ".dvc/config").write_text(
        "[core]\n    no_scm = true\n    remote = store\n"
        "['remote \"store\"']\n    url = ../../store\n"
    )
    with Repo(str(root)) as repo:
        repo.add(str(root / "data"))
        repo.push()
    return folder


@pytest.fixture
def root(pushed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(pushed, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "repository")
    return tmp_path / "repository"


def cached(root: Path, name: str) -> Path:
    """The object in the cache of a file of data/, or "" for the list of them."""
    oid = (root / "data.dvc").read_text().split("md5: ")[1].split()[0]
    folder = root / ".dvc/cache/files/md5"
    listing_path = folder / oid[:2] / oid[2:]
    if not name:
        return listing_path
    file_oid = (listing_of(listing_path.read_bytes()) or {})[name]
    return folder / file_oid[:2] / file_oid[2:]


def remote(root: Path, name: str) -> Path:
    return root.parent / "store" / cached(root, name).relative_to(root / ".dvc/cache")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


def report(capsys: pytest.CaptureFixture[str], **options: bool) -> tuple[int, dict[str, Any]]:
    options = {"with_remote": False, "mend": False, **options}
    capsys.readouterr()
    exit_code = verify_all(**options, as_json=True)
    return exit_code, json.loads(capsys.readouterr().out)


def damaged(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["place"], one["belongs_to"]) for p in values["places"] for one in p["damaged"]]


def test_what_is_whole_is_said_to_be(root: Path, capsys: pytest.CaptureFixture[str]):
    exit_code, values = report(capsys, with_remote=True)
    assert (exit_code, values["ok"]) == (0, True)
    counts = {place["name"]: place["num_files"] for place in values["places"]}
    assert counts == {"workspace": 4, "cache": 5, "remote 'store'": 5}


def test_each_place_is_looked_at(root: Path, capsys: pytest.CaptureFixture[str]):
    flip(cached(root, "train-00000-of-00001.parquet"))
    flip(remote(root, "card.json"))
    flip(remote(root, ""))
    flip(root / "data/test-00000-of-00001.parquet")
    exit_code, values = report(capsys, with_remote=True)
    assert exit_code == 1
    assert sorted(damaged(values)) == [
        ("cache", SHARD),
        ("remote 'store'", "data (the list of its files)"),
        ("remote 'store'", "data/card.json"),
        ("workspace", "data/test-00000-of-00001.parquet"),
    ]


def test_a_person_reads_what_is_damaged_and_what_to_do(
    root: Path, capsys: pytest.CaptureFixture[str]
):
    flip(cached(root, "card.json"))
    assert verify_all(with_remote=False, mend=False, as_json=False) == 1
    said = capsys.readouterr().out
    assert "DAMAGED in cache" in said
    assert "belongs to  data/card.json" in said
    assert "vivero verify --mend" in said


def test_what_is_mended_lies_in_quarantine_and_comes_back_from_the_remote(
    root: Path, capsys: pytest.CaptureFixture[str]
):
    path = cached(root, "train-00000-of-00001.parquet")
    flip(path)
    flip(root / SHARD)
    bad = path.read_bytes()
    exit_code, values = report(capsys, mend=True)
    assert exit_code == 1
    moved = [Path(one["moved_to"]) for p in values["places"] for one in p["damaged"]]
    assert [entry.exists() for entry in moved] == [True, True]
    assert moved[1].read_bytes() == bad
    assert not path.exists()
    with Repo(str(root)) as repo:
        repo.pull()
    assert report(capsys, with_remote=True)[0] == 0


def test_a_mended_remote_gets_a_good_copy_from_the_cache(
    root: Path, capsys: pytest.CaptureFixture[str]
):
    path, lost_path = remote(root, "train-00000-of-00001.parquet"), remote(root, "card.json")
    good = path.read_bytes()
    flip(path)
    lost_path.unlink()
    exit_code, values = report(capsys, with_remote=True, mend=True)
    (one,) = values["places"][2]["damaged"]
    assert exit_code == 1
    assert Path(one["moved_to"]).read_bytes() != good
    assert path.read_bytes() == good
    assert lost_path.exists()
    assert report(capsys, with_remote=True)[0] == 0


def test_a_remote_gets_no_bad_copy_from_a_damaged_cache(
    root: Path, capsys: pytest.CaptureFixture[str]
):
    flip(remote(root, "card.json"))
    flip(cached(root, "card.json"))
    report(capsys, with_remote=True, mend=True)
    assert not remote(root, "card.json").exists()


def test_what_an_interrupted_transfer_left_is_no_object(root: Path):
    path = cached(root, "card.json")
    (path.parent / f"{path.name}.abcd.tmp").write_text("half")
    with open_stores(root, with_remote=False) as (cache,):
        assert [one.problem for one in examine(cache, cache.objects())] == [None] * 5


def test_without_a_remote_it_is_said_how_to_add_one(root: Path):
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    with pytest.raises(ConfigError, match="dvc remote add -d"):
        verify_all(with_remote=True, mend=False, as_json=False)


def test_a_card_names_what_the_workspace_must_hold(root: Path):
    assert list(read_json(root / "data/card.json")["shards"]) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00001.parquet",
    ]
