"""Stage `validate_data`: shards in; a manifest of good images, a quarantine and a report out."""

import logging
import time
from pathlib import Path

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, data_dir
from vivero.config.schema import Config
from vivero.data.card import read_card
from vivero.data.expectations import ExpectationResult, check_manifest
from vivero.data.isolation import Limits, map_isolated
from vivero.data.manifest import inspect_data, write_manifest
from vivero.data.quarantine import QUARANTINE_NAME, QuarantineRow, reason_counts, write_quarantine
from vivero.data.report import (
    ReportContents,
    ShownRow,
    report_page,
    report_values,
    rows_to_show,
    thumbnail_uri,
)
from vivero.data.shards import rows_with_keys
from vivero.data.sorting import SortedData, sort_rows, too_many_refused
from vivero.errors import DataError
from vivero.files import write_json, write_text
from vivero.integrity.entry import verified
from vivero.processes import run_stage

NAME = "validate_data"
MAX_REASONS_NAMED = 3

log = logging.getLogger(__name__)


def run(config: Config, root: Path) -> None:
    """Decode all of data/, judge it, and write artifacts/validate_data.

    The report is written before the stage fails, so that a person can look at what is wrong.

    Raises:
        DataError: When too many images are bad, or a critical expectation is not met.
    """
    started_s = time.monotonic()
    settings = config.validate_data
    raw_dir, out_dir = data_dir(root), artifacts_dir(root, NAME)
    card = read_card(raw_dir)
    data = sort_rows(inspect_data(raw_dir, settings.num_processes), settings)
    expectations = check_manifest(data.good, card, settings)
    failure = _failure(data, expectations, settings.max_quarantined_share)

    write_manifest(out_dir / "manifest.parquet", data.good)
    write_quarantine(out_dir / QUARANTINE_NAME, data.refused)
    contents = ReportContents(card, data, expectations, failure)
    write_json(out_dir / "report.json", report_values(contents))
    write_text(out_dir / "report.html", report_page(contents, _shown(raw_dir, rows_to_show(data))))
    write_json(out_dir / "summary.json", _summary(data, expectations, time.monotonic() - started_s))
    if failure:
        raise DataError(
            f"{failure}\nSee {(out_dir / 'report.html').relative_to(root)}. Mend the images at "
            f"their source and bring them in again, or change validate_data in params.yaml if the "
            f"rule is too strict for them"
        )


def _failure(
    data: SortedData, expectations: list[ExpectationResult], max_share: float
) -> str | None:
    """Why the data must not be trained on, or None."""
    reasons = [too_many_refused(data, max_share)]
    unmet = [result for result in expectations if result.stops]
    if unmet:
        lines = [f"  {result.about}: {result.observed}" for result in unmet]
        reasons.append("the data contract is broken; expected:\n" + "\n".join(lines))
    said = [reason for reason in reasons if reason]
    return "\n".join(said) or None


def _shown(raw_dir: Path, rows: list[QuarantineRow]) -> list[ShownRow]:
    """Thumbnails of rows of the quarantine, made in a worker: the images may be hostile."""
    contents = rows_with_keys(raw_dir, {(row.split or "", row.key or "") for row in rows})
    images = [contents.get((row.split or "", row.key or ""), b"") for row in rows]
    if not images:
        return []
    uris = map_isolated(thumbnail_uri, images, Limits(items_per_batch=1))
    return [
        ShownRow(row, uri if isinstance(uri, str) else None)
        for row, uri in zip(rows, uris, strict=True)
    ]


def _summary(
    data: SortedData, expectations: list[ExpectationResult], seconds: float
) -> dict[str, object]:
    num_met = sum(result.outcome == "met" for result in expectations)
    reasons = list(reason_counts(data.refused).items())[:MAX_REASONS_NAMED]
    why = f" ({', '.join(f'{count} {reason}' for reason, count in reasons)})" if reasons else ""
    return {
        "stage": NAME,
        "seconds": round(seconds, 2),
        "made": f"{len(data.good)} good images of {data.num_rows}, {len(data.refused)} in "
        f"quarantine{why}; {num_met} of {len(expectations)} expectations met",
        "num_images": data.num_rows,
        "num_good": len(data.good),
        "num_quarantined": len(data.refused),
        "quarantined_share": data.quarantined_share,
        "num_duplicate_groups": len(data.duplicates),
        "num_expectations": len(expectations),
        "num_expectations_met": num_met,
    }


def main() -> None:
    """Run the stage as dvc.yaml does."""
    run_stage(NAME, verified(NAME, lambda root: run(load_config(root / PARAMS), root)))


if __name__ == "__main__":
    main()
