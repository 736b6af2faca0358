"""What `vivero compare-samplers` does: make each cell of the grid, keep it, report on all."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vivero.cli.console import plain_console
from vivero.code_digest import module_closure_digest
from vivero.config.environment import extractor_weights_dir
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, project_dir
from vivero.config.schema import ComputeReferenceConfig
from vivero.diffusion.generation import to_uint8
from vivero.errors import DataError, SamplingError
from vivero.evaluation.cores import spread_over_cores
from vivero.evaluation.extractors import Extractor, build_extractor
from vivero.evaluation.frechet import frechet_estimate
from vivero.evaluation.intervals import CONFIDENCE, Estimate
from vivero.evaluation.reference import Reference, load_reference
from vivero.evaluation.sampler_cells import CellStore, figures_row
from vivero.evaluation.sampler_comparison import (
    ABOUT_DIVERGENCE,
    BASELINE,
    MAX_EVALUATIONS,
    TITLES,
    TOLERANCE,
    Cell,
    CellFigures,
    Verdict,
    grid,
    pareto_front,
    same_n,
    verdict,
)
from vivero.evaluation.sampler_comparison_plot import GridRow, draw_sampler_grid, plot_pareto
from vivero.evaluation.sampler_runs import (
    CONVERGED,
    HALF_CONVERGED,
    Advance,
    Converged,
    Subject,
    converged_solution,
    divergence,
    full_evaluation_ms,
    made_images,
)
from vivero.files import write_json
from vivero.registry.bundle import Bundle, load_bundle
from vivero.registry.versions import resolve_model

REPORT, SAMPLES, PARETO, CELLS_DIR = "results.json", "samples.png", "pareto.png", "cells"
CODE = (
    *("vivero.evaluation.sampler_runs", "vivero.evaluation.frechet"),
    *("vivero.evaluation.extractors", "vivero.registry.bundle"),
)
CODE_WITHOUT_EFFECT = ("vivero.config", "vivero.errors", "vivero.integrity")
LONGEST_STEPS = 1000  # of DDPM, which may be made on fewer images
BATCH_IMAGES = 100
NUM_CONVERGED = 32
NUM_COLUMNS = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What `vivero compare-samplers` is asked for; None takes all, or the model's own.

    Attributes:
        num_images: For each cell; at least 2.
        num_ddpm_images: For 1000 steps of DDPM, if fewer; at least 2.
        seed: Of the noise.
        guidance: 1 = none.
        samplers: Those wanted.
        steps: Those wanted.
    """

    num_images: int
    num_ddpm_images: int
    seed: int
    guidance: float | None
    samplers: Collection[str] | None
    steps: Collection[int] | None


@dataclass(frozen=True)
class Bench:
    """All that cells are measured with.

    Attributes:
        subject: The model.
        class_names: Of its images.
        reference: The real side.
        extractor: The network of the reference.
        extractor_batch_images: Images that it sees at a time.
        store: Where cells are kept.
    """

    subject: Subject
    class_names: Sequence[str]
    reference: Reference
    extractor: Extractor
    extractor_batch_images: int
    store: CellStore

    def frechet(self, images: np.ndarray) -> Estimate:
        """Distance of images, uint8, (N, C, H, W), from the reference."""
        size = self.extractor_batch_images
        parts = [images[begin : begin + size] for begin in range(0, len(images), size)]
        features = torch.cat([part for part, _ in spread_over_cores(self.extractor, parts)])
        return frechet_estimate(features, self.reference.moments)

    def floor(self, n: int) -> Estimate:
        """Distance of n held-out real images (or all there are) from the reference."""
        return frechet_estimate(self.reference.held_out[:n], self.reference.moments)


