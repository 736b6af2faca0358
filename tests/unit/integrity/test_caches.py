"""Caches: what was written is read back, and no flipped bit, cut file or other key is believed."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vivero.integrity.caches import load_tensors, read_record, save_tensors, write_record

TENSORS = {"features": torch.arange(12.0).reshape(3, 4), "labels": torch.tensor([1, 2])}
RECORD = {"name": "first", "loss": 0.1, "rows": [1, {"n": 2}]}
READERS = {"tensors": load_tensors, "record": read_record}


@pytest.fixture(params=["tensors", "record"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def entry(kind: str, tmp_path: Path) -> Path:
    path = tmp_path / "cache" / "entry"
    if kind == "tensors":
        save_tensors(path, "key", TENSORS)
    else:
        write_record(path, "key", RECORD)
    return path


def equals(found: object) -> bool:
    if isinstance(found, dict) and found.keys() == TENSORS.keys():
        return all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    return found == RECORD


def test_reads_back_what_was_written(kind: str, entry: Path, caplog):
    assert equals(READERS[kind](entry, "key"))
    assert not caplog.records


def test_a_missing_file_is_no_damage(kind: str, tmp_path: Path, caplog):
    assert READERS[kind](tmp_path / "none", "key") is None
    assert not caplog.records


def test_an_entry_of_another_key_is_refused(kind: str, entry: Path, caplog):
    assert READERS[kind](entry, "other key") is None
    is_reported = f"{entry} is damaged (its hash is wrong) and is computed again" in caplog.text
    assert is_reported == (kind == "tensors")  # a record of other inputs is no damage


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\x00" * 40, b"\xff" * 40, b"null"])
def test_a_file_of_another_form_is_refused(kind: str, entry: Path, caplog, content: bytes):
    entry.write_bytes(content)
    assert READERS[kind](entry, "key") is None
    assert "is damaged" in caplog.text


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), is_cut=st.booleans())
def test_no_flipped_bit_and_no_cut_file_is_believed(
    kind: str, entry: Path, where: float, bit: int, is_cut: bool
):
    whole = entry.read_bytes()
    place = int(where * len(whole))
    flipped = whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
    entry.write_bytes(whole[:place] if is_cut else flipped)
    try:
        found = READERS[kind](entry, "key")
    finally:
        entry.write_bytes(whole)
    assert found is None or equals(found)  # a flip in the space between two fields changes nothing
