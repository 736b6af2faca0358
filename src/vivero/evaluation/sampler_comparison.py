"""Samplers compared on one model: the grid, what is measured of a cell, and what follows from it.

Pure: no files, no randomness, no network. An evaluation is one pass of one image through the
network; a guided step needs two.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vivero.config.schema import SamplerName
from vivero.errors import ConfigError
from vivero.evaluation.intervals import NORMAL_QUANTILE, Estimate

FAST_STEPS = (5, 8, 12, 20, 50)
STEPS: dict[SamplerName, tuple[int, ...]] = {
    "ddpm": (1000, 250),
    "ddim": FAST_STEPS,
    "heun": FAST_STEPS,
    "dpm_solver_pp_2m": FAST_STEPS,
    "sde_dpm_solver_pp_2m": FAST_STEPS,
    "uni_pc": FAST_STEPS,
    "hierarchical": FAST_STEPS,
}
TITLES: dict[SamplerName, str] = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "heun": "Heun",
    "dpm_solver_pp_2m": "DPM-Solver++(2M)",
    "sde_dpm_solver_pp_2m": "SDE-DPM-Solver++(2M)",
    "uni_pc": "UniPC",
    "hierarchical": "hierarchical",
}
ADDS_NOISE = "not defined: it adds fresh noise at each step, so it follows no solution of the flow"
ABOUT_DIVERGENCE: dict[SamplerName, str] = {
    "ddpm": ADDS_NOISE,
    "sde_dpm_solver_pp_2m": ADDS_NOISE,
    "hierarchical": "of 8-bit images; it follows the flow of each level of the tree, not that of "
    "the whole image, so it does not fall to 0",
}
ENOUGH_IMAGES = 1000  # with fewer, the distance is mostly that of any so few images
MAX_EVALUATIONS = 20
TOLERANCE = 0.05


@dataclass(frozen=True)
class Cell:
    """One field of the grid: a sampler and its number of steps."""

    sampler: SamplerName
    num_steps: int

    @property
    def name(self) -> str:
        """As its files are called, such as ddim-20."""
        return f"{self.sampler}-{self.num_steps}"

    @property
    def title(self) -> str:
        """As people say it, such as DDIM, 20 steps."""
        return f"{TITLES[self.sampler]}, {self.num_steps} steps"

    @property
    def has_divergence(self) -> bool:
        """Whether the noise it begins with decides its images, as the flow's solution does."""
        return ABOUT_DIVERGENCE.get(self.sampler) != ADDS_NOISE

    @property
    def num_passes(self) -> int:
        """Estimates of the denoised image that it asks for; each is one evaluation or, guided, two.

        Heun's method asks twice at each step but the last.
        """
        return 2 * self.num_steps - 1 if self.sampler == "heun" else self.num_steps


BASELINE = Cell("ddpm", 250)


