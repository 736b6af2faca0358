"""The inception score, against scipy's entropy and its limits."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from vivero.errors import NotComputableError
from vivero.evaluation.inception_score import inception_score


def test_equals_the_entropies_of_scipy():
    logits = 3 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    given = softmax(logits.double().numpy(), axis=1)
    expected = math.exp(np.mean([entropy(row, given.mean(axis=0)) for row in given]))
    assert inception_score(logits).value == pytest.approx(expected, rel=1e-9)


def test_sure_and_even_over_all_classes_scores_their_number():
    logits = 1000 * torch.eye(5).repeat(4, 1)
    assert inception_score(logits).value == pytest.approx(5.0)


def test_the_same_answer_for_every_image_scores_one():
    assert inception_score(torch.ones(9, 5)).value == pytest.approx(1.0)


def test_its_standard_error_is_the_spread_over_repeated_draws():
    scores = [
        inception_score(2 * torch.randn(400, 6, generator=torch.Generator().manual_seed(seed)))
        for seed in range(150)
    ]
    spread = np.std([s.value for s in scores], ddof=1)
    assert np.mean([s.std_error for s in scores]) == pytest.approx(spread, rel=0.2)


def test_a_single_image_is_refused():
    with pytest.raises(NotComputableError, match="at least 2 images; got 1"):
        inception_score(torch.zeros(1, 3))
