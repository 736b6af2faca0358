"""A store that cannot be written is read; one that cannot be made is named at once."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mlflow_stores import empty_store
from vivero.errors import ConfigError, TrackingError
from vivero.tracking.store import open_client, store_lock

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that everybody may read, and only its owner may write."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    empty_store()  # which imports what is imported late
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_store_that_cannot_be_written_is_read_and_nothing_is_left_beside_it(root: Path):
    (root / "mlflow.db").write_bytes(empty_store())
    with as_nobody():
        client = open_client(root)
        assert client.get_experiment_by_name("Default") is not None
        assert list(client.search_registered_models()) == []
        with (
            pytest.raises(ConfigError, match=r"mlflow\.db\.lock cannot be written"),
            store_lock(root),
        ):
            pass
    assert [path.name for path in root.iterdir()] == ["mlflow.db"]
    assert (root / "mlflow.db").read_bytes() == empty_store()


@pytest.mark.parametrize("uri", [None, "sqlite:///ROOT/deep/er/other.db"])
def test_a_store_that_cannot_be_made_is_named_at_once(
    uri: str | None, root: Path, monkeypatch: pytest.MonkeyPatch
):
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("ROOT", str(root)))
    began_at = time.monotonic()
    with as_nobody(), pytest.raises(TrackingError, match="it cannot be made") as caught:
        open_client(root)
    assert time.monotonic() - began_at < 10
    assert f"you cannot write to {root}" in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)
    assert list(root.iterdir()) == []
