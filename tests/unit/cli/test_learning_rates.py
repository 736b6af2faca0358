"""`vivero find-learning-rate` for real: what it prints and writes, and what it leaves alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests.prepared_images import write_prepared
from vivero.cli.learning_rates import suggest_learning_rate
from vivero.config.schema import Config
from vivero.errors import DataError
from vivero.files import read_json


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config_factory: Callable[..., Config]):
    config = config_factory(
        {"train.model.name": "unet", "train.num_processes": 2, "train.sharding": "full"}
    )
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(config.model_dump(by_alias=True, mode="json"), file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_says_what_to_write_and_touches_nothing_else(clone: Path, capsys):
    write_prepared(clone, ["shirt", "shoe", "bag"])
    before = {path for path in clone.rglob("*") if path.is_file()}
    suggest_learning_rate(num_steps=60)
    made = {path for path in clone.rglob("*") if path.is_file()} - before
    out_dir = clone / "work/learning_rate"
    assert made == {out_dir / "range_test.json", out_dir / "range_test.png"}
    suggestion = read_json(out_dir / "range_test.json")["suggestion"]
    said = capsys.readouterr().out
    assert f"write learning_rate: {suggestion:.1e} in the block train of params.yaml" in said
    assert 1e-6 <= suggestion < 1
    with Image.open(out_dir / "range_test.png") as picture:
        assert picture.width > 500


def test_without_prepared_images_it_says_what_makes_them(clone: Path):
    with pytest.raises(DataError, match="run `dvc repro prepare_data`"):
        suggest_learning_rate(num_steps=60)
    assert not (clone / "work").exists()
