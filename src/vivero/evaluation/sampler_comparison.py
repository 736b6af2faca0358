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
        relative: Its distance against that of the baseline, less 1; with the interval of two
            independent samples, which is wider than the truth, as both start from the same noise.
        relative_above_floor: The same of what stands above the floor. The floor is the part of both
            that few images make, and that hides a difference.
        sentence: For people.
    """

    is_met: bool | None
    best: Cell | None
    relative: Estimate | None
    relative_above_floor: float | None
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


def verdict(figures: Sequence[CellFigures], floor: float) -> Verdict:
    """Whether MAX_EVALUATIONS come within TOLERANCE of the distance of 250 DDPM steps.

    Args:
        figures: Of all cells; those at the largest n are looked at.
        floor: Distance of as many real images.
    """
    comparable = same_n(figures)
    baseline = next((found for found in comparable if found.cell == BASELINE), None)
    few = [
        found
        for found in comparable
        if found.evaluations is not None and found.evaluations <= MAX_EVALUATIONS
    ]
    target = f"at most {MAX_EVALUATIONS} network evaluations within {TOLERANCE:.0%} of the FD of"
    if baseline is None or not few:
        missing = BASELINE.title if baseline is None else "a cell of so few evaluations"
        return Verdict(
            None,
            None,
            None,
            None,
            f"Whether the target is met ({target} {BASELINE.title}) cannot be said: {missing} was "
            f"not asked for, or diverged. Run again without --samplers and --steps.",
        )
    compared = {found.cell: relative_distance(found, baseline) for found in few}
    within = [found for found in few if compared[found.cell].value <= TOLERANCE]
    best = (
        min(within, key=lambda found: (found.evaluations, _distance(found)))
        if within
        else min(few, key=_distance)
    )
    above_floor = _distance(baseline) - floor
    return Verdict(
        is_met=bool(within),
        best=best.cell,
        relative=compared[best.cell],
        relative_above_floor=(_distance(best) - floor) / above_floor - 1
        if above_floor > 0
        else None,
        sentence=_sentence(best, baseline, compared[best.cell], bool(within)),
    )


def relative_distance(found: CellFigures, baseline: CellFigures) -> Estimate:
    """The distance of a cell against that of another on as many images, less 1.

    The interval adds both errors as if the samples were independent.
    """
    one, other = found.frechet, baseline.frechet
    if one is None or other is None:
        raise ValueError(f"{found.cell.name} or {baseline.cell.name} has no distance")
    if found.cell == baseline.cell:
        return Estimate(0.0, 0.0, 0.0, 0.0, found.n)
    ratio = one.value / other.value
    std_error = math.hypot(one.std_error, ratio * other.std_error) / other.value
    margin = NORMAL_QUANTILE * std_error
    return Estimate(ratio - 1, ratio - 1 - margin, ratio - 1 + margin, std_error, found.n)


def _sentence(best: CellFigures, baseline: CellFigures, relative: Estimate, is_met: bool) -> str:
    opening = (
        f"The target is met: {best.cell.title}"
        if is_met
        else f"The target is not met: the best with at most {MAX_EVALUATIONS} network evaluations, "
        f"{best.cell.title}"
    )
    doubts = []
    if is_met and relative.high > TOLERANCE:
        doubts.append(f"more than {TOLERANCE:.0%} is not excluded")
    if not is_met and relative.low <= TOLERANCE:
        doubts.append(f"within {TOLERANCE:.0%} is not excluded")
    if best.n < ENOUGH_IMAGES:
        doubts.append(f"{best.n} images are few: take --images {ENOUGH_IMAGES}")
    return (
        f"{opening} ({best.evaluations:g} evaluations an image), has FD {_distance(best):.4g} "
        f"where {BASELINE.title}, has {_distance(baseline):.4g}: {relative.value:+.1%} "
        f"(95 % interval {relative.low:+.1%} to {relative.high:+.1%}"
        f"{''.join(f'; {doubt}' for doubt in doubts)}), "
        f"{_ms(baseline) / _ms(best):.0f} times as quick."
    )


def _distance(found: CellFigures) -> float:
    return math.inf if found.frechet is None else found.frechet.value


def _ms(found: CellFigures) -> float:
    return math.inf if found.ms_per_image is None else found.ms_per_image
