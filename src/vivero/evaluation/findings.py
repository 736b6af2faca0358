"""What an evaluation found, and what it could not find with the reason."""

import csv
import io
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivero.errors import NotComputableError
from vivero.evaluation.compulsory import require_numbers
from vivero.evaluation.metrics import Metrics
from vivero.evaluation.per_image import PerImage
from vivero.files import write_json, write_text

log = logging.getLogger(__name__)


class Findings:
    """Metrics by name, their values per image, details for plots, reasons for what is left out."""

    def __init__(self) -> None:
        self.metrics: Metrics = {}
        self.not_computed: dict[str, str] = {}
        self.details: dict[str, Any] = {}
        self.per_image: dict[str, np.ndarray] = {}

    def add(self, name: str, figure: Callable[[], Metrics]) -> None:
        """Compute a group of metrics; what this data cannot give is recorded with the reason.

        Of a group that is left out nothing is kept: no value per image and no detail. Any exception
        but NotComputableError is a fault of the code and ends the evaluation.
        """
        started_at = time.monotonic()
        per_image, details = dict(self.per_image), dict(self.details)
        try:
            metrics = figure()
            require_numbers(metrics)
        except NotComputableError as error:
            self.not_computed[name] = str(error)
            self.per_image, self.details = per_image, details
            log.warning("evaluate: %s is left out: %s", name, error)
        else:
            self.metrics |= metrics
            log.info("evaluate: %s (%.1f s)", name, time.monotonic() - started_at)

    def keep(self, per_image: PerImage) -> None:
        """Keep the values per image of figures, for comparisons with other models."""
        self.per_image |= per_image

    def write_summary(self, path: Path, seconds: float) -> None:
        """The headline figures, flat, for `dvc metrics`."""
        values = {name: figure["value"] for name, figure in self.metrics.items()}
        first = next(iter(values), None)
        figures = "no figure" if first is None else f"{first} = {values[first]:.4g}"
        made = f"{len(values)} figures with intervals; {figures}"
        write_json(
            path, {"stage": "evaluate", "seconds": round(seconds, 2), "made": made, **values}
        )
        log.info("evaluate made %s", made)


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Rows as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
