"""Two empty MLflows for the registry: the embedded sqlite file, and a REST server on PostgreSQL.

They differ in the types of version numbers and in error codes, so every test that asks for `root`
runs on both; on PostgreSQL it is slow.
"""

from pathlib import Path

import pytest

from tests.mlflow_stores import empty_store, server  # noqa: F401
from tests.services import empty_mlflow, rest_mlflow, servers  # noqa: F401


@pytest.fixture(params=["sqlite", pytest.param("rest", marks=pytest.mark.slow)])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Top of a repository with an empty MLflow."""
    if request.param == "sqlite":
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (tmp_path / "mlflow.db").write_bytes(empty_store())
    else:
        request.getfixturevalue("rest_mlflow")
        empty_mlflow(request.getfixturevalue("servers"))
    return tmp_path


@pytest.fixture
def embedded(root: Path) -> Path:
    """The root whose store is a folder here, for tests that look into it."""
    if not (root / "mlflow.db").exists():
        pytest.skip("looks into the files of the embedded store")
    return root
