"""A report is read as a record: bounded, typed, finite; what is better is known by its name."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.model_versions import FD, report
from vivero.errors import DataError
from vivero.evaluation.directions import better_of, is_share
from vivero.registry.report_record import read_report_record

SHARE = "copied_share.pixels.500"


def write(folder: Path, values: object) -> Path:
    path = folder / "metrics.json"
    path.write_text(json.dumps(values))
    return path


def test_a_report_is_read_without_its_own_opinion_of_what_is_better(tmp_path: Path):
    made = report()
    found = read_report_record(write(tmp_path, made)).values()
    assert found["protocol"] == made["protocol"]
    assert found["evaluated_by"] == made["evaluated_by"]
    for name, metric in made["metrics"].items():
        assert found["metrics"][name] == {k: v for k, v in metric.items() if k != "better"}


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (FD, None, "metrics.fd"),
        (FD, {"value": None}, "value"),
        (FD, {"value": True}, "value"),
        (FD, {"value": "5"}, "value"),
        (FD, {"value": math.nan}, "value.*finite"),
        (FD, {"high": math.inf}, "high.*finite"),
        (FD, {"std_error": -0.1}, "std_error"),
        (FD, {"std_error": math.nan}, "std_error.*finite"),
        (FD, {"n": 0}, "n: .*greater than or equal to 1"),
        (FD, {"n": True}, "n: .*integer"),
        (FD, {"n": 5000.0}, "n: .*integer"),
        (FD, {"low": 6.0, "high": 5.0}, "interval is empty"),
        (FD, {"floor": 0.0}, "floor of fd.*above 0, or null"),
        (FD, {"floor": -1.0}, "floor of fd.*above 0, or null"),
        (FD, {"floor": False}, "floor"),
        (SHARE, {"value": 1.5, "high": 1.5}, "is a share"),
        (SHARE, {"low": -0.5}, "is a share"),
        (SHARE, {"floor": 2.0}, "is a share"),
        (SHARE, {"value": 10**400}, "value"),
    ],
)
def test_a_metric_that_is_not_of_its_form_is_one_clear_sentence(
    tmp_path: Path, name: str, changes: dict[str, Any] | None, said: str
):
    made = report()
    made["metrics"][name] = None if changes is None else made["metrics"][name] | changes
    with pytest.raises(DataError, match=f"{said}.*dvc repro -f -s evaluate") as caught:
        read_report_record(write(tmp_path, made))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["value", "low", "high", "std_error", "n", "floor"])
def test_a_metric_that_lacks_a_field_is_named(tmp_path: Path, field: str):
    made = report()
    del made["metrics"][FD][field]
    with pytest.raises(DataError, match=rf"{FD}.{field}: Field required"):
        read_report_record(write(tmp_path, made))


@pytest.mark.parametrize(
    "values",
    [
        None, [], {}, "report", {"metrics": {}}, {**report(), "metrics": []},
        {**report(), "metrics": {"\x1b[2J": report()["metrics"][FD]}},
        {**report(), "metrics": {f"m{k}": report()["metrics"][FD] for k in range(1001)}},
        {**report(), "protocol": None}, {**report(), "protocol": {"hash": "../../x"}},
        {**report(), "evaluated_by": {"is_dirty": "no"}},
        {**report(), "lineage": {"weights_sha256": "--output=x"}},
        {**report(), "not_computed": {"a": 1}},
    ],
)  # fmt: skip
def test_what_is_no_report_is_refused(tmp_path: Path, values: object):
    with pytest.raises(DataError, match=r"metrics\.json cannot be used"):
        read_report_record(write(tmp_path, values))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "x" * 4_000_001])
def test_what_is_no_json_of_its_size_is_refused(tmp_path: Path, text: str):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(DataError, match=r"metrics\.json cannot be used"):
        read_report_record(tmp_path / "metrics.json")


def test_the_names_say_what_is_better_and_what_is_a_share():
    assert [better_of(name) for name in (FD, SHARE, "recall.x.5k")] == ["lower", "lower", "higher"]
    assert [is_share(name) for name in (FD, SHARE, "density.x.5k")] == [False, True, False]
