"""What `make bench-models` reports: tables, pictures, MLflow, and the verdict in one sentence.

FD is given in units of its floor (as many real training images), the mean over the three judges of
bench.judging, and for each judge as it is. Figures are means over seeds; what stands behind +- is
the standard deviation between seeds.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.model_run import RESULT, plan_of
from bench.variants import PLAIN, TREE, VARIANTS, Run, variant_of
from vivero.config.paths import artifacts_dir, work_dir
from vivero.evaluation.plots import new_figure, save_figure
from vivero.files import write_json, write_text
from vivero.integrity.caches import read_record
from vivero.tracking.mlflow_tracker import open_tracker
from vivero.tracking.tracker import DatasetInput, RunSpec

BEGIN, END = "<!-- bench-models: begin -->", "<!-- bench-models: end -->"
EXPERIMENT = "bench-models"
LEAST_SECONDS = 240.0  # shorter runs are for trying and are not published in the docs
LEAST_SPEEDUP = 1.5
LEAST_SEEDS = 2  # for a standard deviation
LOSS, FD = "denoising_loss", "fd_over_floor"
JUDGES = {"strided": "FD strided", "pooled": "FD pooled", "efficientnet_lite0": "FD EfficientNet"}
SHOWN_IN_SENTENCE = (LOSS, FD, "agreement")
SHOWN_BY_LEVEL = ("A0", "U0", "A1", "A2", "A3", "A4", "A5")
COLOURS = ("#000000", "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#E69F00")


@dataclass(frozen=True)
class Figure:
    """A figure over seeds: mean, standard deviation between seeds (0 for one), values."""

    mean: float
    std: float
    values: tuple[float, ...]


def figure_over(values: Iterable[float]) -> Figure:
    """The figure of these values; at least one."""
    given = tuple(values)
    std = statistics.stdev(given) if len(given) > 1 else 0.0
    return Figure(statistics.fmean(given), std, given)


@dataclass(frozen=True)
class Rule:
    """How the verdict reads a metric: its name for people, and which way is better."""

    title: str
    higher_is_better: bool = False

    def is_worse(self, ours: Figure, theirs: Figure) -> bool:
        """Whether ours is worse by more than the pooled standard deviation between seeds."""
        loss = ours.mean - theirs.mean
        pooled_std = math.sqrt((ours.std**2 + theirs.std**2) / 2)
        return (-loss if self.higher_is_better else loss) > pooled_std


RULED = {
    LOSS: Rule("denoising loss"),
    FD: Rule("FD over floor"),
    **{f"fd.{judge}": Rule(title) for judge, title in JUDGES.items()},
    "agreement": Rule("label agreement", higher_is_better=True),
}


@dataclass(frozen=True)
class Cell:
    """A variant on a data set.

    Attributes:
        figures: By name, over seeds.
        loss_by_sigma: Mean denoising loss by noise level.
        other_sampler: Figures of a tree's samples at full resolution; empty for others.
        num_seeds: How many runs are in it.
        num_diverged: How many more have no figures, because they diverged.
    """

    figures: dict[str, Figure]
    loss_by_sigma: dict[float, float]
    other_sampler: dict[str, Figure]
    num_seeds: int
    num_diverged: int


def cell_of(results: Sequence[Mapping[str, Any]]) -> Cell | None:
    """The cell of the results of all seeds; None where every one diverged."""
    good = [result for result in results if not result["has_diverged"]]
    if not good:
        return None
    figures: dict[str, list[float]] = defaultdict(list)
    other: dict[str, list[float]] = defaultdict(list)
    by_sigma: dict[float, list[float]] = defaultdict(list)
    for result in good:
        for name, value in figures_of(result).items():
            figures[name].append(value)
        for sampling in result["samplings"]:
            if not sampling["is_own"]:
                for name, value in figures_of_sampling(sampling).items():
                    other[name].append(value)
        for row in result["denoising"]:
            by_sigma[row["sigma"]].append(row["value"])
    return Cell(
        {name: figure_over(values) for name, values in figures.items()},
        {sigma: statistics.fmean(values) for sigma, values in by_sigma.items()},
        {name: figure_over(values) for name, values in other.items()},
        len(good),
        len(results) - len(good),
    )


def figures_of(result: Mapping[str, Any]) -> dict[str, float]:
    """All figures of one run, by name."""
    own, guided = (
        next(s for s in result["samplings"] if s["is_own"] and (s["guidance"] == 1) == is_plain)
        for is_plain in (True, False)
    )
    used = result["used"]
    return {
        LOSS: statistics.fmean(row["value"] for row in result["denoising"]),
        **figures_of_sampling(own),
        **{f"guided_{name}": value for name, value in figures_of_sampling(guided).items()},
        "images_per_s": used["images_per_s"],
        "images_seen": float(used["images_seen"]),
        "num_parameters": float(used["num_parameters"]),
    }


def figures_of_sampling(sampling: Mapping[str, Any]) -> dict[str, float]:
    """FD of each judge, its mean over floors, agreement with the labels, ms per image."""
    judges = sampling["judges"]
    figures = {f"fd.{name}": judge["fd"] for name, judge in judges.items()}
    figures |= {f"fd_floor.{name}": judge["fd_floor"] for name, judge in judges.items()}
    figures[FD] = statistics.fmean(judge["fd"] / judge["fd_floor"] for judge in judges.values())
    agreements = [judge["agreement"] for judge in judges.values() if "agreement" in judge]
    if agreements:
        figures["agreement"] = statistics.fmean(agreements)
    return {**figures, "ms_per_image": sampling["ms_per_image"]}


def line_of(result: Mapping[str, Any]) -> str:
    """One run in a line, for a person who waits."""
    if result["has_diverged"]:
        return "diverged"
    figures = figures_of(result)
    return (
        f"denoising loss {figures[LOSS]:.4f}, FD {figures[FD]:.2f} x floor, "
        f"{figures['ms_per_image']:.1f} ms an image, trained on {figures['images_seen']:,.0f} "
        f"images at {figures['images_per_s']:.0f}/s"
    )


@dataclass(frozen=True)
class Verdict:
    """Which network a data set calls for.

    Attributes:
        is_tree: None where the runs do not allow a decision.
        worse: Metrics in which the tree is worse than the plain control, with both values.
        speedup: How many times faster the tree samples; None where it was not measured.
        why_open: Why there is no decision; None otherwise.
    """

    is_tree: bool | None
    worse: tuple[str, ...] = ()
    speedup: float | None = None
    why_open: str | None = None


def verdict(tree: Cell | None, plain: Cell | None) -> Verdict:
    """Apply the rule to one data set: the tree, unless it is worse in a metric or too slow.

    Worse means: in any metric of RULED that both have, the mean over seeds is worse than that of
    the plain control by more than one standard deviation, pooled over both:
    sqrt((std_tree^2 + std_plain^2) / 2). Every judge counts for itself, because a mean over judges
    hides the one that disagrees.

    Args:
        tree: The cell of the tree.
        plain: The cell of the plain control.
    """
    if plain is None or plain.num_seeds < LEAST_SEEDS:
        return Verdict(None, why_open=f"fewer than {LEAST_SEEDS} seeds of {PLAIN}")
    if tree is None or tree.num_diverged:
        return Verdict(is_tree=False, worse=("a run diverged",))
    if tree.num_seeds < LEAST_SEEDS:
        return Verdict(None, why_open=f"fewer than {LEAST_SEEDS} seeds of {TREE}")
    worse = tuple(
        f"{rule.title} {_text(tree.figures[name])} against {_text(plain.figures[name])}"
        for name, rule in RULED.items()
        if name in tree.figures
        and name in plain.figures
        and rule.is_worse(tree.figures[name], plain.figures[name])
    )
    speedup = plain.figures["ms_per_image"].mean / tree.figures["ms_per_image"].mean
    return Verdict(not worse and speedup >= LEAST_SPEEDUP, worse, speedup)


def sentence_of(
    found: Mapping[str, Verdict],
    pairs: Mapping[str, tuple[Cell | None, Cell | None]],
    seconds: float,
) -> str:
    """Tree against plain in one sentence for each data set."""
    parts = [f"tree ({TREE}) against plain ({PLAIN}) at {seconds:g} s each"]
    parts += [f"on {name} {_dataset_sentence(found[name], *pair)}" for name, pair in pairs.items()]
    return ": ".join((parts[0], "; ".join(parts[1:]) or "nothing to compare"))


def _dataset_sentence(found: Verdict, tree: Cell | None, plain: Cell | None) -> str:
    if found.why_open is not None:
        return f"there is no verdict yet, {found.why_open}"
    measured = ""
    if tree is not None and plain is not None:
        measured = "".join(
            f"{RULED[name].title} {_text(tree.figures[name])} against "
            f"{_text(plain.figures[name])}, "
            for name in SHOWN_IN_SENTENCE
            if name in tree.figures and name in plain.figures
        )
    if found.speedup is not None:
        measured += f"sampling {found.speedup:.2f} times as fast: "
    if found.is_tree:
        return f"{measured}take the tree"
    why = list(found.worse)
    if found.speedup is not None and found.speedup < LEAST_SPEEDUP:
        why.append(f"less than {LEAST_SPEEDUP} times as fast")
    return f"{measured}take the plain control (the tree is worse: {', '.join(why)})"


def report(runs: Sequence[Run], root: Path) -> str:
    """Write artifacts/bench/models.json and pictures, docs/experiments.md, MLflow.

    Args:
        runs: What was asked for; what is not finished is left out, and what else is finished, of
            as many seconds and samples, is in the report as well.
        root: Top of the repository.

    Returns:
        The sentence.
    """
    results = finished(runs, root) | others_finished(runs, root)
    grouped: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for run, result in results.items():
        grouped[run.dataset][run.variant].append(result)
    cells = {
        dataset: {name: cell_of(group) for name, group in sorted(groups.items(), key=_place)}
        for dataset, groups in grouped.items()
    }
    pairs = {dataset: (row.get(TREE), row.get(PLAIN)) for dataset, row in cells.items()}
    found = {dataset: verdict(*pair) for dataset, pair in pairs.items()}
    seconds = runs[0].seconds
    sentence = sentence_of(found, pairs, seconds)
    out_dir = artifacts_dir(root, "bench")
    write_json(
        out_dir / "models.json",
        {
            "sentence": sentence,
            "verdict": {dataset: asdict(one) for dataset, one in found.items()},
            "seconds_per_run": seconds,
            "cells": {
                dataset: {name: asdict(cell) if cell else None for name, cell in row.items()}
                for dataset, row in cells.items()
            },
            "runs": list(results.values()),
        },
    )
    if results:
        plot_losses(cells, out_dir / "models_loss_by_noise.png")
        plot_trade(cells, out_dir / "models_fd_by_time.png")
    text = markdown(cells, results.values(), sentence, seconds)
    write_text(out_dir / "models.md", text)
    if results and seconds >= LEAST_SECONDS:
        publish(root / "docs" / "experiments.md", text)
    for run, result in results.items():
        track(run, result, root)
    return sentence


def finished(runs: Sequence[Run], root: Path) -> dict[Run, dict[str, Any]]:
    """The result of every run that has one: of this code, or else the newest of other code."""
    found = {}
    for run in runs:
        plan = plan_of(run, root)
        results = {plan.folder / RESULT: plan.result} if plan.result else {}
        for path in plan.folder.parent.glob(f"{run.seed}-*/{RESULT}") if not results else ():
            result = read_record(path, path.parent.name)
            if result and result["made_from"]["run"] == asdict(run):
                results[path] = result
        if results:
            newest = max(results, key=lambda path: path.stat().st_mtime)
            found[run] = {**results[newest], "folder": str(newest.parent.relative_to(root))}
    return found


def others_finished(runs: Sequence[Run], root: Path) -> dict[Run, dict[str, Any]]:
    """The newest result of every other run of as many seconds and samples as these."""
    found: dict[Run, dict[str, Any]] = {}
    paths = (work_dir(root) / "bench" / "models").glob(f"*/*/*/{RESULT}")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        result = read_record(path, path.parent.name)
        if result is None:
            continue
        run = Run(**result["made_from"]["run"])
        like = replace(runs[0], dataset=run.dataset, variant=run.variant, seed=run.seed)
        is_known = run.variant.split("+")[0] in VARIANTS
        if run == like and is_known and run not in runs:
            found[run] = {**result, "folder": str(path.parent.relative_to(root))}
    return found


def _place(item: tuple[str, object]) -> tuple[int, str]:
    known, names = item[0].split("+")[0], list(VARIANTS)
    return names.index(known), item[0]


def markdown(
    cells: Mapping[str, Mapping[str, Cell | None]],
    results: Iterable[Mapping[str, Any]],
    sentence: str,
    seconds: float,
) -> str:
    """The section of docs/experiments.md."""
    given = list(results)
    if not given:
        return "No run is finished.\n"
    newest = max(result["finished_at"] for result in given)
    day = datetime.fromtimestamp(newest, UTC).date().isoformat()
    num_codes = len({result["made_from"]["code_sha256"] for result in given})
    lines = [
        f"## {day} Tree or plain network, at equal seconds? `make bench-models`",
        "",
        f"{sentence[0].upper()}{sentence[1:]}.",
        "",
        f"Every run trains for {seconds:g} seconds of one core, one run on each core; the learning "
        f"rate follows the share of the time used. Means over seeds, ± one standard deviation "
        f"between seeds. Denoising loss: held-out, weighted, mean over "
        f"{len(given[0]['denoising'])} noise levels. FD: n = "
        f"{given[0]['made_from']['run']['num_samples']:,}, 18 steps, guidance 1, the model's own "
        f"sampler; in brackets as many real training images (the floor); `x floor` is the mean of "
        f"FD over floor of the three judges, `guided` the same at the guidance of params.yaml. "
        f"ms: of one core for one image. Images/s: trained on, one core.",
        "",
    ]
    if num_codes > 1:
        lines += [f"The runs are of {num_codes} states of the code; models.json says which.", ""]
    for dataset, row in cells.items():
        lines += [f"### {dataset}", "", *_main_table(row), ""]
        lines += ["Denoising loss by noise level:", "", *_level_table(row), ""]
        others = _sampler_table(row)
        if others:
            lines += [
                "C1, the sampler alone, same weights, guidance 1 (at full resolution the state is "
                "of full size; the branches are still chosen by its noise):",
                "",
                *others,
                "",
            ]
    return "\n".join(lines).rstrip() + "\n"


def _main_table(row: Mapping[str, Cell | None]) -> list[str]:
    head = ["", "variant", "denoising loss", *JUDGES.values(), "x floor", "guided"]
    head += ["agreement", "ms", "images/s", "images", "parameters", "seeds"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for name, cell in row.items():
        what = variant_of(name).what
        if cell is None:
            lines.append(f"| {name} | {what} | diverged |" + " |" * (len(head) - 3))
            continue
        figures = cell.figures
        values = [_text(figures[LOSS])]
        values += [
            f"{_text(figures[f'fd.{judge}'])} ({figures[f'fd_floor.{judge}'].mean:.3g})"
            for judge in JUDGES
        ]
        agreement = figures.get("agreement")
        values += [
            _text(figures[FD]),
            _text(figures[f"guided_{FD}"]),
            _text(agreement) if agreement else "",
            _text(figures["ms_per_image"]),
            _text(figures["images_per_s"]),
            f"{figures['images_seen'].mean:,.0f}",
            f"{figures['num_parameters'].mean / 1e6:.2f} M",
            f"{cell.num_seeds}" + (f" ({cell.num_diverged} diverged)" if cell.num_diverged else ""),
        ]
        lines.append(f"| {name} | {what} | {' | '.join(values)} |")
    return lines


def _level_table(row: Mapping[str, Cell | None]) -> list[str]:
    shown = {name: cell for name in SHOWN_BY_LEVEL if (cell := row.get(name)) is not None}
    shown = shown or {name: cell for name, cell in row.items() if cell is not None}
    sigmas = sorted({sigma for cell in shown.values() for sigma in cell.loss_by_sigma})
    lines = [f"| sigma | {' | '.join(shown)} |", "|" + " --- |" * (len(shown) + 1)]
    for sigma in sigmas:
        values = [f"{cell.loss_by_sigma[sigma]:.4f}" for cell in shown.values()]
        lines.append(f"| {sigma:.3g} | {' | '.join(values)} |")
    return lines


def _sampler_table(row: Mapping[str, Cell | None]) -> list[str]:
    lines = [
        "| | hierarchical, x floor | full resolution, x floor | hierarchical, ms | full, ms |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, cell in row.items():
        if cell is not None and cell.other_sampler:
            pairs = [
                _text(figures[key])
                for key in (FD, "ms_per_image")
                for figures in (cell.figures, cell.other_sampler)
            ]
            lines.append(f"| {name} | {' | '.join(pairs)} |")
    return lines if len(lines) > 2 else []


def _text(figure: Figure) -> str:
    spread = f" ± {figure.std:.2g}" if len(figure.values) > 1 else ""
    return f"{figure.mean:.4g}{spread}"


def publish(path: Path, text: str) -> None:
    """Put the section between its markers, at the end of the page where there are none yet."""
    page = path.read_text(encoding="utf-8")
    section = f"{BEGIN}\n{text}{END}"
    if BEGIN in page and END in page:
        before, _, rest = page.partition(BEGIN)
        page = before + section + rest.partition(END)[2]
    else:
        page = f"{page.rstrip()}\n\n{section}\n"
    write_text(path, page)


def plot_losses(cells: Mapping[str, Mapping[str, Cell | None]], path: Path) -> None:
    """Denoising loss by noise level over that of the plain control, a panel for each data set."""
    figure = new_figure(5.5 * len(cells), 4.2)
    for place, (dataset, row) in enumerate(cells.items(), start=1):
        axes = figure.add_subplot(1, len(cells), place)
        plain = row.get(PLAIN) or next(cell for cell in row.values() if cell is not None)
        shown = [name for name in SHOWN_BY_LEVEL if row.get(name) is not None]
        for name, colour in zip(shown, COLOURS, strict=False):
            cell = row[name]
            if cell is not None:
                sigmas = sorted(cell.loss_by_sigma)
                ratios = [cell.loss_by_sigma[s] / plain.loss_by_sigma[s] for s in sigmas]
                axes.plot(sigmas, ratios, marker="o", markersize=3, color=colour, label=name)
        axes.set_xscale("log")
        axes.set_xlabel("noise level sigma (pixels are in [-1, 1])")
        axes.set_ylabel(f"denoising loss over that of {PLAIN}")
        axes.set_title(dataset, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save_figure(figure, path)


def plot_trade(cells: Mapping[str, Mapping[str, Cell | None]], path: Path) -> None:
    """FD over floor against the time of one image; trees also at full resolution (hollow)."""
    figure = new_figure(5.5 * len(cells), 4.2)
    for place, (dataset, row) in enumerate(cells.items(), start=1):
        axes = figure.add_subplot(1, len(cells), place)
        for name, cell in row.items():
            if cell is None:
                continue
            for figures, face in ((cell.figures, "#0072B2"), (cell.other_sampler, "none")):
                if figures:
                    ms, fd = figures["ms_per_image"].mean, figures[FD]
                    axes.errorbar(
                        [ms], [fd.mean], yerr=[fd.std], fmt="o", color="#0072B2", mfc=face
                    )
                    axes.annotate(
                        name, (ms, fd.mean), (4, 4), textcoords="offset points", fontsize=8
                    )
        axes.set_xlim(left=0)
        axes.set_xlabel("ms of one core for an image")
        axes.set_ylabel("FD over floor, mean of three judges")
        axes.set_title(f"{dataset} (hollow: the same weights at full resolution)", fontsize=9)
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def track(run: Run, result: Mapping[str, Any], root: Path) -> None:
    """Log a finished run to MLflow, once; where MLflow is away the journal keeps it."""
    folder = root / result["folder"]
    journal_path = work_dir(root) / "bench" / "models" / "journals" / f"{folder.name}.jsonl"
    done_path = folder / "mlflow.json"
    if done_path.is_file():
        return
    journal_path.unlink(missing_ok=True)  # of a start that did not reach MLflow
    params = {"dataset": run.dataset, "variant": run.variant, "seed": str(run.seed)}
    params |= {name: str(value) for name, value in variant_of(run.variant).changes.items()}
    spec = RunSpec(
        experiment=EXPERIMENT,
        run_key=f"bench-{run.dataset}-{run.variant}-{folder.name}",
        run_name=f"{run.dataset} {run.variant} seed {run.seed}",
        journal_path=journal_path,
        params={**params, "seconds": f"{run.seconds:g}"},
        tags={"code_sha256": result["made_from"]["code_sha256"], "what": result["what"]},
        dataset=DatasetInput(
            run.dataset, result["made_from"]["images_sha256"], "prepared by bench.models"
        ),
    )
    tracker = open_tracker(root, spec)
    images_seen = int(result["used"]["images_seen"])
    if not result["has_diverged"]:
        values = {f"bench/{name}": value for name, value in figures_of(result).items()}
        for row in result["denoising"]:
            values[f"bench/denoising_loss.sigma_{row['sigma']:.2g}"] = row["value"]
        tracker.log_metrics(values, images_seen)
    if (folder / "samples.png").is_file():
        tracker.log_image("samples", folder / "samples.png", images_seen)
    tracker.close("FAILED" if result["has_diverged"] else "FINISHED")
    if tracker.ids.run_id is not None:
        write_json(done_path, {"run_id": tracker.ids.run_id})