@dataclass(frozen=True)
class Results:
    """All that was measured.

    Attributes:
        model: As it was named.
        figures: Of all cells, in the order of the grid.
        converged: The solution of the flow.
        floors: Distance of as many real images, by n.
        baselines: Distance of the baseline's first n images, for each n below the largest.
        verdict: On the target.
    """

    model: str
    figures: list[CellFigures]
    converged: Converged
    floors: dict[int, Estimate]
    baselines: dict[int, Estimate]
    verdict: Verdict

    @property
    def num_images(self) -> int:
        """The largest n."""
        return max(self.floors)

    @property
    def not_drawn(self) -> dict[str, str]:
        """Of the cells that do not stand beside the others, the title and why."""
        comparable = {found.cell for found in same_n(self.figures)}
        return {
            found.cell.title: self._why(found)
            for found in self.figures
            if found.cell not in comparable
        }

    def _why(self, found: CellFigures) -> str:
        if found.frechet is None:
            return "diverged"
        baseline = self.baselines.get(found.n)
        said = f"n = {found.n}, FD {found.frechet.value:.4g}"
        if baseline is None:
            return said
        return f"{said}, where {BASELINE.title} have {baseline.value:.4g}"


def compare_samplers(model: str, request: Request, out_dir: Path) -> None:
    """Write out_dir/samples.png, pareto.png and results.json, and print what stands in them.

    Args:
        model: A registry address or a bundle folder.
        request: What to compare, and on how much.
        out_dir: Folder to write to; what is finished there is not made again.

    Raises:
        ConfigError: When something is asked for that is not in the grid.
        DataError: When there is no reference, or it was made with another extractor.
        BundleError: When there is no such model.
    """
    root = project_dir()
    settings = load_config(root / PARAMS).compute_reference
    bundle = load_bundle(resolve_model(model, root))
    cells = grid(bundle.config.model.name == "tree", request.samplers, request.steps)
    reference = load_reference(artifacts_dir(root, "compute_reference") / "reference")
    subject = _subject(bundle, request)
    bench = Bench(
        subject=subject,
        class_names=bundle.class_names,
        reference=reference,
        extractor=_extractor(settings, reference, root),
        extractor_batch_images=settings.batch_images,
        store=CellStore(out_dir / CELLS_DIR, _settings(bundle, subject, reference)),
    )
    counts = {cell: _num_images(cell, request) for cell in cells}
    results = _results(model, bench, counts)
    columns = bench.class_names or [f"image {index}" for index in range(NUM_COLUMNS)]
    rows = _grid_rows(bench.store, results)
    labels = subject.labels[: min(NUM_COLUMNS, *counts.values())].tolist()
    draw_sampler_grid(rows, [columns[label] for label in labels], out_dir / SAMPLES)
    floor = results.floors[results.num_images]
    plot_pareto(results.figures, floor, results.not_drawn, model, out_dir / PARETO)
    write_json(out_dir / REPORT, _as_json(bench.store.settings, results))
    _print(results, out_dir)


def _extractor(settings: ComputeReferenceConfig, reference: Reference, root: Path) -> Extractor:
    facts = reference.facts
    weights_dir = extractor_weights_dir(root)
    extractor = build_extractor(
        settings.extractor, facts.size_px, weights_dir, settings.extractor_sha256
    )
    if extractor.weights_sha256 != facts.extractor_sha256:
        raise DataError(
            f"the reference was made with {facts.extractor} ({facts.extractor_sha256[:12]}), "
            f"params.yaml names {extractor.name} ({extractor.weights_sha256[:12]}); make it "
            f"again with `dvc repro compute_reference`"
        )
    return extractor


def _subject(bundle: Bundle, request: Request) -> Subject:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bundle.folded_network.to(device)
    defaults = bundle.sampling
    low, high = defaults.guidance_interval
    return Subject(
        network=bundle.folded_network,
        denoiser=bundle.denoiser,
        schedule=bundle.schedule,
        image_shape=bundle.image_shape,
        labels=torch.arange(request.num_images, device=device) % max(1, len(bundle.class_names)),
        seed=request.seed,
        guidance=defaults.guidance if request.guidance is None else request.guidance,
        guidance_interval=(low, high),
        batch_images=BATCH_IMAGES,
        adaptive_threshold=defaults.adaptive_threshold,
    )


def _settings(bundle: Bundle, subject: Subject, reference: Reference) -> dict[str, Any]:
    """All that decides a figure, the machine included, which decides the time."""
    facts, device = reference.facts, subject.labels.device
    return {
        "weights_sha256": bundle.weights_sha256,
        "code_sha256": module_closure_digest(CODE, CODE_WITHOUT_EFFECT),
        "seed": subject.seed,
        "guidance": subject.guidance,
        "guidance_interval": list(subject.guidance_interval),
        "batch_images": subject.batch_images,
        "adaptive_threshold": subject.adaptive_threshold,
        "extractor": facts.extractor,
        "extractor_sha256": facts.extractor_sha256,
        "resize": facts.resize,
        "reference_n": facts.num_reference,
        "reference_sha256": reference.sha256,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "num_threads": torch.get_num_threads(),
    }


