"""Stage validate_data on tiny shards: what passes, what is kept out, what stops it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.unit.data.pictures import encoded, picture
from tests.unit.data.tiny import card, row, rows, write_tiny
from vivero.config.schema import Config
from vivero.data.quarantine import read_quarantine
from vivero.data.shards import ImageRow
from vivero.errors import DataError
from vivero.stages.validate_data import run


def outputs(root: Path) -> Path:
    return root / "artifacts" / "validate_data"


def report(root: Path) -> dict:
    return json.loads((outputs(root) / "report.json").read_text())


def test_good_data_passes_with_a_manifest_and_a_report(tmp_path, tiny_config: Config):
    write_tiny(tmp_path / "data", {"train": rows("train", 8, 0), "test": rows("test", 4, 100)})
    run(tiny_config, tmp_path)

    manifest = pq.read_table(outputs(tmp_path) / "manifest.parquet").to_pylist()
    assert [entry["key"] for entry in manifest][:2] == ["train-000", "train-001"]
    pixels = np.asarray(picture(0, 16, 16, "L"))
    assert manifest[0]["mean"] == pytest.approx(pixels.mean(), abs=1e-4)
    assert read_quarantine(outputs(tmp_path) / "quarantine.parquet") == []
    assert report(tmp_path)["is_good"]
    assert {result["outcome"] for result in report(tmp_path)["expectations"]} == {"met"}
    summary = json.loads((outputs(tmp_path) / "summary.json").read_text())
    assert summary["made"].startswith("12 good images of 12, 0 in quarantine; ")
    page = (outputs(tmp_path) / "report.html").read_text()
    assert "Fit for training" in page
    assert "http" not in page.replace("http-equiv", ""), "the page must need no network"


def test_bad_images_are_kept_out_with_their_reasons(tmp_path, tiny_config: Config):
    evil = "<script>alert(1)</script>"
    bad = [
        ImageRow("cut", encoded(picture(50, 64, 64))[:900], f"{evil}.png", 0, None),
        ImageRow("empty", b"", None, 0, None),
        ImageRow("blank", encoded(Image.new("L", (16, 16), 7)), "blank.png", 1, None),
        row("tiny", 51, 1, width=4),
        row("wide", 52, 1, width=5000, height=8),
        row("twin", 0, 0),
        row("leak", 100, 0),
    ]
    train = [*rows("train", 8, 0), *bad]
    write_tiny(tmp_path / "data", {"train": train, "test": rows("test", 4, 100)})
    run(tiny_config, tmp_path)

    refused = read_quarantine(outputs(tmp_path) / "quarantine.parquet")
    assert {entry.key: entry.reason for entry in refused} == {
        "cut": "truncated",
        "empty": "zero_bytes",
        "blank": "blank",
        "tiny": "too_small",
        "wide": "too_large",
        "twin": "duplicate",
        "leak": "duplicate_of_test",
    }
    good = pq.read_table(outputs(tmp_path) / "manifest.parquet")["key"].to_pylist()
    assert "train-000" in good
    assert "test-000" in good
    assert len(good) == 12
    page = (outputs(tmp_path) / "report.html").read_text()
    assert evil not in page, "file names are hostile and must be escaped"
    assert "&lt;script&gt;" in page
    assert page.count("data:image/png;base64,") == 5, "cut and empty have no picture"
    assert len(report(tmp_path)["duplicates"]) == 2


def test_too_many_bad_images_stop_the_stage_with_the_worst_ten(tmp_path, config_factory):
    bad = [ImageRow(f"bad-{i:02d}", b"junk", f"bad-{i:02d}.png", 0, None) for i in range(15)]
    write_tiny(tmp_path / "data", {"train": [*rows("train", 20, 0), *bad]})
    config = config_factory({"validate_data.max_quarantined_share": 0.1})
    with pytest.raises(DataError) as caught:
        run(config, tmp_path)
    message = str(caught.value)
    assert "15 of 35 images (42.86%)" in message
    assert "max_quarantined_share allows 10.00%" in message
    assert message.count("not_an_image") == 10
    assert "artifacts/validate_data/report.html" in message
    assert "Not fit for training" in (outputs(tmp_path) / "report.html").read_text()
    assert not report(tmp_path)["is_good"]


@pytest.mark.parametrize(
    ("train", "class_names", "expected"),
    [
        ([row("a", 1, 0), row("b", 2, 1), row("b", 3, 1)], ("x", "y"), "no two images share a key"),
        ([row("a", 1, 0), row("b", 2, 7)], ("x", "y"), "label is one of the classes 0 to 1"),
        ([row("a", 1, 0), row("b", 2, None)], ("x", "y"), "every image has a label"),
        ([row("a", 1, None), row("b", 2, 0)], (), "no image has a label"),
        ([row("a", 1, 0), row("b", 2, 0)], ("x", "y"), "at least 1 images outside test"),
    ],
)
def test_a_broken_contract_stops_the_stage(
    tmp_path, tiny_config: Config, train, class_names, expected: str
):
    write_tiny(tmp_path / "data", {"train": train}, card(class_names))
    with pytest.raises(DataError, match="the data contract is broken") as caught:
        run(tiny_config, tmp_path)
    assert expected in str(caught.value)
    unmet = [r["about"] for r in report(tmp_path)["expectations"] if r["outcome"] != "met"]
    assert any(expected in about for about in unmet)


def test_images_without_labels_are_fine(tmp_path, tiny_config: Config):
    train = [row(f"{i}", i, None) for i in range(4)]
    write_tiny(tmp_path / "data", {"train": train}, card(()))
    run(tiny_config, tmp_path)
    assert report(tmp_path)["counts"] == [
        {"class": "(no label)", "train": 4, "validation": 0, "test": 0}
    ]


def test_an_unbalanced_set_is_a_warning_only(tmp_path, tiny_config: Config):
    train = [row(f"{i:02d}", i, 0 if i else 1) for i in range(30)]
    write_tiny(tmp_path / "data", {"train": train})
    run(tiny_config, tmp_path)
    (unmet,) = [r for r in report(tmp_path)["expectations"] if r["outcome"] != "met"]
    assert (unmet["severity"], unmet["observed"]) == ("warning", "1 rows, such as dog (1)")


def test_no_data_says_how_to_bring_it_in(tmp_path, tiny_config: Config):
    with pytest.raises(DataError, match="vivero data fetch"):
        run(tiny_config, tmp_path)


def test_the_manifest_is_the_same_to_the_byte_each_time(
    tmp_path, config_factory: Callable[..., Config]
):
    write_tiny(tmp_path / "data", {"train": rows("train", 40, 0)})
    made = []
    for num_processes in (1, 2):
        run(config_factory({"validate_data.num_processes": num_processes}), tmp_path)
        names = ("manifest.parquet", "quarantine.parquet", "report.html", "report.json")
        made.append([(outputs(tmp_path) / name).read_bytes() for name in names])
    assert made[0] == made[1]
