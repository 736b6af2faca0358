"""The cells of a simulation of drift are kept, and one that was damaged is simulated again."""

from pathlib import Path

import numpy as np
import torch

from tests.drift_settings import CONFIG
from vivero.cli.simulating_drift import Plan, run_cells
from vivero.evaluation.drift_shifts import SHIFTS
from vivero.evaluation.drift_simulation import Pool, Pools

PLAN = Plan(num_null_trials=2, num_power_trials=1, sizes=(20,))
SETTINGS = {"version": 1}


def pools() -> Pools:
    features = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    pool = Pool(features, np.arange(100) % 2)
    return Pools(pool, pool, {shift.name: pool for shift in SHIFTS}, features, 2)


def test_a_damaged_cell_and_only_that_one_is_simulated_again(tmp_path: Path, caplog):
    first = run_cells(PLAN, pools(), CONFIG, tmp_path, SETTINGS)
    path, other, *_ = sorted(tmp_path.iterdir())
    content, changed_at = path.read_bytes(), other.stat().st_mtime_ns
    path.write_bytes(content.replace(b'"num_alarms": ', b'"num_alarms": 1'))
    assert run_cells(PLAN, pools(), CONFIG, tmp_path, SETTINGS) == first
    assert f"{path} is damaged" in caplog.text
    assert path.read_bytes() == content
    assert other.stat().st_mtime_ns == changed_at