def _num_images(cell: Cell, request: Request) -> int:
    if cell.num_steps == LONGEST_STEPS:
        return min(request.num_images, request.num_ddpm_images)
    return request.num_images


def _results(model: str, bench: Bench, counts: Mapping[Cell, int]) -> Results:
    """Make what is not there yet, the quickest first, and bring all together."""
    store = bench.store
    missing = {cell: n for cell, n in counts.items() if store.figures(cell, n) is None}
    if len(missing) < len(counts):
        log.info("%d of %d cells are there already", len(counts) - len(missing), len(counts))
    num_converged = min(NUM_CONVERGED, max(counts.values()))
    solution = store.converged(num_converged)
    flow_passes = num_converged * (CONVERGED.num_passes + HALF_CONVERGED.num_passes)
    total = sum(cell.num_passes * n for cell, n in missing.items())
    total += flow_passes if solution is None else 0
    full_ms = full_evaluation_ms(bench.subject) if missing else 0.0
    figures = {}
    with (
        logging_redirect_tqdm(),
        tqdm(total=total, unit=" passes", unit_scale=True, disable=None) as bar,
    ):
        if solution is None:
            bar.set_description("converged solution")
            solution = converged_solution(bench.subject, num_converged)
            store.keep_converged(solution)
            bar.update(flow_passes)
        for cell, n in sorted(missing.items(), key=lambda item: item[0].num_passes * item[1]):
            bar.set_description(cell.name)
            found, images = _measured(bench, cell, n, (full_ms, solution.images), bar.update)
            store.keep(found, images)
            figures[cell] = found
            log.info("%s: %s", cell.title, _in_short(found))
    kept = [figures.get(cell) or store.figures(cell, n) for cell, n in counts.items()]
    found_figures = [found for found in kept if found is not None]
    floors = {n: bench.floor(n) for n in sorted(set(counts.values()))}
    return Results(
        model=model,
        figures=found_figures,
        converged=solution,
        floors=floors,
        baselines=_baselines(bench, found_figures),
        verdict=verdict(found_figures, floors[max(floors)]),
    )


def _measured(
    bench: Bench, cell: Cell, n: int, against: tuple[float, Tensor], advance: Advance
) -> tuple[CellFigures, np.ndarray | None]:
    """Figures and images of a cell; against: ms of one evaluation, and the converged images."""
    full_ms, solution = against
    try:
        made = made_images(bench.subject, cell, n, advance)
        distance_of_flow = divergence(bench.subject, cell, made.images, solution)
    except SamplingError as error:
        return CellFigures(cell, n, error=str(error)), None
    figures = CellFigures(
        cell=cell,
        n=n,
        frechet=bench.frechet(made.images),
        evaluations=made.evaluations,
        ms_per_image=made.ms_per_image,
        equivalent_evaluations=made.ms_per_image / full_ms,
        divergence=distance_of_flow,
    )
    return figures, made.images


def _baselines(bench: Bench, figures: Sequence[CellFigures]) -> dict[int, Estimate]:
    """The baseline's distance on its first n images, for the cells that have fewer than it."""
    baseline = next((found for found in figures if found.cell == BASELINE), None)
    if baseline is None or baseline.error is not None:
        return {}
    fewer = {found.n for found in figures if found.n < baseline.n}
    images = bench.store.images(BASELINE, baseline.n)
    return {n: bench.frechet(images[:n]) for n in sorted(fewer)}


def _grid_rows(store: CellStore, results: Results) -> list[GridRow]:
    solved = to_uint8(results.converged.images[:NUM_COLUMNS]).numpy()
    lines = ("converged flow", CONVERGED.title)
    rows = [GridRow("converged", lines, solved)]
    for found in results.figures:
        group, title = found.cell.sampler, found.cell.title
        if found.error is None:
            images = store.images(found.cell, found.n)[:NUM_COLUMNS]
            rows.append(GridRow(group, (title, *_short_lines(found)), images))
        else:
            rows.append(GridRow(group, (title, *_wrapped(found.error)), None))
    return rows


