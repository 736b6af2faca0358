"""Settings of a person's matplotlib neither stop nor change a figure."""

from pathlib import Path

import matplotlib as mpl

from vivero.evaluation.plots import plot_loss_by_noise

ROWS = [{"sigma": sigma, "value": 1.0, "low": 0.9, "high": 1.1} for sigma in (0.1, 1.0, 10.0)]


def test_a_figure_is_the_same_whatever_matplotlibrc_says(tmp_path: Path):
    rc_path = tmp_path / "matplotlibrc"
    rc_path.write_text("text.usetex: True\nfont.size: 30\naxes.facecolor: black\n")
    plot_loss_by_noise(ROWS, tmp_path / "default.png")
    with mpl.rc_context(fname=rc_path):
        plot_loss_by_noise(ROWS, tmp_path / "foreign.png")
    assert (tmp_path / "foreign.png").read_bytes() == (tmp_path / "default.png").read_bytes()
