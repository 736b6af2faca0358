"""A report of `evaluate` (metrics.json), as a record that is checked where it enters.

A judgement, a registration and a promotion read reports through here: of the candidate, of the
champion and of a signed verdict. Which direction is better is not read: `evaluation.directions`
knows it.
"""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, StrictBool, StringConstraints, model_validator

from vivero.errors import DataError
from vivero.evaluation.directions import is_share
from vivero.files import read_bounded_json
from vivero.integrity.records import (
    MAX_FIELDS,
    MAX_INTEGER,
    Line,
    LineageRecord,
    LongLine,
    Record,
    Sha256,
    read_record,
)
from vivero.registry.differences import DISTANCES

MAX_REPORT_BYTES = 4_000_000
MAX_METRICS = 1000
EVALUATE_AGAIN = "run `dvc repro -f -s evaluate`"

Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1, le=MAX_INTEGER)]
Seed = Annotated[int, Field(strict=True, ge=0, le=MAX_INTEGER)]
MetricName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]


class MetricRecord(Record):
    """One metric, by the names of `evaluation.metrics.metric`."""

    value: Finite
    low: Finite
    high: Finite
    std_error: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
    n: Count
    floor: Finite | None

    @model_validator(mode="after")
    def _has_an_interval(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"its interval is empty: low {self.low:g}, high {self.high:g}")
        return self


class ProtocolRecord(Record):
    """What all metrics were made with; its hash covers what is not named here."""

    model_config = ConfigDict(frozen=True, extra="allow")

    hash: Sha256
    ruler_hash: Sha256 | None = None
    n: Count | None = None
    sample_seed: Seed | None = None
    sampling: Annotated[dict[str, Any], Field(max_length=MAX_FIELDS)] | None = None
    compulsory: Annotated[list[Line], Field(max_length=MAX_FIELDS)] | None = None


class CodeRecord(Record):
    """The code that evaluated."""

    code_commit: Line | None = None
    is_dirty: StrictBool | None = None


class ReportRecord(Record):
    """metrics.json: what was measured of one model, and under which protocol."""

    protocol: ProtocolRecord
    lineage: LineageRecord = LineageRecord()
    evaluated_by: CodeRecord | None = None
    metrics: Annotated[dict[MetricName, MetricRecord], Field(max_length=MAX_METRICS)]
    not_computed: Annotated[dict[Line, LongLine], Field(max_length=MAX_FIELDS)] | None = None

    @model_validator(mode="after")
    def _has_possible_values(self) -> Self:
        for name, metric in self.metrics.items():
            numbers = (metric.value, metric.low, metric.high, metric.floor)
            if is_share(name) and any(x is not None and not 0 <= x <= 1 for x in numbers):
                raise ValueError(f"{name} is a share, so its numbers must be between 0 and 1")
            if name.startswith(DISTANCES) and metric.floor is not None and metric.floor <= 0:
                raise ValueError(f"the floor of {name} must be above 0, or null")
        return self


def read_report_record(path: Path, advice: str = EVALUATE_AGAIN) -> ReportRecord:
    """The report in a file.

    Args:
        path: metrics.json.
        advice: What to do when it cannot be used.

    Raises:
        DataError: When a field is missing or not of its form; it names the fields.
    """
    try:
        return read_record(ReportRecord, read_bounded_json(path, MAX_REPORT_BYTES))
    except (OSError, ValueError) as error:
        raise DataError(f"the report {path} cannot be used ({error}); {advice}") from error
