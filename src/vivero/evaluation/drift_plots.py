"""The pictures of a drift report, as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vivero.evaluation.drift import CLASSIFIER, DISCREPANCY, DriftReport
from vivero.evaluation.grids import save_grid
from vivero.evaluation.plots import WIDTH_IN, new_figure, save_figure

OURS, THEIRS, ALARM = "0.7", "#0072B2", "#D55E00"  # Okabe and Ito
NUM_SHOWN = 12


def draw_drift(
    report: DriftReport,
    class_names: Sequence[str],
    typical: np.ndarray | None,
    current: np.ndarray,
    folder: Path,
) -> dict[str, Path]:
    """Draw all pictures of a report.

    Args:
        report: What was found.
        class_names: By label; for the shares of labels.
        typical: Images of the reference, uint8, (n, C, H, W); None when it brought none.
        current: The images that were tested, in the order of the report.
        folder: Where the PNG files go.

    Returns:
        The files, by what they show.
    """
    pictures = {
        "null": folder / "null.png",
        "components": folder / "components.png",
        "scores": folder / "scores.png",
    }
    plot_null(report, pictures["null"])
    plot_components(report, pictures["components"])
    plot_scores(report, pictures["scores"])
    if report.detail.current_labels:
        pictures["labels"] = folder / "labels.png"
        plot_labels(report, class_names, pictures["labels"])
    if typical is not None and typical.shape[1:] == current.shape[1:]:
        pictures["unusual"] = folder / "unusual.png"
        draw_unusual(report, typical, current, pictures["unusual"])
    return pictures


def plot_null(report: DriftReport, path: Path) -> None:
    """The observed discrepancy among those of the permutations."""
    test = next(test for test in report.tests if test.name == DISCREPANCY)
    figure = new_figure(WIDTH_IN, 3.0)
    axes = figure.add_subplot()
    axes.hist(report.detail.null_statistics, bins=40, color=OURS, label="if nothing had changed")
    axes.axvline(
        test.effect,
        color=ALARM if test.is_alarm else THEIRS,
        label=f"observed (p = {test.p_value:.3g})",
    )
    axes.axvline(test.limit, color="0.3", linestyle="--", label="least effect that matters")
    axes.set_xlabel("maximum mean discrepancy, squared, in whitened components")
    axes.set_ylabel("permutations")
    axes.legend(fontsize=8)
    save_figure(figure, path)


def plot_components(report: DriftReport, path: Path) -> None:
    """Distance of the distribution functions of each component; coloured where beyond chance."""
    figure = new_figure(WIDTH_IN, 3.0)
    axes = figure.add_subplot()
    components = report.detail.components
    colours = [ALARM if test.p_value < report.level else OURS for test in components]
    axes.bar(range(1, len(components) + 1), [test.effect for test in components], color=colours)
    axes.set_xlabel("principal component (orange: beyond chance, Holm)")
    axes.set_ylabel("Kolmogorov-Smirnov distance")
    save_figure(figure, path)


def plot_scores(report: DriftReport, path: Path) -> None:
    """What the classifier says of images it has not seen, and its ROC curve."""
    scores, is_current = np.array(report.detail.scores), np.array(report.detail.is_current)
    figure = new_figure(WIDTH_IN, 3.0)
    left, right = figure.subplots(1, 2)
    bins = np.histogram_bin_edges(scores, 30)
    for side, colour, label in ((~is_current, OURS, "reference"), (is_current, THEIRS, "new")):
        left.hist(scores[side], bins, density=True, alpha=0.7, color=colour, label=label)
    left.set_xlabel("score of the classifier")
    left.set_ylabel("density")
    left.legend(fontsize=8)
    order = np.argsort(-scores)
    hits = np.concatenate([[0], np.cumsum(is_current[order])]) / max(1, is_current.sum())
    false = np.concatenate([[0], np.cumsum(~is_current[order])]) / max(1, (~is_current).sum())
    right.plot(false, hits, color=THEIRS)
    right.plot([0, 1], [0, 1], color="0.6", linestyle="--")
    test = next(test for test in report.tests if test.name == CLASSIFIER)
    right.set_title(f"AUC {report.auc:.3f} (p = {test.p_value:.2g})", fontsize=10)
    right.set_xlabel("reference taken for new")
    right.set_ylabel("new found")
    save_figure(figure, path)


def plot_labels(report: DriftReport, class_names: Sequence[str], path: Path) -> None:
    """Share of each class, in the reference and among the new images."""
    figure = new_figure(WIDTH_IN, max(2.4, 0.33 * len(class_names) + 1.0))
    axes = figure.add_subplot()
    rows = np.arange(len(class_names))
    axes.barh(rows - 0.2, report.detail.reference_labels, 0.38, color=OURS, label="reference")
    axes.barh(rows + 0.2, report.detail.current_labels, 0.38, color=THEIRS, label="new")
    axes.set_yticks(list(rows), list(class_names), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("share of the images")
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    save_figure(figure, path)


def draw_unusual(report: DriftReport, typical: np.ndarray, current: np.ndarray, path: Path) -> None:
    """The new images farthest from the centre (first row), above images of the reference."""
    count = min(NUM_SHOWN, len(typical), len(current))
    farthest = np.argsort(report.detail.distances)[::-1][:count]
    captions = ["new"] * count + ["reference"] * count
    save_grid(np.concatenate([current[farthest], typical[:count]]), path, count, captions)
