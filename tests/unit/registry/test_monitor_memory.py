"""The monitor's memory in a real MLflow: on sqlite, and through a REST server."""

from dataclasses import replace
from pathlib import Path

import pytest

from vivero.errors import TrackingError
from vivero.registry.monitor_memory import MEMORY_TAG, exchange_memory, read_memory
from vivero.registry.retraining import MAX_RECENT, Memory
from vivero.tracking.store import open_client

FULL = Memory(
    number=12,
    triggered_at=1_800_000_000.123,
    source="0" * 12,
    seen_until=1_800_000_001.5,
    recent=tuple(f"{i:012x}" for i in range(MAX_RECENT)),
    num_since=10**9,
    pending="monitor-vivero-12-01234567",
)


def check_exchange(root: Path) -> None:
    assert read_memory(root, "vivero") == Memory()
    open_client(root).create_registered_model("vivero")
    assert read_memory(root, "vivero") == Memory()
    assert exchange_memory(root, "vivero", Memory(), FULL)
    kept = read_memory(root, "vivero")
    assert replace(kept, stamp="") == FULL
    assert not exchange_memory(root, "vivero", Memory(), replace(FULL, number=99)), "not expected"
    assert read_memory(root, "vivero") == kept
    assert exchange_memory(root, "vivero", kept, replace(kept, number=13))


def test_a_memory_is_exchanged_only_for_the_expected_one(root: Path):
    check_exchange(root)


@pytest.mark.slow
def test_and_so_through_a_server(root: Path, server):
    server.start()
    check_exchange(root)


def test_a_tag_that_is_no_memory_is_refused_with_what_to_do(root: Path):
    client = open_client(root)
    client.create_registered_model("vivero")
    client.set_registered_model_tag("vivero", MEMORY_TAG, "rubbish")
    with pytest.raises(TrackingError, match=r"delete it in MLflow"):
        read_memory(root, "vivero")
