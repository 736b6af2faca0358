"""Models that repeat real images do not pass the gate; a model of new images does."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.near_duplicates import moved, noisy, pictures
from tests.unit.registry.test_gates import CONFIG, NEAR_EQUAL, report
from vivero.evaluation.diversity import LabelledImages, repetition
from vivero.evaluation.frechet import moments
from vivero.evaluation.kernel import mean_kernel_of_pairs
from vivero.evaluation.metrics import distance_metrics, near_equal_metric, neighbour_metrics
from vivero.evaluation.reference import Reference, ReferenceFacts
from vivero.registry.gates import judge

NUM_IMAGES, NUM_CLASSES = 1000, 4
CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda images: images,
    "noise": lambda images: noisy(images, 6.0),
    "moves": lambda images: moved(images, seed=7),
    "noise and moves": lambda images: noisy(moved(images, seed=7), 6.0),
}


def features(images: np.ndarray) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    directions = torch.randn(28 * 28, 16, generator=generator) / 28
    return (torch.from_numpy(np.array(images)).flatten(1).float() / 255 - 0.5) @ directions


TRAIN, TEST = pictures(NUM_IMAGES, seed=1), pictures(2 * NUM_IMAGES, seed=2)


def labelled(images: np.ndarray) -> LabelledImages:
    return LabelledImages(images, np.arange(len(images)) % NUM_CLASSES)


@pytest.fixture(scope="module")
def reference() -> Reference:
    rows, held_out = features(TRAIN), features(TEST[:NUM_IMAGES])
    facts = ReferenceFacts(
        extractor="efficientnet_lite0", extractor_sha256="a" * 64, classifier=None, size_px=64,
        resize="none", num_reference=len(rows), num_held_out=len(held_out), data_digest="b" * 64,
        splits_sha256="c" * 64, seed=0, real_accuracy=None, class_names=[], classifier_sha256=None,
        image_std=0.3,
    )  # fmt: skip
    return Reference(facts, rows, held_out, None, moments(rows), mean_kernel_of_pairs(rows))


def report_on(images: np.ndarray, reference: Reference) -> dict[str, Any]:
    """What evaluate measures of these images; what it would measure elsewhere is sound."""
    sound = report()
    found = repetition(labelled(images), labelled(TRAIN), labelled(TEST[:NUM_IMAGES]))
    rows = features(images)
    measured = (
        distance_metrics(rows, reference),
        neighbour_metrics(rows, reference, 5),
        near_equal_metric(found),
    )
    own = {name: value for metrics, _ in measured for name, value in metrics.items()}
    replaced = ("fd.", "recall.", "coverage.", "near_equal_share.")
    kept = {n: m for n, m in sound["metrics"].items() if not n.startswith(replaced)}
    return {**sound, "metrics": {**kept, **own}}


def failed(images: np.ndarray, reference: Reference) -> list[str]:
    verdict = judge(report_on(images, reference), None, CONFIG)
    gates = [gate.name.partition(".")[0] for gate in verdict.gates if not gate.passed]
    assert (verdict.verdict == "first") == (not gates)
    return gates


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("num_distinct", [10, 40, 200])
@pytest.mark.parametrize("is_balanced", [True, False])
def test_a_model_that_repeats_held_out_images_is_rejected(
    reference: Reference, num_distinct: int, change: str, is_balanced: bool
):
    own = TEST[NUM_IMAGES : NUM_IMAGES + num_distinct]
    rng = np.random.default_rng(3)
    rows = (
        np.arange(NUM_IMAGES) % num_distinct
        if is_balanced
        else rng.choice(num_distinct, NUM_IMAGES, p=rng.dirichlet(np.ones(num_distinct)))
    )
    assert "near_equal_share" in failed(CHANGES[change](own[rows]), reference)


@pytest.mark.parametrize("num_distinct", [10, 40])
def test_few_images_are_seen_by_what_they_leave_out_too(reference: Reference, num_distinct: int):
    own = TEST[NUM_IMAGES : NUM_IMAGES + num_distinct]
    gates = failed(own[np.arange(NUM_IMAGES) % num_distinct], reference)
    assert {"recall", "coverage"} <= set(gates)


def test_a_model_of_new_images_is_first(reference: Reference):
    assert failed(TEST[NUM_IMAGES:], reference) == []


def test_a_repeating_model_does_not_replace_a_champion_of_new_images(reference: Reference):
    champion = report_on(TEST[NUM_IMAGES:], reference)
    own = TEST[NUM_IMAGES : NUM_IMAGES + 200]
    candidate = report_on(noisy(own[np.arange(NUM_IMAGES) % 200], 6.0), reference)
    assert judge(candidate, champion, CONFIG).verdict == "reject"
    (name,) = [n for n in candidate["metrics"] if n.startswith(NEAR_EQUAL.partition(".")[0])]
    assert candidate["metrics"][name]["value"] > 0.9
