"""Caches below work/: an entry is used only while its hash is right, and is computed again if not.

An entry holds a sha256 of its content and of its key, the inputs that it was computed from. A
flipped bit, a cut file and a file under the wrong name are all found when the entry is read.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vivero.files import read_json, sha256_of_json, write_json, write_whole

SHA256, KEY = "sha256", "key"

log = logging.getLogger(__name__)


def save_tensors(path: Path, key: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as a safetensors file that holds their hash.

    Args:
        path: File to write; replaced atomically.
        key: Everything that the tensors were computed from, as text or a hash.
        tensors: On the CPU.
    """
    stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with write_whole(path) as part_path:
        part_path.write_bytes(save(stored, metadata={SHA256: _sha256_of_tensors(key, stored)}))


def load_tensors(path: Path, key: str) -> dict[str, Tensor] | None:
    """The tensors that save_tensors wrote under the same key.

    Returns:
        None when there is no such file, and, with a warning, when it is damaged.
    """
    if not path.is_file():
        return None
    try:
        content = path.read_bytes()  # not memory-mapped: a cut file would kill the process
        tensors: dict[str, Tensor] = load(content)
        if _sha256_in_header(content) == _sha256_of_tensors(key, tensors):
            return tensors
        reason = "its hash is wrong"
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    _warn(path, reason)
    return None


def write_record(path: Path, key: Any, record: Mapping[str, Any]) -> None:
    """Write the fields of a record as JSON, with the hash of its key and the hash of both.

    Args:
        path: File to write; replaced atomically.
        key: Everything that the record was computed from, as a JSON value.
        record: Its fields, as JSON values.
    """
    fields = {**record, KEY: sha256_of_json(key)}
    write_json(path, {**fields, SHA256: sha256_of_json(fields)})


def read_record(path: Path, key: Any) -> dict[str, Any] | None:
    """The record that write_record wrote under the same key.

    Returns:
        None when there is no such file or it has another key, and, with a warning, when it is
        damaged.
    """
    if not path.is_file():
        return None
    try:
        fields = dict(read_json(path))
        if fields.pop(SHA256, None) == sha256_of_json(fields):
            return fields if fields.pop(KEY) == sha256_of_json(key) else None
        reason = "its hash is wrong"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    _warn(path, reason)
    return None


def _warn(path: Path, reason: str) -> None:
    log.warning("the cached file %s is damaged (%s) and is computed again", path, reason)


def _sha256_in_header(content: bytes) -> str:
    """The hash that a safetensors file holds; its header is JSON after eight bytes of length."""
    num_bytes = int.from_bytes(content[:8], "little")
    return str(json.loads(content[8 : 8 + num_bytes])["__metadata__"][SHA256])


def _sha256_of_tensors(key: str, tensors: Mapping[str, Tensor]) -> str:
    """Hex sha256 over the key and the names, types, shapes and values of tensors."""
    digest = hashlib.sha256(sha256_of_json(key).encode())
    for name, tensor in sorted(tensors.items()):
        fields = [name, str(tensor.dtype), list(tensor.shape)]
        digest.update(sha256_of_json(fields).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
