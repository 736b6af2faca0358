import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivero.training.learning_rate import cosine_with_warmup


def rate(images_seen: int, warmup_images: int = 10, total_images: int = 100) -> float:
    return cosine_with_warmup(
        images_seen, peak=2.0, warmup_images=warmup_images, total_images=total_images
    )


def test_rises_then_follows_half_a_cosine():
    assert rate(0) == 0
    assert rate(5) == pytest.approx(0.5 * 2 * (1 + math.cos(0.05 * math.pi)) / 2)
    assert rate(50) == pytest.approx(1.0)
    assert rate(100) == pytest.approx(0, abs=1e-12)


def test_no_warmup_starts_at_the_peak():
    assert rate(0, warmup_images=0) == 2.0


@given(st.integers(10, 99))
def test_only_falls_after_warmup(images_seen: int):
    assert rate(images_seen) > rate(images_seen + 1) >= 0
