"""The short model of many GPUs, by hand."""

import pytest

from bench.scaling import Cluster, efficiency, exchanged_bytes
from bench.train_speed import misses

CLUSTER = Cluster(flops_per_s=1e12, bytes_per_s=1e9, backward_share=0.5)


def test_a_ring_sends_nearly_two_gradients():
    assert exchanged_bytes(1_000_000, 2) == 4e6
    assert exchanged_bytes(1_000_000, 64) == pytest.approx(2 * 63 / 64 * 4e6)


def test_efficiency_with_and_without_hiding():
    # One GPU computes 8 ms, and two exchange 4 MB in 4 ms: a third is lost, or all is hidden.
    assert efficiency(8e9, 1_000_000, 2, CLUSTER) == pytest.approx((2 / 3, 1.0))
    # With 4 ms of computation only 2 of the 4 ms are hidden.
    assert efficiency(4e9, 1_000_000, 2, CLUSTER) == pytest.approx((1 / 2, 2 / 3))


def test_every_missed_target_is_named():
    good = {
        "rest": 0.02,
        "fp32 of peak": 0.9,
        "bf16 of peak": 0.7,
        "fp32 over usual fp32": 1.1,
        "bf16 over usual fp32": 1.8,
    }
    assert misses(good, with_bf16=True) == []
    for name, value in good.items():
        bad = {**good, name: 1 - value if name == "rest" else value / 2}
        assert len(misses(bad, with_bf16=True)) == 1
    assert misses({**good, "bf16 of peak": 0.1}, with_bf16=False) == []
