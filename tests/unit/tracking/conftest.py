"""An empty MLflow, and specs of runs in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mlflow_stores import root, server  # noqa: F401
from vivero.tracking.tracker import DatasetInput, RunSpec


@pytest.fixture
def spec_of(root: Path) -> Callable[..., RunSpec]:  # noqa: F811
    """Make the spec of a run of this repository."""

    def factory(run_key: str = "fingerprint-1", **changes: object) -> RunSpec:
        fields = {
            "experiment": "vivero",
            "run_key": run_key,
            "run_name": "train-fingerprint",
            "journal_path": root / "work" / run_key / "journal.jsonl",
            "params": {"learning_rate": "0.001", "seed": "0"},
            "tags": {"vivero.code_commit": "abc"},
            "dataset": DatasetInput("tiny", "0123456789abcdef0123456789abcdef.dir", "made here"),
            "model_name": "vivero",
        }
        return RunSpec(**{**fields, **changes})  # type: ignore[arg-type]

    return factory
