"""Finished cells come back as they were, and only under the settings they were made with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vivero.errors import DataError
from vivero.evaluation.intervals import normal_estimate
from vivero.evaluation.sampler_cells import CellStore
from vivero.evaluation.sampler_comparison import Cell, CellFigures
from vivero.evaluation.sampler_runs import Converged

CELL = Cell("uni_pc", 8)
FIGURES = CellFigures(CELL, 3, normal_estimate(5.0, 0.2, 3), 12.0, 1.5, 11.0, 0.03)
IMAGES = np.arange(12, dtype=np.uint8).reshape(3, 1, 2, 2)


@pytest.fixture
def store(tmp_path: Path) -> CellStore:
    return CellStore(tmp_path, {"seed": 0, "guidance_interval": [0.1, 5.0]})


def test_a_cell_comes_back(store: CellStore):
    assert store.figures(CELL, 3) is None
    store.keep(FIGURES, IMAGES)
    assert store.figures(CELL, 3) == FIGURES
    assert np.array_equal(store.images(CELL, 3), IMAGES)


def test_a_cell_that_diverged_comes_back_without_images(store: CellStore):
    failed = CellFigures(CELL, 3, error="sampling diverged at step 2")
    store.keep(failed, None)
    assert store.figures(CELL, 3) == failed


def test_other_settings_and_other_numbers_are_other_cells(store: CellStore):
    store.keep(FIGURES, IMAGES)
    assert store.figures(CELL, 4) is None
    assert replace(store, settings={**store.settings, "seed": 1}).figures(CELL, 3) is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"settings": null}'])
def test_a_damaged_cell_is_not_there(store: CellStore, damage: str):
    store.keep(FIGURES, IMAGES)
    (store.folder / "uni_pc-8.json").write_text(damage)
    assert store.figures(CELL, 3) is None


def test_figures_without_images_are_not_there(store: CellStore):
    store.keep(FIGURES, IMAGES)
    (store.folder / "uni_pc-8.safetensors").unlink()
    assert store.figures(CELL, 3) is None
    with pytest.raises(DataError, match="run the same command again"):
        store.images(CELL, 3)


@pytest.mark.parametrize("name", ["uni_pc-8.json", "uni_pc-8.safetensors"])
def test_one_flipped_bit_makes_a_cell_damaged(store: CellStore, caplog, name: str):
    store.keep(FIGURES, IMAGES)
    path = store.folder / name
    content = bytearray(path.read_bytes())
    place = content.index(b"5.0") if name.endswith(".json") else len(content) - 1
    content[place] ^= 1
    path.write_bytes(content)
    assert store.figures(CELL, 3) is None
    assert f"{path} is damaged" in caplog.text


def test_a_cell_under_the_name_of_another_one_is_not_there(store: CellStore):
    store.keep(FIGURES, IMAGES)
    for path in list(store.folder.iterdir()):
        path.rename(path.with_name(path.name.replace("uni_pc-8", "uni_pc-10")))
    assert store.figures(replace(CELL, num_steps=10), 3) is None


def test_the_converged_solution_comes_back(store: CellStore):
    assert store.converged(2) is None
    solution = Converged(torch.randn(2, 1, 2, 2), 0.01)
    store.keep_converged(solution)
    kept = store.converged(2)
    assert kept is not None
    assert torch.equal(kept.images, solution.images)
    assert kept.uncertainty == 0.01
    assert store.converged(1) is None