def _wrapped(error: str) -> list[str]:
    """The first sentences of an error, which say step and value, in lines for the picture."""
    what, _, advice = error.partition("; ")
    return [what, advice.partition(". ")[0]]


def _short_lines(found: CellFigures) -> tuple[str, str]:
    """Passes and time, and the distance, for the picture and the log."""
    if found.frechet is None:
        return "", ""
    margin = found.frechet.value - found.frechet.low
    few = "" if found.cell.num_steps != LONGEST_STEPS else f" (n = {found.n})"
    return (
        f"{found.evaluations:g} evaluations, {_digits(found.ms_per_image)} ms",
        f"FD {found.frechet.value:.4g} ± {_digits(margin)}{few}",
    )


def _in_short(found: CellFigures) -> str:
    return found.error or ", ".join(_short_lines(found))


def _as_json(settings: Mapping[str, Any], results: Results) -> dict[str, Any]:
    best, above = results.verdict.best, results.verdict.relative_above_floor
    relative = results.verdict.relative
    return {
        "model": results.model,
        "protocol": {**settings, "n": results.num_images, "confidence": CONFIDENCE},
        "converged": {
            "sampler": CONVERGED.sampler,
            "num_steps": CONVERGED.num_steps,
            "n": len(results.converged.images),
            "change_from_half_the_steps": results.converged.uncertainty,
            "unit": "root mean square of pixels in [-1, 1]",
        },
        "floor": asdict(results.floors[results.num_images]),
        "cells": [
            {
                **figures_row(found),
                "floor": asdict(results.floors[found.n]),
                "baseline_at_this_n": asdict(results.baselines[found.n])
                if found.n in results.baselines
                else None,
                "about_divergence": ABOUT_DIVERGENCE.get(found.cell.sampler),
            }
            for found in results.figures
        ],
        "pareto_front": [found.cell.name for found in pareto_front(results.figures)],
        "target": {
            "max_evaluations": MAX_EVALUATIONS,
            "tolerance": TOLERANCE,
            "baseline": BASELINE.name,
            "is_met": results.verdict.is_met,
            "best": None if best is None else best.name,
            "relative_above_floor": None if above is None else asdict(above),
            "relative": None if relative is None else asdict(relative),
            "sentence": results.verdict.sentence,
        },
    }


def _print(results: Results, out_dir: Path) -> None:
    table = Table(
        "sampler",
        "steps",
        "evaluations",
        "FD",
        "95 % interval",
        "ms / image",
        "as full",
        "from flow",
    )
    floor = results.floors[results.num_images]
    table.title = (
        f"{results.num_images} images of each; floor (real against real) {floor.value:.4g}"
    )
    table.caption = (
        "evaluations: of the network for one image, guided ones counted; as full: the time in "
        "evaluations at full resolution; from flow: distance of pixels from the converged "
        f"solution, which changes by {results.converged.uncertainty:.2g} from half the steps"
    )
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for found, above in zip(results.figures, (None, *results.figures), strict=False):
        if above is not None and above.cell.sampler != found.cell.sampler:
            table.add_section()
        table.add_row(TITLES[found.cell.sampler], str(found.cell.num_steps), *_row_cells(found))
    console = plain_console()
    console.print(table)
    lines = [f"Not beside the others: {title} ({why})" for title, why in results.not_drawn.items()]
    lines += [found.error for found in results.figures if found.error is not None]
    lines.append(f"All in {out_dir / REPORT}; to be looked at: {SAMPLES} and {PARETO} beside it")
    lines.append(results.verdict.sentence)
    console.print(*lines, sep="\n", highlight=False, markup=False, soft_wrap=True)


def _row_cells(found: CellFigures) -> tuple[str, ...]:
    if found.frechet is None:
        return "-", "diverged", "-", "-", "-", "-"
    return (
        f"{found.evaluations:g}",
        f"{found.frechet.value:.4g}",
        f"{found.frechet.low:.4g} to {found.frechet.high:.4g}",
        _digits(found.ms_per_image),
        f"{found.equivalent_evaluations:.1f}",
        "-" if found.divergence is None else f"{found.divergence:.2g}",
    )


def _digits(value: float | None) -> str:
    """A positive number to three digits, without an exponent."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
