"""The variance between seeds: measured, written, read back, and refused when it is not sound."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivero.config.paths import SEED_VARIANCE
from vivero.config.schema import Config
from vivero.errors import DataError
from vivero.registry.differences import Measurements, difference_gates
from vivero.registry.seed_variance import (
    MetricValues,
    SeedVariance,
    measure_seed_variance,
    merge_seed_variance,
    read_seed_variance,
    recipe_of,
    spreads_for,
    write_seed_variance,
)

FD, SHARE = "fd.efficientnet_lite0.5k", "label_agreement.small_cnn.5k"
N, RULER = 2000, "u" * 64


def report(seed: int, sigma: float, noise: np.ndarray) -> dict[str, Any]:
    """A model whose true distance is 100 (1 + sigma z), measured on N images of shared noise."""
    rng = np.random.default_rng([seed, 7])
    influences = 100 * (noise + 0.5 * rng.normal(size=N))
    hits = rng.random(N) < 0.9
    values = {FD: 100 * (1 + sigma * rng.normal()) + influences.mean(), SHARE: hits.mean()}
    return {
        "protocol": {"hash": f"of sampling {seed}", "ruler_hash": RULER},
        "lineage": {"data_digest": "d.dir", "weights_sha256": f"{seed:064}", "seed": seed},
        "metrics": {
            name: {"value": float(value), "std_error": 0.1, "n": N, "better": "lower"}
            for name, value in values.items()
        },
        "per_image": {FD: influences, SHARE: hits},
    }


def measured(sigma: float = 0.03, num_seeds: int = 6, first: int = 0) -> SeedVariance:
    noise = np.random.default_rng(0).normal(size=N)
    reports = {seed: report(seed, sigma, noise) for seed in range(first, first + num_seeds)}
    return measure_seed_variance("default", "r" * 64, reports)


def test_the_spread_between_trainings_is_found_and_the_noise_of_the_images_removed():
    found = measured(sigma=0.03, num_seeds=400).metrics[FD].spread
    assert found.relative_std == pytest.approx(0.03, rel=0.1)  # 400 seeds: known to 3.5 %
    assert found.degrees_of_freedom == 399
    of_images = 0.5 / N**0.5  # what the models do not share, over the mean of 100 times 100
    assert found.evaluation_error / found.mean == pytest.approx(of_images, rel=0.05)


def test_models_that_differ_by_their_images_alone_have_no_spread_between_seeds():
    found = measured(sigma=0.0, num_seeds=400).metrics[FD].spread
    assert found.observed_relative_std == pytest.approx(0.5 / N**0.5, rel=0.15)
    assert found.relative_std < 0.4 * found.observed_relative_std


def test_without_values_per_image_nothing_is_removed():
    reports = {seed: report(seed, 0.03, np.zeros(N)) for seed in range(3)}
    for made in reports.values():
        del made["per_image"]
    found = measure_seed_variance("default", "r", reports).metrics[FD].spread
    assert found.evaluation_error == 0
    assert found.relative_std == found.observed_relative_std


def test_what_is_written_is_read_back_and_names_what_a_reader_asks_for(tmp_path: Path):
    written = measured()
    write_seed_variance(tmp_path, written)
    assert read_seed_variance(tmp_path) == written
    assert written.ruler_sha256 == RULER
    row = json.loads((tmp_path / SEED_VARIANCE).read_text())["metrics"][FD]
    values = list(row["values"].values())
    assert row["mean"] == pytest.approx(np.mean(values), rel=1e-5)
    observed = np.std(values, ddof=1) / np.mean(values)
    assert row["observed_relative_std"] == pytest.approx(observed, rel=1e-5)
    assert row["degrees_of_freedom"] == 5


def test_no_file_is_no_spread(tmp_path: Path):
    assert read_seed_variance(tmp_path) is None
    assert spreads_for(None, "r", "d", RULER) is None


def _with(change: Callable[[dict[str, Any]], object]) -> str:
    values = measured().as_json()
    change(values)
    return json.dumps(values)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        _with(lambda v: v["metrics"][FD].update(relative_std=0.0)),
        _with(lambda v: v["metrics"][FD].update(mean=1.0)),
        _with(lambda v: v["metrics"][FD]["values"].update({"0": "12"})),
        _with(lambda v: v["metrics"][FD]["values"].update({"0": float("nan")})),
        _with(lambda v: v["metrics"][FD].update(values={"0": 1.0})),
        _with(lambda v: v["metrics"][FD].update(evaluation_error=-1.0)),
        _with(lambda v: v.update(name="n" * 10_000)),
        _with(lambda v: v.update(extra=1)),
        _with(lambda v: v.pop("recipe_sha256")),
        " " * 5_000_000,
    ],
)
def test_a_file_that_is_not_what_was_written_is_refused_with_what_to_do(tmp_path: Path, text: str):
    (tmp_path / SEED_VARIANCE).write_text(text)
    with pytest.raises(DataError, match="measure again: `vivero seeds"):
        read_seed_variance(tmp_path)


def test_the_recipe_is_what_decides_the_model_and_its_images(
    tiny_config: Config, config_factory: Callable[..., Config]
):
    own = recipe_of(tiny_config)
    for same in ({"train.seed": 5}, {"train.keep_checkpoints": 7}, {"train.heartbeat_s": 9.0}):
        assert recipe_of(config_factory(same)) == own
    for other in (
        {"train.learning_rate": 0.0123},
        {"train.diffusion.sigma_data": 0.77},
        {"train.model.channels": [8, 24]},
        {"train.label_dropout": 0.31},
    ):
        assert recipe_of(config_factory(other)) != own


def test_a_spread_of_another_recipe_or_of_other_data_is_used_and_named():
    found = measured()
    same = spreads_for(found, "r" * 64, "d.dir", RULER)
    assert same is not None
    assert same.note == ""
    other = spreads_for(found, "s" * 64, "e.dir", RULER)
    assert other is not None
    assert other.note == "measured on another recipe and on other data ('default')"
    ruler = spreads_for(found, "r" * 64, "d.dir", "v" * 64)
    assert ruler is not None
    assert ruler.note == "measured under another ruler ('default')"
    assert other.find(FD) == same.find(FD) == found.metrics[FD].spread


def test_a_relative_spread_holds_for_other_numbers_of_images_but_not_for_another_metric():
    spreads = spreads_for(measured(), "r" * 64, "d.dir", RULER)
    assert spreads is not None
    assert spreads.find("fd.efficientnet_lite0.10k") == spreads.find(FD)
    assert spreads.find("fd.inception.5k") is None
    assert spreads.find("latency") is None


def test_seeds_that_are_measured_later_are_added():
    whole = measured(num_seeds=6)
    parts = measured(num_seeds=3, first=3), measured(num_seeds=3)
    merged = merge_seed_variance(*parts)
    errors = [part.metrics[FD].evaluation_error for part in parts]
    assert errors[0] != errors[1]
    assert merged.metrics[FD].evaluation_error == min(errors)  # the less is removed, the safer
    assert merge_seed_variance(*parts[::-1]).metrics[FD].evaluation_error == min(errors)
    assert merged.weights_sha256 == whole.weights_sha256
    assert merged.metrics[FD].values == whole.metrics[FD].values
    assert merged.metrics[FD].spread.degrees_of_freedom == 5
    error = whole.metrics[FD].evaluation_error
    assert merged.metrics[FD].evaluation_error == pytest.approx(error, rel=0.1)


@pytest.mark.parametrize("field", ["recipe_sha256", "ruler_sha256", "data_digest"])
def test_seeds_of_another_recipe_ruler_or_data_are_not_mixed(field: str):
    new, former = measured(num_seeds=3, first=3), replace(measured(num_seeds=3), **{field: "x"})
    assert merge_seed_variance(new, former) == new
    assert merge_seed_variance(new, None) == new


def not_known(found: SeedVariance, metric: str = FD) -> str | None:
    spreads = spreads_for(found, "r" * 64, "d.dir", RULER)
    assert spreads is not None
    assert (spreads.find(metric) is None) == (spreads.why_not_known(metric) is not None)
    return spreads.why_not_known(metric)


def same_values(found: SeedVariance, metric: str, value: float) -> SeedVariance:
    values = MetricValues(dict.fromkeys(found.weights_sha256, value), 0.0)
    return replace(found, metrics={**found.metrics, metric: values})


def test_seeds_that_do_not_differ_tell_nothing_of_how_far_seeds_differ():
    found = same_values(measured(), FD, 100.0)
    assert not_known(found) == f"all seeds of 'default' have the same {FD}"
    assert not_known(found, "fd.efficientnet_lite0.10k") == not_known(found)
    assert not_known(found, SHARE) is None
    assert not_known(same_values(measured(), SHARE, 0.0), SHARE) is not None


def test_a_share_of_images_may_be_zero_for_all_seeds():
    copied = "copied_share.pixels.500"
    assert not_known(same_values(measured(), copied, 0.0), copied) is None
    assert not_known(same_values(measured(), copied, 0.002), copied) is not None


def test_two_seeds_of_equal_weights_are_no_two_trainings():
    found = measured()
    weights = {**found.weights_sha256, 4: found.weights_sha256[1]}
    reason = "seeds 1 and 4 of 'default' have the same weights"
    for metric in (FD, SHARE):
        assert not_known(replace(found, weights_sha256=weights), metric) == reason


def test_a_retraining_holds_with_the_reason_where_the_spread_is_not_known(tiny_config: Config):
    noise = np.random.default_rng(0).normal(size=N)
    champion, candidate = (report(seed, 0.0, noise) for seed in (10, 11))
    candidate["metrics"][FD]["value"] -= 50
    for found, said in ((measured(), None), (same_values(measured(), FD, 9.0), "have the same")):
        spreads = spreads_for(found, "r" * 64, "d.dir", RULER)
        gate = difference_gates(
            candidate, champion, tiny_config.judge, Measurements(spreads=spreads)
        )[0]
        assert gate.name == FD
        assert gate.passed is (True if said is None else None)
        assert said is None or said in gate.reason
