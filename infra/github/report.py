"""`make pull-request-report`: this commit and its base through the small pipeline, side by side.

Runs the code of a pull request, so it runs without any token; what it writes is data that a trusted
job reads (infra/github/comment.py): report.json and grid.png in work/report.

    python -m infra.github.report --base HEAD^1
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from infra.github.small_pipeline import run_small
from vivero.config.paths import artifacts_dir, project_dir, work_dir
from vivero.errors import ViveroError
from vivero.evaluation.directions import better_of
from vivero.files import read_json, write_json, write_whole
from vivero.processes import run_program
from vivero.registry.report_record import read_report_record
from vivero.registry.verdict_record import read_verdict
from vivero.tracking.git import resolve_commit

FIELDS = ("value", "low", "high", "floor", "n")
GAP_PX, TITLE_PX = 12, 20
PAPER, INK = 255, 0


def side(root: Path, clone: Path, revision: str) -> dict[str, Any]:
    """What the small pipeline said of one commit: its figures, stages' seconds and the verdict."""
    report = read_report_record(artifacts_dir(clone, "evaluate") / "metrics.json")
    return {
        "commit": resolve_commit(root, revision),
        "verdict": read_verdict(artifacts_dir(clone, "judge") / "verdict.json").verdict,
        "seconds": read_json(work_dir(clone) / "experiment.json"),
        "metrics": {
            name: {**{field: getattr(metric, field) for field in FIELDS}, "better": better_of(name)}
            for name, metric in report.metrics.items()
        },
    }


def join_grids(grids: list[tuple[str, Path]], path: Path) -> None:
    """Titled sample grids beside each other, as one PNG."""
    pictures = [(title, Image.open(grid).convert("RGB")) for title, grid in grids]
    width = sum(picture.width + GAP_PX for _, picture in pictures) + GAP_PX
    height = max(picture.height for _, picture in pictures) + TITLE_PX + GAP_PX
    sheet = Image.new("RGB", (width, height), (PAPER,) * 3)
    draw, left = ImageDraw.Draw(sheet), GAP_PX
    for title, picture in pictures:
        draw.text((left, 4), title, fill=(INK,) * 3)
        sheet.paste(picture, (left, TITLE_PX))
        left += picture.width + GAP_PX
    with write_whole(path) as part_path:
        sheet.save(part_path, format="PNG", optimize=True)


def make_report(root: Path, base: str, out: Path) -> None:
    """Run both commits and write OUT/report.json and OUT/grid.png.

    A base that does not run with this environment is said in the report; it hinders nobody.

    Raises:
        ViveroError: When the commit itself does not run.
    """
    clone = run_small(root, "HEAD", "head")
    report: dict[str, Any] = {"head": side(root, clone, "HEAD"), "base": None}
    grids = [("this pull request", artifacts_dir(clone, "sample") / "grid.png")]
    try:
        clone = run_small(root, base, "base")
        report["base"] = side(root, clone, base)
        grids.insert(0, ("base branch", artifacts_dir(clone, "sample") / "grid.png"))
    except (ViveroError, OSError, KeyError) as error:
        sys.stderr.write(f"pull-request-report: no figures of the base: {error}\n")
    write_json(out / "report.json", report)
    join_grids(grids, out / "grid.png")


def main() -> None:
    """Run it from the command line; 1 = this commit does not run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True)
    root = project_dir()
    try:
        make_report(root, parser.parse_args().base, work_dir(root) / "report")
    except ViveroError as error:
        sys.exit(f"pull-request-report: {error}")


if __name__ == "__main__":
    run_program("pull-request-report", main)
