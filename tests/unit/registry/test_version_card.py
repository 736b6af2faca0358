"""The card of a version: every number in it is that of its record, and its duties are there."""

import re
from typing import Any

import pytest

from tests.model_versions import report
from vivero.registry.version_card import shown, value_at, version_card

HEADINGS = [
    "What it is, and who made it",
    "Intended use, and uses out of scope",
    "How good it is",
    "Known limits, memorisation and safety",
    "Training data",
    "How it was trained",
    "Marking of synthetic content",
    "How to trace and reproduce it",
    "Versions and contact",
]
# numbers of the prose: the interval's level, the law, the decimals of nothing else
OF_THE_PROSE = {"95", "50", "2024", "1689", "256"}
NUMBER = re.compile(r"(?<![\w.#/-])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w#/])")


def records() -> dict[str, Any]:
    """Records whose every number is another one."""
    return {
        "params.yaml": {
            "register": {"model_name": "vivero", "provider": "ACME", "contact": "ada@acme.example"}
        },
        "data/card.json": {"name": "tiny", "source": "here", "licence": "MIT", "collected_by": "A"},
        "validate_data/summary.json": {
            "num_images": 70123, "num_quarantined": 17, "num_expectations": 36,
            "num_expectations_met": 35, "num_duplicate_groups": 4,
        },
        "prepare_data/images/card.json": {
            "counts": {"train": 57026, "validation": 2974, "test": 10106}
        },
        "train/summary.json": {
            "num_parameters": 1233262, "total_images": 384000, "seconds": 923.3,
            "peak_memory_bytes": 887611392, "resumed_from": [1280, 2560],
            "surroundings": {"device": "Xeon", "processes": "2", "threads": "3"},
            "energy": {
                "kwh": 0.0123456, "measured_kwh": 0.0, "cpu_s": 1801.25, "how": "by 8 W a core",
            },
        },
        "train/journal.jsonl": {
            "params": {"train.batch_images": "64", "train.learning_rate": "0.01"}
        },
        "sample/bundle/config.json": {
            "model": {"name": "tree"}, "image": {"size_px": 28, "num_channels": 1},
            "class_names": ["a`|<script>", "b"],
        },
        "sample/bundle/lineage.json": {
            "seed": 5, "is_dirty": True, "code_commit": "c" * 40, "data_digest": "d" * 32,
            "weights_sha256": "e" * 64,
        },
        "evaluate/metrics.json": {**report(219.66230249950786), "lineage": {}},
    }  # fmt: skip


def rows(card: str, num_cells: int) -> list[list[str]]:
    lines = [line for line in card.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if len(row) == num_cells and not row[0].startswith("---")]


def check_against(records: dict[str, Any], card: str) -> int:
    """Hold every cell of the card against the record it names; return how many there were."""
    num_checked = 0
    for what, value, place in rows(card, 3):
        if what == "what":
            continue
        expected = value_at(records, place.strip("`"))
        num_checked += 1
        if isinstance(expected, int | float) and not isinstance(expected, bool):
            assert float(value.replace(",", "")) == float(f"{expected:.4g}") or (
                float(value.replace(",", "")) == expected
            ), (what, value, expected)
        elif expected is None:
            assert value in ("unknown", "none"), (what, value)
        else:
            assert value == shown(expected), (what, value, expected)
    metrics = records["evaluate/metrics.json"]["metrics"]
    for figure, value, interval, floor, n, better in rows(card, 6):
        if figure == "figure":
            continue
        m = metrics.pop(figure)
        low, high = map(float, interval.split(" to "))
        got = (float(value), low, high, int(n), better)
        rounded = [float(f"{m[key]:.4g}") for key in ("value", "low", "high")]
        assert got == (*rounded, m["n"], m["better"])
        assert floor == ("none" if m["floor"] is None else f"{m['floor']:.4g}")
        num_checked += 5
    assert not metrics, "a figure of the report is not in the card"
    return num_checked


def test_every_number_is_that_of_its_record():
    card = version_card(records())
    assert check_against(records(), card) > 40
    prose = "\n".join(line for line in card.splitlines() if not line.startswith("|"))
    assert set(NUMBER.findall(prose)) <= OF_THE_PROSE


def test_the_check_would_find_a_wrong_number():
    card = version_card(records())
    for right, wrong in [
        ("1,233,262", "1,233,263"),
        ("| 219.7 |", "| 219.8 |"),
        ("| 17 |", "| 7 |"),
    ]:
        assert right in card
        with pytest.raises(AssertionError):
            check_against(records(), card.replace(right, wrong))


def test_it_has_the_headings_of_transparency():
    card = version_card(records())
    assert [line[3:] for line in card.splitlines() if line.startswith("## ")] == HEADINGS
    for said in ["Article 50", "Out of scope", "`ACME`", "`ada@acme.example`", "quarantine"]:
        assert said in card


def test_what_no_record_holds_is_unknown():
    card = version_card({})
    assert [line[3:] for line in card.splitlines() if line.startswith("## ")] == HEADINGS
    values = {value for _, value, place in rows(card, 3) if place.startswith("`")}
    assert values == {"unknown"}
    assert "None was computed." in card


def test_what_is_recorded_only_if_there_is_some_is_none():
    card = version_card(records())
    assert "| model it started from | none |" in card
    assert "| resumed after (images seen) | 1,280, 2,560 |" in card


def test_a_hostile_class_name_stays_text():
    assert "`a'/<script>`, `b`" in version_card(records())
