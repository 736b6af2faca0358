"""The grid of samplers, its Pareto front, and the verdict on the target."""

import pytest

from vivero.diffusion.samplers import SAMPLERS
from vivero.errors import ConfigError
from vivero.evaluation.intervals import Estimate, normal_estimate
from vivero.evaluation.sampler_comparison import (
    BASELINE,
    FAST_STEPS,
    STEPS,
    TITLES,
    Cell,
    CellFigures,
    grid,
    pareto_front,
    relative_distance,
    verdict,
)


def found(
    sampler: str,
    num_steps: int,
    distance: float,
    ms: float = 1.0,
    evaluations: float | None = None,
    n: int = 1000,
) -> CellFigures:
    estimate = normal_estimate(distance, 0.01 * distance, n)
    passes = num_steps if evaluations is None else evaluations
    return CellFigures(Cell(sampler, num_steps), n, estimate, passes, ms, passes, 0.1)  # type: ignore[arg-type]


def test_the_grid_holds_every_sampler_with_all_its_steps():
    cells = grid(is_tree=True)
    assert {cell.sampler for cell in cells} == {*SAMPLERS, "hierarchical"} == set(TITLES)
    assert [cell.num_steps for cell in cells if cell.sampler == "ddpm"] == [1000, 250]
    for name in set(STEPS) - {"ddpm"}:
        assert tuple(cell.num_steps for cell in cells if cell.sampler == name) == FAST_STEPS
    assert FAST_STEPS == (5, 8, 12, 20, 50)
    assert len({cell.name for cell in cells}) == len(cells) == 32


def test_only_a_tree_has_the_hierarchical_sampler():
    assert not [cell for cell in grid(is_tree=False) if cell.sampler == "hierarchical"]
    with pytest.raises(ConfigError, match=r"'hierarchical' descends a tree .* choose among: ddpm"):
        grid(is_tree=False, samplers=["hierarchical"])


def test_the_grid_is_narrowed():
    cells = grid(is_tree=False, samplers=["ddpm", "uni_pc"], steps=[250, 8])
    assert cells == [Cell("ddpm", 250), Cell("uni_pc", 8)]


@pytest.mark.parametrize(
    ("samplers", "steps", "said"),
    [
        (["euler"], None, "no sampler 'euler'; choose among: ddpm, ddim, heun"),
        (None, [7], "7 steps are not in the grid; choose among: 5, 8, 12, 20, 50, 250, 1000"),
        (["ddpm"], [5], "DDPM has 1000 and 250, the others have 5, 8, 12, 20, 50"),
    ],
)
def test_what_is_not_in_the_grid_is_refused_with_what_is(samplers, steps, said: str):
    with pytest.raises(ConfigError, match=said):
        grid(False, samplers, steps)


def floor(value, std_error=0.0):
    return Estimate(value, value, value, std_error, 1000)


def test_the_front_is_what_nothing_beats_in_time_and_distance():
    quick, better = found("ddim", 5, 90, ms=1), found("uni_pc", 5, 60, ms=2)
    beaten, best = found("heun", 5, 70, ms=3), found("ddpm", 250, 50, ms=99)
    few_images = found("ddpm", 1000, 10, ms=300, n=100)
    diverged = CellFigures(Cell("heun", 8), 1000, error="diverged")
    figures = [best, few_images, beaten, diverged, better, quick]
    assert pareto_front(figures) == [quick, better, best]


def test_the_target_is_met_by_the_fewest_evaluations_that_are_near_enough():
    figures = [
        found("ddpm", 250, 100, ms=500),
        found("ddim", 20, 102, ms=20),
        found("uni_pc", 12, 102.9, ms=12),
        found("uni_pc", 8, 104.9, ms=8),
        found("dpm_solver_pp_2m", 50, 90, ms=50),
    ]
    said = verdict(figures, floor=floor(40))
    assert said.is_met
    assert said.best == Cell("uni_pc", 12)
    assert said.relative is not None
    assert said.relative.value == pytest.approx(0.029)
    assert said.relative_above_floor is not None
    assert said.relative_above_floor.value == pytest.approx(62.9 / 60 - 1)
    assert "The target is met: UniPC, 12 steps (12 evaluations an image)" in said.sentence
    assert "42 times as fast" in said.sentence
    assert "more than 5% is not excluded" in said.sentence


