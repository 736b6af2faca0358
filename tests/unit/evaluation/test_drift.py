"""Drift: silent without a change, loud with one, and its level is kept."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tests.drift_settings import CONFIG
from vivero.errors import DataError
from vivero.evaluation.drift import drift_report
from vivero.evaluation.drift_reference import (
    DriftReference,
    load_drift_reference,
    save_drift_reference,
)
from vivero.evaluation.drift_statistics import area_under_curve, whitened


def features(seed: int, num_images: int = 200) -> torch.Tensor:
    """Clustered features with a spectrum that falls, as real ones have."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)) * 2
    spread = torch.arange(1, 33).float() ** -0.5
    chosen = centres[torch.randint(5, (num_images,), generator=generator)]
    return chosen + torch.randn(num_images, 32, generator=generator) * spread


def report_on(current: torch.Tensor, seed: int = 0):
    return drift_report(features(1), current, CONFIG, torch.Generator().manual_seed(seed))


def test_no_change_is_no_alarm():
    assert not report_on(features(2)).is_alarm


@pytest.mark.parametrize(
    "changed",
    [
        features(2) + 0.5 * torch.arange(1, 33).float() ** -0.5,
        features(2) * 1.3,
        features(2, 600)[features(2, 600)[:, 0] > 0][:200],
    ],
    ids=["shift", "spread", "a kind is missing"],
)
def test_a_change_is_an_alarm(changed: torch.Tensor):
    report = report_on(changed)
    assert report.is_alarm
    assert report.auc > 0.55


def test_the_level_is_kept_without_drift():
    num_trials = 80
    alarms = sum(
        drift_report(
            features(1000 + 2 * trial, 80),
            features(1001 + 2 * trial, 80),
            CONFIG,
            torch.Generator().manual_seed(trial),
        ).is_alarm
        for trial in range(num_trials)
    )
    # 5 % of 80 is 4; three standard errors of a binomial more.
    assert alarms <= 4 + 3 * (80 * 0.05 * 0.95) ** 0.5


def test_both_p_values_are_about_uniform_without_drift():
    reports = [
        drift_report(
            features(2000 + 2 * trial, 60),
            features(2001 + 2 * trial, 60),
            CONFIG,
            torch.Generator().manual_seed(trial),
        )
        for trial in range(60)
    ]
    for which in (0, 1):
        assert np.mean([r.tests[which].p_value for r in reports]) == pytest.approx(0.5, abs=0.12)


def test_equal_seeds_give_equal_reports():
    assert report_on(features(2), seed=4) == report_on(features(2), seed=4)


def test_outliers_are_counted():
    current = features(2)
    current[:20] += 100
    found = report_on(current).outlier_share
    assert found.low < found.value < found.high
    assert found.value >= 0.1 - 1e-9


def test_the_distance_by_chance_is_that_of_unchanged_images():
    unchanged = report_on(features(2))
    assert unchanged.frechet == pytest.approx(unchanged.frechet_floor, rel=0.3)
    assert report_on(features(2) + 1.0).frechet > 2 * unchanged.frechet_floor


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="at least 10 images"):
        report_on(features(2)[:5])


@given(seed=st.integers(0, 1000), components=st.integers(2, 40))
@settings(max_examples=20, deadline=None)
def test_whitening_gives_unit_uncorrelated_components(seed: int, components: int):
    white = whitened(features(seed, 50).double(), components)
    expected = torch.eye(white.shape[1], dtype=torch.double)
    torch.testing.assert_close(white.T.cov(), expected, atol=1e-6, rtol=0)
    assert white.shape[1] <= components


def test_constant_features_do_not_break_it():
    white = whitened(torch.ones(30, 4).double(), 3)
    assert white.isfinite().all()


def test_the_area_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.random(200) < 0.4
    scores = rng.normal(size=200).round(1) + labels
    assert area_under_curve(scores, labels) == pytest.approx(roc_auc_score(labels, scores))


def test_a_reference_comes_back_from_its_file(tmp_path: Path):
    reference = DriftReference(features(1), "abc", "0123.dir")
    save_drift_reference(tmp_path / "drift.safetensors", reference)
    back = load_drift_reference(tmp_path / "drift.safetensors")
    written = (tmp_path / "drift.safetensors").read_bytes()
    for _ in range(5):
        save_drift_reference(tmp_path / "again.safetensors", reference)
        assert (tmp_path / "again.safetensors").read_bytes() == written
    assert torch.equal(back.features, reference.features)
    assert (back.extractor_sha256, back.data_digest) == ("abc", "0123.dir")


@pytest.mark.parametrize("content", [None, b"", b"rubbish" * 10])
def test_a_damaged_reference_is_refused(tmp_path: Path, content: bytes | None):
    path = tmp_path / "drift.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="no readable drift reference"):
        load_drift_reference(path)
