"""The Haar tree: nothing lost, nothing added, and noise stays noise on every level."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vivero.diffusion.haar import (
    haar_join,
    haar_pool,
    haar_pyramid,
    haar_rotation,
    haar_split,
    pack_patches,
    unpack_patches,
    with_coarse,
)


def images(seed: int = 0, shape: tuple[int, ...] = (2, 3, 8, 12)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.integers(1, 6)).map(
    lambda shape: (shape[0], shape[1], 2 * shape[2], 2 * shape[3])
)


@given(shape=SHAPES, seed=st.integers(0, 1000))
def test_a_split_keeps_the_norm_and_is_undone_by_join(shape: tuple[int, ...], seed: int):
    whole = images(seed, shape)
    coarse, details = haar_split(whole)

    assert coarse.shape == (shape[0], shape[1], shape[2] // 2, shape[3] // 2)
    assert details.shape == (shape[0], 3 * shape[1], shape[2] // 2, shape[3] // 2)
    energy = coarse.square().sum() + details.square().sum()
    assert torch.allclose(energy, whole.square().sum())
    assert torch.allclose(haar_join(coarse, details), whole)


@given(shape=SHAPES, seed=st.integers(0, 1000))
def test_a_join_keeps_the_norm_and_is_undone_by_split(shape: tuple[int, ...], seed: int):
    num_images, num_channels, height, width = shape
    coarse = images(seed, (num_images, num_channels, height, width))
    details = images(seed + 1, (num_images, 3 * num_channels, height, width))
    whole = haar_join(coarse, details)

    assert whole.shape == (num_images, num_channels, 2 * height, 2 * width)
    split = haar_split(whole)
    assert torch.allclose(split[0], coarse)
    assert torch.allclose(split[1], details)


def test_a_split_is_orthonormal():
    basis = torch.eye(16, dtype=torch.float64).reshape(16, 1, 4, 4)
    matrix = torch.cat([part.flatten(1) for part in haar_split(basis)], dim=1)
    assert torch.allclose(matrix @ matrix.T, torch.eye(16, dtype=torch.float64))


def test_bands_come_in_the_order_horizontal_vertical_diagonal_each_of_all_colours():
    square = torch.tensor([[1.0, 2.0], [4.0, 9.0]])
    two_colours = torch.stack([square, 10 * square])[None]
    coarse, details = haar_split(two_colours)
    assert coarse.flatten().tolist() == [8.0, 80.0]
    assert details.flatten().tolist() == [-3.0, -30.0, -5.0, -50.0, 2.0, 20.0]


@pytest.mark.parametrize("shape", [(1, 1, 3, 4), (1, 1, 4, 3), (1, 1, 3, 3)])
def test_a_split_refuses_odd_sizes(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="needs even height and width; got"):
        haar_split(images(shape=shape))


def test_pool_is_the_coarse_part():
    assert torch.allclose(haar_pool(images()), haar_split(images())[0])


@given(level=st.integers(0, 3), seed=st.integers(0, 1000))
def test_a_level_is_the_scaled_mean_of_its_pixels(level: int, seed: int):
    whole = images(seed, (1, 2, 8, 16))
    levels = haar_pyramid(whole, level + 1)

    assert len(levels) == level + 1
    assert torch.equal(levels[0], whole)
    assert torch.allclose(levels[level], 2**level * F.avg_pool2d(whole, 2**level))


def test_every_level_of_a_noisy_image_has_the_same_noise():
    sigma = 0.7
    clean, noise = images(0, (64, 3, 32, 32)), images(1, (64, 3, 32, 32))
    of_noisy, of_clean = haar_pyramid(clean + sigma * noise, 4), haar_pyramid(clean, 4)
    for noisy_level, clean_level in zip(of_noisy, of_clean, strict=True):
        left = noisy_level - clean_level
        # at the root 3,072 values: the deviation is known to 1.3 %
        assert left.std().item() == pytest.approx(sigma, rel=0.04)
        beside = (left[..., 1:] * left[..., :-1]).mean() / sigma**2
        assert abs(beside.item()) < 0.08


@pytest.mark.parametrize(
    ("num_levels", "shape"), [(0, (1, 1, 8, 8)), (3, (1, 1, 8, 6)), (3, (1, 1, 6, 8))]
)
def test_a_pyramid_refuses_what_does_not_divide(num_levels: int, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=rf"got {num_levels} levels for {shape[2]} x {shape[3]}"):
        haar_pyramid(images(shape=shape), num_levels)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_another_coarse_part_leaves_the_details(depth: int):
    whole, other = images(0, (2, 3, 8, 8)), images(1, (2, 3, 8 >> depth, 8 >> depth))
    changed = with_coarse(whole, other)
    assert torch.allclose(haar_pyramid(changed, depth + 1)[depth], other)
    for level in range(depth):
        own = haar_split(haar_pyramid(whole, depth + 1)[level])[1]
        assert torch.allclose(haar_split(haar_pyramid(changed, depth + 1)[level])[1], own)


@pytest.mark.parametrize("patch_px", [1, 2, 4])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_packing_is_a_rotation(patch_px: int, num_channels: int):
    whole = images(shape=(2, num_channels, 8, 12)).float()
    packed = pack_patches(whole, patch_px, haar_rotation())

    assert packed.shape == (2, num_channels * patch_px**2, 8 // patch_px, 12 // patch_px)
    assert torch.allclose(packed.norm(), whole.norm(), rtol=1e-5)
    unpacked = unpack_patches(packed, patch_px, haar_rotation())
    assert torch.allclose(unpacked, whole, atol=1e-6)


def test_packing_is_the_split_with_the_bands_of_a_colour_together():
    whole = images().float()
    coarse, details = haar_split(whole)
    bands = torch.stack([coarse, *details.chunk(3, dim=1)], dim=2)
    assert torch.allclose(pack_patches(whole, 2, haar_rotation()), bands.flatten(1, 2), atol=1e-6)


def test_colours_do_not_mix():
    image = torch.zeros(1, 3, 4, 4)
    image[:, 1] = 1.0
    packed = pack_patches(image, 4, haar_rotation())
    assert packed[0].abs().amax(dim=(1, 2)).nonzero().flatten().tolist() == [16]
