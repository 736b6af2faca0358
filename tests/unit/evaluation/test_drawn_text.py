"""Any class name can be drawn: as text, in every kind of picture, without a warning."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from tests.unit.nasty_names import NASTY_NAMES
from vivero.evaluation.drawn_text import MAX_TICK_CHARACTERS, draw_as_text, drawable
from vivero.evaluation.grids import save_grid
from vivero.evaluation.pictures import draw_samples
from vivero.evaluation.plots import new_figure, plot_per_class, save_figure
from vivero.evaluation.sampler_comparison_plot import GridRow, draw_sampler_grid


def ticks_of(names: list[str]) -> list[str]:
    """What stands at the axis of a figure with these names."""
    figure = new_figure()
    axes = figure.add_subplot()
    axes.set_yticks(range(len(names)), names)
    draw_as_text(figure)
    FigureCanvasAgg(figure).draw()
    labels = axes.get_yticklabels()
    assert not any(label.get_parse_math() for label in labels)
    return [label.get_text() for label in labels]


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_a_name_is_drawn_everywhere(tmp_path: Path, name: str):
    images = np.random.default_rng(1).integers(0, 256, (2, 1, 8, 8), np.uint8)
    plot_per_class([name, "b"], [0.8, 0.5], [0.9, 0.6], tmp_path / "classes.png")
    draw_samples(images, np.array([0, 1]), [name, "b"], tmp_path / "samples.png")
    rows = [GridRow(name, [name, name], images), GridRow("b", ["b", name], None)]
    draw_sampler_grid(rows, [name, "b"], tmp_path / "rows.png")
    figure = new_figure(width_in=30)
    axes = figure.add_subplot()
    axes.plot([1, 2], [3, 4], label=name)
    axes.plot([1, 2], [4, 3], label="b")
    axes.set_title(name)
    axes.set_xlabel(name)
    axes.text(1, 3, name)
    axes.annotate(name, (1, 3))
    axes.legend()
    figure.suptitle(name)
    save_figure(figure, tmp_path / "all.png")
    assert len(list(tmp_path.glob("*.png"))) == 4
    for path in tmp_path.iterdir():
        with Image.open(path) as picture:
            picture.verify()


def test_dollars_are_dollars():
    assert ticks_of(["US$ 1_$5", "$\\frac{1}{0}$"]) == ["US$ 1_$5", "$\\frac{1}{0}$"]


def test_lines_are_bounded_and_control_characters_escaped():
    assert ticks_of(["x" * 300, "a\x1b[0m"]) == [
        "x" * (MAX_TICK_CHARACTERS - 1) + "…",
        "a\\x1b[0m",
    ]


def test_powers_of_logarithmic_axes_stay_formulas():
    figure = new_figure()
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_xlim(0.01, 100)
    draw_as_text(figure)
    FigureCanvasAgg(figure).draw()
    powers = [label for label in axes.get_xticklabels() if label.get_text()]
    assert powers
    assert all(label.get_parse_math() for label in powers)


def test_a_character_that_no_font_has_is_named():
    unassigned_in_fonts = "\U00012000"  # cuneiform
    assert drawable(f"a{unassigned_in_fonts}") in (f"a{unassigned_in_fonts}", "a\\U00012000")
    assert drawable("\U000e0100a") == "\\U000e0100a"


def test_saving_twice_changes_no_text(tmp_path: Path):
    figure = new_figure()
    figure.suptitle("US$ 1_$5 a\\nb")
    save_figure(figure, tmp_path / "a.png")
    save_figure(figure, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)][-1]


def test_captions_of_a_grid_are_cut_at_the_width(tmp_path: Path):
    images = np.zeros((1, 1, 56, 56), np.uint8)
    save_grid(images, tmp_path / "long.png", 1, ["W" * 300])
    save_grid(images, tmp_path / "empty.png", 1, [""])
    with Image.open(tmp_path / "long.png") as long, Image.open(tmp_path / "empty.png") as empty:
        assert long.size == empty.size
