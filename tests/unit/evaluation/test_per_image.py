"""Values per image: what was written comes back, for its own report and model only."""

from pathlib import Path

import numpy as np
import pytest

from vivero.errors import DataError
from vivero.evaluation.per_image import load_per_image, save_per_image

VALUES = {"fd": np.linspace(-1, 1, 7), "share": np.array([True, False, True])}


def test_what_was_written_comes_back_and_equal_values_are_equal_bytes(tmp_path: Path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save_per_image(VALUES, "p", "w", one)
    save_per_image(dict(reversed(VALUES.items())), "p", "w", two)
    assert one.read_bytes() == two.read_bytes()
    found = load_per_image(one, "p", "w")
    np.testing.assert_allclose(found["fd"], VALUES["fd"], rtol=1e-6)
    assert found["share"].dtype == np.bool_
    assert found["share"].tolist() == [True, False, True]


@pytest.mark.parametrize(("protocol", "weights"), [("q", "w"), ("p", "v")])
def test_values_of_another_report_are_none(tmp_path: Path, protocol: str, weights: str):
    save_per_image(VALUES, "p", "w", tmp_path / "one.safetensors")
    assert load_per_image(tmp_path / "one.safetensors", protocol, weights) == {}


@pytest.mark.parametrize("content", [b"", b"\x08" + bytes(7) + b"not json", None])
def test_a_damaged_file_says_what_makes_it_again(tmp_path: Path, content: bytes | None):
    path = tmp_path / "one.safetensors"
    save_per_image(VALUES, "p", "w", path)
    path.write_bytes(path.read_bytes()[:-4] if content is None else content)
    with pytest.raises(DataError, match="dvc repro -f evaluate"):
        load_per_image(path, "p", "w")