def test_guided_passes_count():
    figures = [found("ddpm", 250, 100), found("uni_pc", 12, 100, evaluations=24)]
    assert verdict(figures, floor=floor(0)).is_met is None


def test_a_target_that_is_missed_names_what_came_nearest():
    figures = [found("ddpm", 250, 100), found("uni_pc", 8, 150), found("heun", 8, 130)]
    said = verdict(figures, floor=floor(0))
    assert said.is_met is False
    assert said.best == Cell("heun", 8)
    assert "The target is not met: the best with at most 20 network evaluations" in said.sentence
    assert "+30.0%" in said.sentence


def test_without_the_baseline_nothing_is_said_of_the_target():
    said = verdict([found("uni_pc", 8, 100)], floor=floor(0))
    assert said.is_met is None
    assert "It is unknown whether the target is met" in said.sentence
    assert "DDPM, 250 steps was not measured" in said.sentence
    assert "Run again without --samplers and --steps" in said.sentence


def test_few_images_are_called_few():
    figures = [found("ddpm", 250, 100, n=20), found("uni_pc", 8, 100, n=20)]
    assert "20 images are few: take --images 1000" in verdict(figures, floor=floor(0)).sentence


def test_the_floor_does_not_hide_a_difference_between_samplers():
    # docs/experiments.md: 4 % apart in total, 11 % apart in the part that a sampler can change
    figures = [found("ddpm", 250, 318.3), found("dpm_solver_pp_2m", 12, 331.5)]
    said = verdict(figures, floor=floor(195))
    assert said.is_met is False
    assert said.relative_above_floor is not None
    assert said.relative_above_floor.value == pytest.approx(0.107, abs=5e-4)
    assert "+10.7% above the floor" in said.sentence
    assert "+4.1% in total" in said.sentence


def test_a_baseline_at_the_floor_allows_no_verdict():
    said = verdict([found("ddpm", 250, 100), found("uni_pc", 8, 101)], floor=floor(100))
    assert said.is_met is None
    assert "Take more images" in said.sentence


def test_the_interval_above_the_floor_holds_all_three_errors():
    one, other, real = found("uni_pc", 8, 120), found("ddpm", 250, 100), floor(60, std_error=2.0)
    relative = relative_distance(one, other, real)
    assert relative.value == pytest.approx(0.5)

    def ratio(of, against, floor_value):  # an independent oracle: the slopes by finite differences
        return (of - floor_value) / (against - floor_value)

    step, errors = 1e-4, (1.2, 1.0, 2.0)
    slopes = [
        (ratio(120 + step, 100, 60) - ratio(120 - step, 100, 60)) / (2 * step),
        (ratio(120, 100 + step, 60) - ratio(120, 100 - step, 60)) / (2 * step),
        (ratio(120, 100, 60 + step) - ratio(120, 100, 60 - step)) / (2 * step),
    ]
    expected = sum((slope * error) ** 2 for slope, error in zip(slopes, errors, strict=True)) ** 0.5
    assert (one.frechet.std_error, other.frechet.std_error) == pytest.approx((1.2, 1.0))
    assert relative.std_error == pytest.approx(expected, rel=1e-5)


def test_the_interval_of_a_relative_distance_holds_both_errors():
    one, other = found("uni_pc", 8, 110), found("ddpm", 250, 100)
    relative = relative_distance(one, other)
    assert relative.value == pytest.approx(0.1)
    assert relative.std_error == pytest.approx((0.011**2 + 0.011**2) ** 0.5)
    assert relative_distance(other, other) == Estimate(0.0, 0.0, 0.0, 0.0, 1000)
    with pytest.raises(ValueError, match="has no distance"):
        relative_distance(CellFigures(BASELINE, 5), other)
