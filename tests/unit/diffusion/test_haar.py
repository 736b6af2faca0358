"""Patches as channels: nothing lost, nothing added."""

import pytest
import torch

from vivero.diffusion.haar import haar_rotation, pack_patches, unpack_patches


@pytest.mark.parametrize("patch_px", [1, 2, 4])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_packing_is_a_rotation(patch_px: int, num_channels: int):
    images = torch.randn(2, num_channels, 8, 12, generator=torch.Generator().manual_seed(0))
    packed = pack_patches(images, patch_px, haar_rotation())

    assert packed.shape == (2, num_channels * patch_px**2, 8 // patch_px, 12 // patch_px)
    assert torch.allclose(packed.norm(), images.norm(), rtol=1e-5)
    unpacked = unpack_patches(packed, patch_px, haar_rotation())
    assert torch.allclose(unpacked, images, atol=1e-6)


def test_the_first_channel_of_a_patch_is_twice_its_mean():
    image = torch.tensor([[1.0, 2.0], [4.0, 9.0]])[None, None]
    packed = pack_patches(image, 2, haar_rotation())
    assert packed.flatten().tolist() == [8.0, -3.0, -5.0, 2.0]


def test_colours_do_not_mix():
    image = torch.zeros(1, 3, 4, 4)
    image[:, 1] = 1.0
    packed = pack_patches(image, 4, haar_rotation())
    assert packed[0].abs().amax(dim=(1, 2)).nonzero().flatten().tolist() == [16]
