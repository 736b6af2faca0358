"""Ways in which a stored object goes bad, each of which changes its bytes and nothing else."""

import json
import random
from collections.abc import Callable

BLOCK_BYTES = 4096


def flipped(content: bytes, rng: random.Random) -> bytes:
    """One bit is another."""
    place = rng.randrange(len(content))
    damaged = bytearray(content)
    damaged[place] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def truncated(content: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return content[: rng.randrange(len(content))]


def zeroed(content: bytes, rng: random.Random) -> bytes:
    """A block, or all of a small file, was never written."""
    begin = rng.randrange(0, len(content), BLOCK_BYTES)
    num_bytes = len(content[begin : begin + BLOCK_BYTES])
    return content[:begin] + bytes(num_bytes) + content[begin + num_bytes :]


def longer(content: bytes, rng: random.Random) -> bytes:
    """Something was written twice."""
    return content + content[-rng.randrange(1, min(len(content), BLOCK_BYTES) + 1) :]


def crossed_listing(content: bytes, rng: random.Random) -> bytes:
    """The list of a folder, well formed, in which two files have each other's content."""
    entries = json.loads(content)
    one, other = rng.sample(range(len(entries)), 2)
    entries[one]["md5"], entries[other]["md5"] = entries[other]["md5"], entries[one]["md5"]
    return json.dumps(entries).encode()


def shorter_listing(content: bytes, rng: random.Random) -> bytes:
    """The list of a folder, well formed, that lacks a file."""
    entries = json.loads(content)
    entries.pop(rng.randrange(len(entries)))
    return json.dumps(entries).encode()


Way = Callable[[bytes, random.Random], bytes]
OF_FILES: dict[str, Way] = {
    "bit flip": flipped,
    "truncation": truncated,
    "zeros": zeroed,
    "longer": longer,
}
OF_LISTS: dict[str, Way] = {
    "wrong .dir: crossed": crossed_listing,
    "wrong .dir: shorter": shorter_listing,
}
SWAPPED = "swapped with another"
