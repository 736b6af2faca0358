"""`vivero simulate-ab`: how often the sequential test is wrong, and how soon it is right."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.progress import Progress
from rich.table import Table

from vivero.cli.console import plain_console
from vivero.errors import AbTestError
from vivero.evaluation.sequential import SequentialTest
from vivero.evaluation.sequential_plot import plot_simulation
from vivero.evaluation.sequential_simulation import Z_OF_LEVEL, Row, scenarios, simulate
from vivero.files import write_json

DIFFERENCES = (0.03, 0.05, 0.1, 0.2, -0.1)


def simulate_and_report(
    num_runs: int, num_outcomes: int, level: float, margin: float, seed: int, out_dir: Path
) -> int:
    """Print a table, write table.json and simulation.png; 1 when false alarms pass the level."""
    if level not in Z_OF_LEVEL:
        raise AbTestError(f"--level is one of {', '.join(map(str, Z_OF_LEVEL))}; got {level}")
    found = scenarios(DIFFERENCES, rate=0.5, share=0.5)
    test = SequentialTest(0.5, level, margin)
    with Progress() as bar:
        task = bar.add_task("scenarios", total=len(found))
        rows = simulate(
            found, num_runs, num_outcomes, test, np.random.default_rng(seed),
            lambda: bar.advance(task),
        )  # fmt: skip
    _print(rows)
    write_json(out_dir / "table.json", [asdict(row) for row in rows])
    plot_simulation(rows, level, out_dir / "simulation.png")
    equal = [row for row in rows if row.scenario.champion_rate == row.scenario.challenger_rate]
    worst = max(row.challenger + row.champion for row in equal)
    plain_console().print(
        f"false alarms at most {worst:.3f} (allowed {level:g}); the z-test with peeking "
        f"{max(row.naive for row in equal):.3f}. {out_dir}"
    )
    return int(worst > level)


def _print(rows: list[Row]) -> None:
    table = Table(
        "champion", "challenger", "share", "challenger better", "champion better", "futile",
        "mean outcomes", "z-test, peeking",
    )  # fmt: skip
    for row in rows:
        scenario = row.scenario
        table.add_row(
            f"{scenario.champion_rate:g}",
            f"{scenario.challenger_rate:g}",
            f"{scenario.share:g}",
            f"{row.challenger:.3f}",
            f"{row.champion:.3f}",
            f"{row.futile:.3f}",
            f"{row.mean_outcomes:.0f}",
            f"{row.naive:.3f}",
        )
    plain_console(110).print(table)
