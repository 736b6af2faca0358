"""Pictures are PNG files that show something; the page is one file that needs no network."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from vivero.evaluation.page import PICTURES, write_page
from vivero.evaluation.plots import plot_curves, plot_loss_by_noise, plot_metrics, plot_per_class

METRIC = {
    "value": 5.0, "low": 4.5, "high": 5.5, "floor": 1.25, "floor_low": 1.0, "floor_high": 1.5,
    "n": 5000, "better": "lower",
}  # fmt: skip
REPORT = {
    "protocol": {"hash": "abc", "extractor": "efficientnet_lite0"},
    "metrics": {"fd.efficientnet_lite0.5k": METRIC, "is.x.5k": {**METRIC, "floor": None}},
    "not_computed": {"cas": "<script>alert(1)</script> has no labels"},
}


def is_drawn(path: Path) -> bool:
    return float(np.asarray(Image.open(path).convert("L")).std()) > 5


def test_plots_draw_something(tmp_path: Path):
    rows = [{"sigma": s, "value": 0.3, "low": 0.2, "high": 0.4} for s in (0.1, 1.0, 10.0)]
    plot_loss_by_noise(rows, tmp_path / "loss.png")
    plot_metrics(REPORT["metrics"], tmp_path / "metrics.png")
    plot_per_class(["bag", "shirt"], [0.8, 0.5], [0.9, 0.6], tmp_path / "classes.png")
    assert all(is_drawn(path) for path in tmp_path.glob("*.png"))
    assert len(list(tmp_path.iterdir())) == 3


def test_curves_come_from_the_files_of_the_training(tmp_path: Path):
    (tmp_path / "loss.csv").write_text("images_seen,loss\n64,1.0\n128,0.5\n")
    (tmp_path / "validation.csv").write_text("images_seen,loss\n128,0.6\n")
    assert plot_curves(tmp_path, tmp_path / "curves.png")
    assert is_drawn(tmp_path / "curves.png")


def test_without_curves_nothing_is_drawn(tmp_path: Path):
    assert not plot_curves(tmp_path / "none", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_the_page_stands_alone_in_two_languages(tmp_path: Path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "grid.png")
    write_page(REPORT, {"grid": tmp_path / "grid.png"}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"(src|href)=.?https?:", page)
    assert page.count("data:image/png;base64,") == 1
    assert "Evaluación del candidato" in page
    assert "Evaluation of the candidate" in page
    assert PICTURES["grid"][1] in page
    assert "[4.5, 5.5]" in page


def test_what_comes_from_data_stays_text(tmp_path: Path):
    write_page(REPORT, {}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
