"""Files made of tensors' own memory are safetensors, as the library reads them."""

import pytest
import safetensors.torch
import torch

from vivero.training.tensor_file import ALIGNMENT_BYTES, DTYPES, tensor_file

TENSORS = {
    "half": torch.tensor([1.5, -2.0, 3.25], dtype=torch.float16),
    "scalar": torch.tensor(7.0),
    "weights": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "of an odd size": torch.tensor([True, False, True]),
    "empty": torch.zeros(0, 3),
    '\u00fcml\u00e4ut "quoted"': torch.tensor([2**40], dtype=torch.int64),
}


def test_the_library_reads_back_every_tensor():
    read = safetensors.torch.load(b"".join(tensor_file(TENSORS)))
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kind_of_number_comes_back(dtype: torch.dtype):
    tensor = torch.tensor([0, 1, 1, 0]).to(dtype)
    read = safetensors.torch.load(b"".join(tensor_file({"x": tensor})))
    assert read["x"].dtype == dtype
    assert torch.equal(read["x"], tensor)


def test_the_library_writes_the_same_data():
    tensors = {name: TENSORS[name] for name in ("weights", "scalar", "half")}
    ours = tensor_file(tensors)
    library = safetensors.torch.save(tensors)
    data = b"".join(ours[2:])
    assert library.endswith(data)
    assert len(b"".join(ours[:2])) % ALIGNMENT_BYTES == 0


def test_nothing_is_copied():
    tensor = torch.zeros(4)
    parts = tensor_file({"x": tensor})
    tensor.fill_(1.0)
    assert torch.equal(safetensors.torch.load(b"".join(parts))["x"], torch.ones(4))
