"""What a run shows in Prefect's pages: tables of stages and figures, the samples, and links."""

import base64
from pathlib import Path
from typing import Any

from prefect.artifacts import create_image_artifact, create_link_artifact, create_markdown_artifact

from vivero.config.environment import read_environment
from vivero.config.paths import artifacts_dir
from vivero.files import read_json

MAX_IMAGE_BYTES = 2_000_000  # an artifact is a row of Prefect's database


def show_stages(root: Path, seconds: dict[str, float]) -> None:
    """What was done so far, as a table."""
    create_markdown_artifact(stage_table(root, seconds), key="stages", description="What was done")


def show_run(root: Path, seconds: dict[str, float], branch: str | None) -> None:
    """All that a run made: stages, figures, verdict, samples, and where the record lies."""
    show_stages(root, seconds)
    report = read_json(artifacts_dir(root, "evaluate") / "metrics.json")
    verdict = read_json(artifacts_dir(root, "judge") / "verdict.json")
    promotion = read_json(artifacts_dir(root, "promote") / "promotion.json")
    proposed = "" if branch is None else f"\n\n`dvc.lock` is proposed on branch `{branch}`."
    judged = f"**Verdict: {verdict['verdict']}.** {promotion['message']}.{proposed}\n\n"
    create_markdown_artifact(
        judged + metric_table(report), key="metrics", description="How good it is"
    )
    grid_path = artifacts_dir(root, "sample") / "grid.png"
    if grid_path.stat().st_size <= MAX_IMAGE_BYTES:
        create_image_artifact(data_address(grid_path), key="samples", description="Images it made")
    address = run_address(root)
    if address is not None:
        create_link_artifact(address, "The run in MLflow", key="mlflow-run")


def stage_table(root: Path, seconds: dict[str, float]) -> str:
    """Stages, seconds and what each made, as Markdown."""
    rows = ["| stage | seconds | what it made |", "| --- | ---: | --- |"]
    for stage, stage_s in seconds.items():
        summary_path = artifacts_dir(root, stage) / "summary.json"
        made = read_json(summary_path)["made"] if summary_path.exists() else "data/"
        rows.append(f"| {stage} | {stage_s:.1f} | {made} |")
    rows.append(f"| all | {sum(seconds.values()):.1f} | |")
    return "\n".join(rows)


def metric_table(report: dict[str, Any]) -> str:
    """Figures with interval and floor, as Markdown."""
    rows = [
        "| metric | value | 95 % interval | real against real | n | better |",
        "| --- | ---: | --- | ---: | ---: | --- |",
    ]
    for name, metric in report["metrics"].items():
        floor = metric.get("floor")
        shown_floor = "" if floor is None else f"{floor:.4g}"
        interval = f"{metric['low']:.4g} to {metric['high']:.4g}"
        rows.append(
            f"| {name} | {metric['value']:.4g} | {interval} | {shown_floor} "
            f"| {metric['n']} | {metric['better']} |"
        )
    return "\n".join(rows)


def data_address(path: Path) -> str:
    """A PNG as an address that holds it: seen wherever the page is, with no file server."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def run_address(root: Path) -> str | None:
    """Where MLflow shows the run; None for a store without a server."""
    server = read_environment().mlflow_tracking_uri
    registered = read_json(artifacts_dir(root, "register") / "registered.json")
    if server is None or not server.startswith("http"):
        return None
    return f"{server.rstrip('/')}/#/runs/{registered['run_id']}"