@dataclass(frozen=True)
class CellFigures:
    """What was measured of a cell.

    Attributes:
        cell: Which.
        n: Images that were made.
        frechet: Distance from the reference, over n images; None when it diverged.
        evaluations: Of the network, for one image, guided passes counted; None when it diverged.
        ms_per_image: Median over batches; None when it diverged.
        equivalent_evaluations: ms_per_image in units of one evaluation at full resolution.
        divergence: Root mean square distance of pixels in [-1, 1] from the converged solution;
            None where it is not defined, and when it diverged.
        error: Why there are no images; None when all went well.
    """

    cell: Cell
    n: int
    frechet: Estimate | None = None
    evaluations: float | None = None
    ms_per_image: float | None = None
    equivalent_evaluations: float | None = None
    divergence: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether few evaluations are as good as 250 steps of DDPM.

    Attributes:
        is_met: None when it cannot be said.
        best: The cell that meets the target with the fewest evaluations, or comes nearest to it.
        relative_above_floor: How much larger its distance above the floor is than that of the
            baseline, as a share. This decides: the floor is the part of both distances that a
            finite number of images causes, and it hides differences between samplers.
        relative: The same share of the total distances, for reference.
        sentence: For people.
    """

    is_met: bool | None
    best: Cell | None
    relative_above_floor: Estimate | None
    relative: Estimate | None
    sentence: str


def grid(
    is_tree: bool,
    samplers: Collection[str] | None = None,
    steps: Collection[int] | None = None,
) -> list[Cell]:
    """The cells that are compared, in the order they are shown in.

    Args:
        is_tree: Whether the model is a tree, which the hierarchical sampler needs.
        samplers: The samplers wanted; None = all that the model can do.
        steps: The numbers of steps wanted; None = all of the grid.

    Raises:
        ConfigError: When something is asked for that is not in the grid.
    """
    known = [name for name in STEPS if is_tree or name != "hierarchical"]
    if samplers is not None and "hierarchical" in samplers and not is_tree:
        raise ConfigError(
            "the sampler 'hierarchical' descends a tree of scales, and this model is none; "
            f"choose among: {', '.join(known)}"
        )
    strangers = sorted(set(samplers or ()) - set(known))
    if strangers:
        raise ConfigError(f"there is no sampler '{strangers[0]}'; choose among: {', '.join(known)}")
    in_grid = sorted({count for name in known for count in STEPS[name]})
    odd = sorted(set(steps or ()) - set(in_grid))
    if odd:
        raise ConfigError(
            f"{odd[0]} steps are not in the grid; choose among: {', '.join(map(str, in_grid))}"
        )
    cells = [
        Cell(name, count)
        for name in known
        for count in STEPS[name]
        if (samplers is None or name in samplers) and (steps is None or count in steps)
    ]
    if not cells:
        raise ConfigError(
            "no sampler of the choice has such a number of steps: DDPM has 1000 and 250, "
            f"the others have {', '.join(map(str, FAST_STEPS))}"
        )
    return cells


def pareto_front(figures: Sequence[CellFigures]) -> list[CellFigures]:
    """The cells that no other beats in both time and distance, the quickest first.

    Cells that diverged, or were judged on other numbers of images than most, are left out:
    distances at different n do not compare.
    """
    comparable = sorted(same_n(figures), key=place)
    front: list[CellFigures] = []
    for found in comparable:
        if not front or _distance(found) < _distance(front[-1]):
            front.append(found)
    return front


def place(found: CellFigures) -> tuple[float, float]:
    """Milliseconds for one image, and distance; infinite for a cell that diverged."""
    return _ms(found), _distance(found)


def same_n(figures: Sequence[CellFigures]) -> list[CellFigures]:
    """The cells that have a distance at the largest number of images."""
    judged = [found for found in figures if found.frechet is not None]
    largest = max((found.n for found in judged), default=0)
    return [found for found in judged if found.n == largest]


def verdict(figures: Sequence[CellFigures], floor: Estimate) -> Verdict:
    """Whether MAX_EVALUATIONS come within TOLERANCE of 250 DDPM steps, above the floor.

    Args:
        figures: Of all cells; only those at the largest n are compared.
        floor: Distance of the same number of real images.
    """
    comparable = same_n(figures)
    baseline = next((found for found in comparable if found.cell == BASELINE), None)
    few = [
        found
        for found in comparable
        if found.evaluations is not None and found.evaluations <= MAX_EVALUATIONS
    ]
    if baseline is None or not few:
        missing = BASELINE.title if baseline is None else "a cell of so few evaluations"
        return _unknown(f"{missing} was not measured. Run again without --samplers and --steps.")
    if _distance(baseline) <= floor.value:
        return _unknown(
            f"{BASELINE.title}, are as near to the reference as {floor.n} real images are "
            f"({_distance(baseline):.4g}, floor {floor.value:.4g}). Take more images."
        )
    compared = {found.cell: relative_distance(found, baseline, floor) for found in few}
    within = [found for found in few if compared[found.cell].value <= TOLERANCE]
    best = (
        min(within, key=lambda found: (found.evaluations, _distance(found)))
        if within
        else min(few, key=_distance)
    )
    above, total = compared[best.cell], relative_distance(best, baseline)
    return Verdict(
        is_met=bool(within),
        best=best.cell,
        relative_above_floor=above,
        relative=total,
        sentence=_sentence(best, baseline, floor, (above, total)),
    )


def _unknown(why: str) -> Verdict:
    target = (
        f"at most {MAX_EVALUATIONS} network evaluations within {TOLERANCE:.0%} of "
        f"{BASELINE.title}, in FD above the floor"
    )
    sentence = f"It is unknown whether the target is met ({target}): {why}"
    return Verdict(None, None, None, None, sentence)


def relative_distance(
    found: CellFigures, baseline: CellFigures, floor: Estimate | None = None
) -> Estimate:
    """How much larger the distance of a cell is than that of another on as many images.

    ratio = (distance - floor) / (baseline_distance - floor) - 1
    The interval adds the errors of all three (first order) as if the samples were independent. Both
    cells start from the same noise, so it is wider than necessary.

    Args:
        found: The cell.
        baseline: The other; its distance is above the floor.
        floor: Distance of real images, subtracted from both; None compares total distances.

    Raises:
        ValueError: When a distance is missing.
    """
    one, other = found.frechet, baseline.frechet
    if one is None or other is None:
        raise ValueError(f"{found.cell.name} or {baseline.cell.name} has no distance")
    if found.cell == baseline.cell:
        return Estimate(0.0, 0.0, 0.0, 0.0, found.n)
    floor_value, floor_error = (0.0, 0.0) if floor is None else (floor.value, floor.std_error)
    above = other.value - floor_value
    ratio = (one.value - floor_value) / above
    errors = (one.std_error, ratio * other.std_error, (ratio - 1) * floor_error)
    std_error = math.hypot(*errors) / above
    margin = NORMAL_QUANTILE * std_error
    return Estimate(ratio - 1, ratio - 1 - margin, ratio - 1 + margin, std_error, found.n)


def _sentence(
    best: CellFigures,
    baseline: CellFigures,
    floor: Estimate,
    relative: tuple[Estimate, Estimate],
) -> str:
    above, total = relative
    is_met = above.value <= TOLERANCE
    opening = (
        f"The target is met: {best.cell.title}"
        if is_met
        else f"The target is not met: the best with at most {MAX_EVALUATIONS} network evaluations, "
        f"{best.cell.title}"
    )
    doubts = []
    if is_met and above.high > TOLERANCE:
        doubts.append(f"more than {TOLERANCE:.0%} is not excluded")
    if not is_met and above.low <= TOLERANCE:
        doubts.append(f"within {TOLERANCE:.0%} is not excluded")
    if best.n < ENOUGH_IMAGES:
        doubts.append(f"{best.n} images are few: take --images {ENOUGH_IMAGES}")
    return (
        f"{opening} ({best.evaluations:g} evaluations an image), has FD {_distance(best):.4g} "
        f"where {BASELINE.title}, has {_distance(baseline):.4g} and real images "
        f"{floor.value:.4g}: {above.value:+.1%} above the floor "
        f"(95 % interval {above.low:+.1%} to {above.high:+.1%}"
        f"{''.join(f'; {doubt}' for doubt in doubts)}; {total.value:+.1%} in total), "
        f"{_ms(baseline) / _ms(best):.0f} times as fast."
    )


def _distance(found: CellFigures) -> float:
    return math.inf if found.frechet is None else found.frechet.value


def _ms(found: CellFigures) -> float:
    return math.inf if found.ms_per_image is None else found.ms_per_image
