"""What `vivero simulate-gates` does: retrains drawn from real reports, judged by the real rule."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from tqdm import tqdm

from vivero.cli.console import plain_console
from vivero.cli.seed_runs import SeedRun, finished_runs
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, SEED_VARIANCE, project_dir, work_dir
from vivero.config.schema import Config
from vivero.errors import DataError
from vivero.evaluation.spread import SeedSpreads
from vivero.files import write_json
from vivero.registry.differences import MEASURE_SEEDS
from vivero.registry.gate_simulation import Plan, Rows, Simulation, Trials, judge_real_pairs
from vivero.registry.gate_simulation_plot import mean_course, plot_outcome
from vivero.registry.gate_targets import (
    Target,
    target_of_better,
    target_of_equal,
    target_of_pairs,
    target_of_rows,
)
from vivero.registry.gates import ruler_hash
from vivero.registry.seed_variance import read_seed_variance, recipe_of, spreads_for
from vivero.stages.judge import read_report

RETRAINS = 20


def simulate_gates(num_trials: int, num_rows: int, seed: int, seeds_name: str | None) -> int:
    """Simulate, print the tables, write work/simulate_gates.

    Returns:
        0, or 1 when a target was missed.

    Raises:
        DataError: When the variance between seeds or a report is missing.
    """
    root = project_dir()
    config = load_config(root / PARAMS)
    runs = {} if seeds_name is None else _real_runs(root, seeds_name)
    reports = {number: run.report for number, run in runs.items()}
    base = next(iter(reports.values())) if reports else read_report(root)
    spreads = _spreads(root, config, base)
    plan = Plan(num_trials, RETRAINS, num_rows, seed)
    folder = work_dir(root) / "simulate_gates"
    simulation = Simulation([base], config.judge, spreads)
    written: dict[str, Any] = {"plan": asdict(plan), "settings": config.judge.model_dump()}
    found: list[Target] = []
    for key, title in (
        ("measured_spread", "The spread between seeds is as measured"),
        ("uncertain_spread", "The spread between seeds is what so few seeds leave open"),
    ):
        trials, rows = _run(simulation, plan, key == "uncertain_spread", title)
        some = [target_of_equal(trials), target_of_rows(rows, plan)]
        if key == "measured_spread":
            some.insert(1, target_of_better(trials, config.judge.detectable_relative_gain))
            plot_outcome(simulation, trials, rows, folder / "gates.png")
        written[key] = {"trials": asdict(trials), **_record(rows, some)}
        _print(title, some)
        _print_control(trials, rows, plan)
        found += some
    if reports:
        some, written["real_trainings"] = _judge_real(reports, config, spreads, plan)
        found += some
    write_json(folder / "gates.json", written)
    path = (folder / "gates.json").relative_to(root)
    sys.stdout.write(f"All results are in {path}, the picture is gates.png\n")
    return 0 if all(target.is_met for target in found) else 1


def _run(
    simulation: Simulation, plan: Plan, is_spread_uncertain: bool, title: str
) -> tuple[Trials, Rows]:
    with tqdm(total=plan.trials + plan.rows, desc=title, disable=None) as bar:
        return (
            simulation.run_trials(plan, bar.update, is_spread_uncertain=is_spread_uncertain),
            simulation.run_rows(plan, bar.update, is_spread_uncertain=is_spread_uncertain),
        )


def _real_runs(root: Path, name: str) -> dict[int, SeedRun]:
    """The finished trainings of a name that were evaluated under one recipe and ruler."""
    found = {seed: run for seed, run in finished_runs(root, name).items() if run.report}
    groups: dict[tuple[str, str, str], dict[int, SeedRun]] = {}
    for seed, run in found.items():
        groups.setdefault(run.conditions, {})[seed] = run
    if not groups:
        raise DataError(
            f"there is no evaluated training in work/seeds/{name}; "
            f"run `vivero seeds 1 2 3 4 5 6 --name {shlex.quote(name)}` first"
        )
    return max(groups.values(), key=len)


def _spreads(root: Path, config: Config, base: Mapping[str, Any]) -> SeedSpreads:
    data_digest = (base.get("lineage") or {}).get("data_digest")
    spreads = spreads_for(
        read_seed_variance(root), recipe_of(config), data_digest, ruler_hash(base)
    )
    if spreads is None:
        raise DataError(f"{SEED_VARIANCE} is missing: run {MEASURE_SEEDS}")
    if spreads.note:
        sys.stderr.write(f"vivero: the spread between seeds was {spreads.note}\n")
    return spreads


def _record(rows: Rows, found: list[Target]) -> dict[str, Any]:
    """Results, for programs."""
    return {
        "targets": [{**asdict(target), "is_met": target.is_met} for target in found],
        "num_promoted_by_row": [row.num_promoted for row in rows.gate],
        "recorded_changes": [row.recorded[-1] for row in rows.gate],
        "mean_recorded": mean_course(rows.gate).tolist(),
        "mean_recorded_naive": mean_course(rows.naive).tolist(),
    }


def _print(title: str, found: list[Target]) -> None:
    table = Table("what", "found", "95 % interval", "asked for", "n", "", title=title)
    for target in found:
        table.add_row(
            target.what,
            f"{target.found:.2%}",
            f"{target.low:.2%} to {target.high:.2%}",
            target.asked_for,
            str(target.n),
            "met" if target.is_met else "MISSED",
        )
    plain_console(120).print(table)


def _print_control(trials: Trials, rows: Rows, plan: Plan) -> None:
    promoted, naive = (
        float(np.mean([row.num_promoted for row in some])) for some in (rows.gate, rows.naive)
    )
    sys.stdout.write(
        f"The gate promotes {promoted:.3f} of {plan.retrains} equal retrains in a row. For "
        f"comparison, 'not worse than the champion' promotes {trials.naive / plan.trials:.0%} of "
        f"single ones, {naive:.1f} in a row, and moves the recorded distance by "
        f"{mean_course(rows.naive)[-1]:.1%}.\n\n"
    )


def _judge_real(
    reports: Mapping[int, Mapping[str, Any]], config: Config, spreads: SeedSpreads, plan: Plan
) -> tuple[list[Target], dict[str, Any]]:
    """Real trainings against each other: as they are, and in rows with fresh draws of images."""
    pairs = judge_real_pairs(reports, config.judge)
    simulation = Simulation(list(reports.values()), config.judge, spreads)
    title = f"{len(reports)} real trainings of one recipe"
    with tqdm(total=plan.rows, desc=title, disable=None) as bar:
        rows = simulation.run_rows(plan, bar.update)
    found = [target_of_pairs(pairs), target_of_rows(rows, plan)]
    _print(f"{title}; pairs share trainings, so they are not independent", found)
    once = [pair for pair in pairs if pair.candidate < pair.champion]
    gains, errors = (np.array([getattr(p, key) for p in once]) for key in ("gain", "std_error"))
    sys.stdout.write(
        f"Gains between {len(once)} pairs in shares of the champion's distance: root mean square "
        f"{np.sqrt(np.mean(gains**2)):.2%}, largest {np.abs(gains).max():.2%}. The standard error "
        f"that the gate takes, from the other trainings: {np.sqrt(np.mean(errors**2)):.2%}.\n\n"
    )
    return found, {"pairs": [asdict(pair) for pair in pairs], **_record(rows, found)}
