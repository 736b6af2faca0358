"""The kernel distance, against clean-fid's own, the definition, and repeated draws."""

import numpy as np
import pytest
import torch

from vivero.errors import NotComputableError
from vivero.evaluation.kernel import kernel_estimate, mean_kernel_of_pairs


def drawn(seed: int, num_images: int, shift: float = 0.0, num_features: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_images, num_features, generator=generator) + shift


def test_equals_clean_fid_over_one_subset_of_all_images():
    from vivero.evaluation.torchvision_door import open_torchvision_door

    open_torchvision_door()
    from cleanfid.fid import kernel_distance

    first, second = drawn(0, 200), drawn(1, 200, shift=0.4)
    expected = kernel_distance(
        second.double().numpy(), first.double().numpy(), num_subsets=1, max_subset_size=200
    )
    assert kernel_estimate(first, second).value == pytest.approx(expected, rel=1e-4)


def test_equals_the_definition_for_sides_of_unlike_size():
    first, second = drawn(0, 7).double(), drawn(1, 11, shift=0.5).double()

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x @ y / 16 + 1) ** 3)

    def mean_of_pairs(rows: torch.Tensor) -> float:
        n = len(rows)
        pairs = [kernel(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j]
        return float(np.mean(pairs))

    across = float(np.mean([kernel(x, y) for x in first for y in second]))
    expected = mean_of_pairs(first) + mean_of_pairs(second) - 2 * across
    assert mean_kernel_of_pairs(second) == pytest.approx(mean_of_pairs(second), rel=1e-12)
    assert kernel_estimate(first, second).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_its_standard_error_is_near_the_spread_over_repeated_draws(shift: float):
    reference = drawn(0, 2000)
    known = mean_kernel_of_pairs(reference)
    estimates = [
        kernel_estimate(drawn(100 + seed, 150, shift), reference, known) for seed in range(80)
    ]
    spread = float(np.std([e.value for e in estimates], ddof=1))
    mean_error = float(np.mean([e.std_error for e in estimates]))
    assert 0.8 * spread < mean_error < 1.7 * spread


def test_is_unbiased_where_both_sides_are_alike():
    reference = drawn(0, 3000)
    known = mean_kernel_of_pairs(reference)
    values = [kernel_estimate(drawn(500 + s, 60), reference, known).value for s in range(100)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values)) + 1e-3


def test_a_single_image_is_refused():
    with pytest.raises(NotComputableError, match="at least 2 images a side; got 1, 5"):
        kernel_estimate(drawn(0, 1), drawn(1, 5))
