"""Every object of a store, read to its last byte and held against its name."""

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from aiohttp import ClientError as AiohttpError
from botocore.exceptions import BotoCoreError, ClientError

from vivero.errors import RemoteError
from vivero.storage.stores import Store

BLOCK_BYTES = 1 << 20
MAX_READINGS = 4
MAX_THREADS = 16  # of a remote: most of the time is spent waiting
UNREADABLE = (OSError, TimeoutError, BotoCoreError, ClientError, AiohttpError)


@dataclass(frozen=True)
class Examined:
    """One object.

    Attributes:
        oid: Its name: the md5 that its bytes should have, with ".dir" for the list of a folder.
        num_bytes: Its size.
        problem: What is wrong with it; None when it is whole.
    """

    oid: str
    num_bytes: int
    problem: str | None


def examine(store: Store, oids: Collection[str]) -> Iterator[Examined]:
    """Read and hash objects, several at a time, in the order in which they are done.

    Raises:
        RemoteError: When the store cannot be read; says nothing about what is in it.
    """
    num_threads = (os.cpu_count() or 1) if store.is_cache else MAX_THREADS
    with ThreadPoolExecutor(num_threads) as pool:
        waiting = [pool.submit(examine_object, store, oid) for oid in oids]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except UNREADABLE as error:
            raise RemoteError(
                f"{store.name} could not be read ({type(error).__name__}: {error}), so nothing is "
                f"known of it; run the same command again when it answers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def examine_object(store: Store, oid: str) -> Examined:
    """Read one object and hold its bytes against its name.

    Two readings must agree before it is called damaged: a proxy that answers twice gives a client
    the answer to its former question (tests/proofs/fault_proxy.py), and a good object must not be
    put away for that.

    Raises:
        OSError: When each reading gives other bytes.
    """
    former = None
    for _ in range(MAX_READINGS):
        found = _read(store, oid)
        if found.problem is None or found == former:
            return found
        former = found
    raise OSError(f"{oid} is read with other bytes each time")


def _read(store: Store, oid: str) -> Examined:
    digest = hashlib.md5(usedforsecurity=False)
    content, num_bytes, is_listing = [], 0, oid.endswith(".dir")
    with store.fs.open(store.path_of(oid), "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            num_bytes += len(block)
            if is_listing:
                content.append(block)
    found = digest.hexdigest()
    if found != oid.removesuffix(".dir"):
        return Examined(oid, num_bytes, f"md5 {found} ({num_bytes:,} bytes)")
    if is_listing and listing_of(b"".join(content)) is None:
        return Examined(oid, num_bytes, "not the list of a folder")
    return Examined(oid, num_bytes, None)


def listing_of(content: bytes) -> dict[str, str] | None:
    """The object of each file of a folder, by its name; None when it is no such list."""
    try:
        return {entry["relpath"]: entry["md5"] for entry in json.loads(content)}
    except (ValueError, KeyError, TypeError):
        return None
