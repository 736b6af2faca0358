"""The monitor's memory, where every machine reaches it: one tag of the registered model.

A tag holds at most 5,000 letters, so the memory is a watermark and not a list. MLflow has no
compare-and-set: within a clone a lock file makes the exchange exact; between machines the writer
reads back what it wrote, and whoever overwrote a memory at the same instant has decided from the
same one, under the same idempotency key.
"""

import json
import secrets
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from vivero.config.environment import tracking_uri
from vivero.errors import TrackingError
from vivero.integrity.records import describe_mistakes
from vivero.registry.retraining import Memory
from vivero.registry.versions import require_model_name
from vivero.tracking.store import open_client, quoted, refusals, store_lock

MEMORY_TAG = "vivero.monitor"
MEMORY = TypeAdapter(Memory)


def read_memory(root: Path, name: str) -> Memory:
    """What is remembered with a registered model; an empty memory when nothing is.

    Raises:
        TrackingError: When MLflow does not answer, or the tag is not what was written.
    """
    require_model_name(name)
    client = open_client(root)
    with refusals(tracking_uri(root)):
        if not client.search_registered_models(filter_string=f"name = {quoted(name)}"):
            return Memory()
        written = client.get_registered_model(name).tags.get(MEMORY_TAG)
    if written is None:
        return Memory()
    try:
        return MEMORY.validate_json(written)
    except ValidationError as error:
        raise TrackingError(
            f"the tag {MEMORY_TAG} of the registered model '{name}' is not a monitor's memory "
            f"({describe_mistakes(error)}); delete it in MLflow: all images at the source then "
            f"count as new"
        ) from error


def exchange_memory(root: Path, name: str, expected: Memory, new: Memory) -> bool:
    """Write a new memory if the expected one still stands.

    Returns:
        False when another process changed it first; its memory is kept.
    """
    with store_lock(root):
        if read_memory(root, name) != expected:
            return False
        signed = replace(new, stamp=secrets.token_hex(4))
        client = open_client(root)
        with refusals(tracking_uri(root)):
            client.set_registered_model_tag(name, MEMORY_TAG, json.dumps(asdict(signed)))
        return read_memory(root, name) == signed


def forget_pending(root: Path, name: str, key: str) -> bool:
    """Note that an alarm was passed on; of any other key nothing changes.

    Returns:
        Whether it was pending.

    Raises:
        TrackingError: When MLflow does not answer, or the memory changed meanwhile.
    """
    memory = read_memory(root, name)
    if memory.pending != key:
        return False
    if not exchange_memory(root, name, memory, replace(memory, pending=None)):
        raise TrackingError(
            f"the monitor's memory of '{name}' changed while {key} was noted as passed on; "
            f"run the same command again"
        )
    return True
