"""Tensors as the parts of a safetensors file: their own memory, not copied.

The library copies all tensors of a file twice in one call that lets no other thread run, so a
training would wait for a large model to be saved. Reading stays the library's.
"""

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

ALIGNMENT_BYTES = 8
DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

Parts = Sequence[bytes | memoryview]


def tensor_file(tensors: Mapping[str, Tensor]) -> Parts:
    """The parts of a file that holds some tensors, which must not change until it is written.

    Args:
        tensors: Contiguous, on the CPU.

    Source:
        https://huggingface.co/docs/safetensors, section Format.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # so all are aligned
    header, begin = {}, 0
    for name in names:
        tensor, end = tensors[name], begin + tensors[name].nbytes
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT_BYTES)
    memory = [tensors[name].reshape(-1).view(torch.uint8).numpy().data for name in names]
    return [len(text).to_bytes(8, "little"), text, *memory]
