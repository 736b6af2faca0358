"""The pictures of a sequential test: one test over time, and many simulated ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vivero.evaluation.plots import new_figure, save_figure
from vivero.evaluation.sequential import Course
from vivero.evaluation.sequential_simulation import Row

COLOUR, MARK, GREY = "#0072B2", "#D55E00", "#b0b0b0"


def plot_course(course: Course, margin: float, what: str, path: Path) -> None:
    """Draw the estimate and its confidence sequence over the outcomes.

    Args:
        course: At least one outcome.
        margin: Drawn as a band around 0.
        what: Label of the vertical axis.
        path: PNG to write.
    """
    figure = new_figure()
    axes = figure.add_subplot()
    count = np.arange(1, len(course.estimate) + 1)
    axes.fill_between(count, course.low, course.high, color=COLOUR, alpha=0.2, linewidth=0,
                      label="interval that holds at all times at once")  # fmt: skip
    axes.plot(count, course.estimate, color=COLOUR, linewidth=1.5, label="estimate")
    axes.axhspan(-margin, margin, color=GREY, alpha=0.35, linewidth=0, label="does not matter")
    ends = [number for number, said in enumerate(course.decision) if said != "continue"]
    if ends:
        axes.axvline(ends[0] + 1, color=MARK, linestyle="--", label=course.decision[ends[0]])
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylim(-1, 1)
    axes.set_xlabel("outcomes")
    axes.set_ylabel(what)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def plot_simulation(rows: Sequence[Row], level: float, path: Path) -> None:
    """Draw false alarms of both tests, and how soon true differences are found.

    Args:
        rows: Of `sequential_simulation.simulate`.
        level: Drawn as the line that false alarms may not pass.
        path: PNG to write.
    """
    figure = new_figure(9.5, 3.8)
    alarms, power = figure.subplots(1, 2)
    equal = [row for row in rows if row.scenario.champion_rate == row.scenario.challenger_rate]
    place = np.arange(len(equal))
    alarms.bar(place - 0.2, [row.naive for row in equal], 0.4, color=MARK, label="z-test, peeking")
    ours = [row.challenger + row.champion for row in equal]
    alarms.bar(place + 0.2, ours, 0.4, color=COLOUR, label="sequential test")
    alarms.axhline(level, color="black", linestyle="--", linewidth=1, label=f"level {level:g}")
    alarms.set_ylim(0, 1.4 * max([level, *(row.naive for row in equal)]))
    names = [f"{row.scenario.champion_rate:g}\n{row.scenario.share:g}" for row in equal]
    alarms.set_xticks(place, names, fontsize=8)
    alarms.set_xlabel("share of good outcomes of both; share of the challenger below")
    alarms.set_title("false alarms, equal models", loc="left", fontsize=10)
    alarms.legend(frameon=False, fontsize=8)
    for row in rows:
        difference = row.scenario.challenger_rate - row.scenario.champion_rate
        if difference:
            found = np.arange(1, len(row.stopped_at) + 1) / row.num_runs
            power.step(row.stopped_at, found, where="post", label=f"{difference:+.2f}")
    power.set_ylim(0, 1)
    power.set_xlabel("outcomes")
    power.set_title("share that ended, by true difference", loc="left", fontsize=10)
    power.legend(frameon=False, fontsize=8)
    save_figure(figure, path)
