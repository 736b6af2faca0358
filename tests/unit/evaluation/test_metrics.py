"""The names of metrics, their entries, and what classifiers say of samples."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from tests.prepared_images import stripes
from vivero.evaluation.classifier import Teaching, train_classifier
from vivero.evaluation.frechet import frechet_distance, moments
from vivero.evaluation.inception import PUBLISHED_SHA256
from vivero.evaluation.intervals import Estimate
from vivero.evaluation.kernel import mean_kernel_of_pairs
from vivero.evaluation.metrics import (
    Labelled,
    Source,
    classification_accuracy_score,
    count_name,
    distance_metrics,
    label_agreement,
    mean_accuracy,
    metric,
)
from vivero.evaluation.per_image import OF_REFERENCE
from vivero.evaluation.reference import Reference, ReferenceFacts

NAMES = ["top", "middle", "low"]


def reference(extractor: str, weights_sha256: str = "a" * 64) -> Reference:
    generator = torch.Generator().manual_seed(0)
    features, held_out = torch.randn(80, 6, generator=generator), torch.randn(30, 6)
    facts = ReferenceFacts(
        extractor,
        weights_sha256,
        None,
        64,
        "64 px",
        80,
        30,
        "b" * 64,
        "c" * 64,
        0,
        None,
        None,
        [],
        0.7,
    )
    return Reference(
        facts, features, held_out, None, moments(features), mean_kernel_of_pairs(features)
    )


def lesson(num_images: int, seed: int) -> Labelled:
    return Labelled(*stripes(num_images, NAMES, seed))


@pytest.mark.parametrize(
    ("count", "name"), [(5000, "5k"), (500, "500"), (1000, "1k"), (1500, "1500")]
)
def test_a_count_is_named_as_people_say_it(count: int, name: str):
    assert count_name(count) == name


@pytest.mark.parametrize(
    ("extractor", "sha256", "names"),
    [
        ("inception", PUBLISHED_SHA256, {"fid.inception.40", "kid.inception.40"}),
        ("inception", "a" * 64, {"fd.inception.40", "kd.inception.40"}),
        ("inception-aaaaaaaa", "a" * 64, {"fd.inception-aaaaaaaa.40", "kd.inception-aaaaaaaa.40"}),
        ("efficientnet_lite0", "a" * 64, {"fd.efficientnet_lite0.40", "kd.efficientnet_lite0.40"}),
    ],
)
def test_only_distances_by_the_published_inception_are_called_fid_and_kid(
    extractor: str, sha256: str, names: set[str]
):
    real = reference(extractor, sha256)
    samples = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    found, influences = distance_metrics(samples, real)
    assert set(found) == names
    distance = min(names)  # fd or fid, before kd or kid
    shapes = {name: values.shape for name, values in influences.items()}
    assert shapes == {distance: (40,), distance + OF_REFERENCE: (len(real.features),)}
    for figure in found.values():
        assert (figure["n"], figure["floor_n"]) == (40, 30)  # fewer held-out images: it says so
        assert figure["extractor_sha256"] == sha256


def test_the_floor_is_the_distance_of_held_out_real_images():
    real = reference("inception", PUBLISHED_SHA256)
    figure = distance_metrics(torch.randn(40, 6), real)[0]["fid.inception.40"]
    assert figure["floor"] == pytest.approx(frechet_distance(moments(real.held_out), real.moments))


def test_an_entry_without_a_floor_says_so():
    figure = metric(Estimate(1.0, 0.5, 1.5, 0.25, 9), "lower", Source("x", "y", "z"), None)
    assert figure["floor"] is None
    assert (figure["value"], figure["low"], figure["high"], figure["n"]) == (1.0, 0.5, 1.5, 9)


def test_label_agreement_is_the_share_that_shows_what_was_asked():
    network = train_classifier(*stripes(600, NAMES, 0), Teaching(3, 4, seed=0))
    shown = lesson(60, 1)
    wrong = shown.labels.copy()
    wrong[:15] = (wrong[:15] + 1) % 3
    right, less = (label_agreement(network, shown.images, y).value for y in (shown.labels, wrong))
    assert right > 0.95
    assert right - less == pytest.approx(0.25, abs=0.05)


def test_samples_with_wrong_labels_teach_badly_and_good_ones_as_real_images_do():
    train, test, teaching = lesson(600, 0), lesson(100, 1), Teaching(3, 4, seed=0)
    good, by_class = classification_accuracy_score(lesson(600, 2), train, test, teaching)
    shuffled = Labelled(train.images, np.random.default_rng(0).permutation(train.labels))
    bad, _ = classification_accuracy_score(shuffled, train, test, teaching)

    (name,) = good
    assert name == "cas.small_cnn.600"
    assert good[name]["value"] > 0.95
    assert bad[name]["value"] < 0.7
    assert good[name]["floor"] == bad[name]["floor"] > 0.95
    assert [len(by_class[side]) for side in ("value", "floor")] == [3, 3]


def test_the_accuracy_of_several_classifiers_adds_both_variances():
    is_right = np.array([[1, 1, 0, 1], [1, 0, 0, 1]], dtype=bool)
    got = mean_accuracy(is_right)
    of_seeds = np.var([0.75, 0.5], ddof=1) / 2
    of_images = np.var([1.0, 0.5, 0.0, 1.0], ddof=1) / 4
    assert got.value == 0.625
    assert got.std_error == pytest.approx(math.sqrt(of_seeds + of_images))
    assert got.high == 1.0


def test_a_reference_is_named_by_what_it_was_made_from():
    real, other = reference("inception"), reference("inception")
    moved = dataclasses.replace(real, features=real.features + 1e-6)  # another processor
    assert real.sha256 == moved.sha256 == other.sha256
    for change in ({"splits_sha256": "d" * 64}, {"num_reference": 79}, {"resize": "32 px"}):
        changed = dataclasses.replace(real, facts=dataclasses.replace(real.facts, **change))
        assert changed.sha256 != real.sha256
