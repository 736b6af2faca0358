"""The data contract as a Great Expectations suite over the manifest. The only door to that vendor.

Great Expectations judges tables, so it is given three: the manifest of the good images, the size of
the split to train on, and the size of each class. A critical expectation that is not met stops the
pipeline; a warning is shown in the report.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from vivero.config.schema import ValidateDataConfig
from vivero.data.card import DataCard
from vivero.data.manifest import SCHEMA, ManifestRow
from vivero.data.shards import SPLITS

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

NUM_EXAMPLES = 10
MAX_IMBALANCE = 20.0  # the largest class has at most so many times the images of the smallest
HASH_PATTERN = r"^[0-9a-f]{64}$"
NOT_NULL = [name for name in SCHEMA.names if name != "label"]
NULLABLE = {"int64": "Int64"}  # what pandas calls whole numbers that may be missing
TYPES = {
    "key": "str",
    "split": "str",
    "label": "int64",
    "pixel_sha256": "str",
    "width_px": "int32",
    "height_px": "int32",
    "mode": "str",
    "num_bytes": "int64",
    "mean": "float64",
    "std": "float64",
}


@dataclass(frozen=True)
class ExpectationResult:
    """What came of one expectation.

    about: The rule, as a sentence. outcome: `met`, `not met`, or `error` when it could not be
    judged, as when a column is missing. observed: What was found instead.
    """

    about: str
    name: str
    severity: Literal["critical", "warning", "info"]
    outcome: Literal["met", "not met", "error"]
    observed: str

    @property
    def stops(self) -> bool:
        """Whether the pipeline must not go on."""
        return self.severity == "critical" and self.outcome != "met"


def check_manifest(
    rows: Sequence[ManifestRow], card: DataCard, config: ValidateDataConfig
) -> list[ExpectationResult]:
    """Judge the manifest of the good images; the order of the results is that of the suite."""
    manifest = manifest_frame(rows)
    trained_on = manifest[manifest["split"] != "test"]
    num_train = int((manifest["split"] == "train").sum())
    per_split = pd.DataFrame({"split": ["train"], "num_images": [num_train]})
    with _quiet_vendor():
        results = _judge("manifest", manifest, _manifest_rules(card, config))
        results += _judge("splits", per_split, _split_rules())
        if card.class_names:
            labels = range(len(card.class_names))
            counts = [int((trained_on["label"] == label).sum()) for label in labels]
            per_class = pd.DataFrame({"class": list(card.class_names), "num_images": counts})
            results += _judge("classes", per_class, _class_rules(per_class, config))
    return results


@contextlib.contextmanager
def _quiet_vendor() -> Iterator[None]:
    """No telemetry, no warnings about its own code, and no hundreds of lines of its log.

    Its loggers set levels of their own, so the lines are stopped where they would be written.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(_is_worth_saying)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(_is_worth_saying)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or not record.name.startswith("great_expectations")


def manifest_frame(rows: Sequence[ManifestRow]) -> pd.DataFrame:
    """The manifest as a table with the types that the suite expects."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for row in rows:
        for name in ("key", "split", "label"):
            columns[name].append(getattr(row, name))
        for name in SCHEMA.names[3:]:
            columns[name].append(getattr(row.facts, name))
    dtypes = {**TYPES, "label": NULLABLE[TYPES["label"]]}
    return pd.DataFrame({name: pd.Series(columns[name], dtype=dtypes[name]) for name in columns})


def _manifest_rules(card: DataCard, config: ValidateDataConfig) -> "list[Expectation]":
    import great_expectations.expectations as gxe

    rules: list[Expectation] = [
        gxe.ExpectTableColumnsToMatchOrderedList(
            column_list=SCHEMA.names, meta=_about("the manifest has its columns")
        ),
        gxe.ExpectTableRowCountToBeBetween(min_value=1, meta=_about("there are images")),
    ]
    for name, kind in TYPES.items():
        rules.append(
            gxe.ExpectColumnValuesToBeOfType(
                column=name, type_=kind, meta=_about(f"{name} is of type {kind}")
            )
        )
    for name in [*NOT_NULL, *(["label"] if card.class_names else [])]:
        rules.append(
            gxe.ExpectColumnValuesToNotBeNull(column=name, meta=_about(f"every image has a {name}"))
        )
    side = {"min_value": config.min_side_px, "max_value": config.max_side_px}
    limits = f"{config.min_side_px} to {config.max_side_px} pixels"
    return [
        *rules,
        gxe.ExpectColumnValuesToBeUnique(column="key", meta=_about("no two images share a key")),
        gxe.ExpectColumnValuesToBeUnique(
            column="pixel_sha256", meta=_about("no two images have the same pixels")
        ),
        gxe.ExpectColumnValuesToMatchRegex(
            column="pixel_sha256", regex=HASH_PATTERN, meta=_about("pixel_sha256 is a sha256")
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="split", value_set=list(SPLITS), meta=_about(f"split is one of {list(SPLITS)}")
        ),
        _label_rule(card),
        gxe.ExpectColumnValuesToBeInSet(
            column="mode", value_set=["L", "RGB"], meta=_about("images are grey or RGB")
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="width_px", **side, meta=_about(f"width is {limits}")
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="height_px", **side, meta=_about(f"height is {limits}")
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="num_bytes", min_value=1, meta=_about("files are not empty")
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="mean", min_value=0, max_value=255, meta=_about("mean brightness is 0 to 255")
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="std",
            min_value=config.blank_max_std,
            strict_min=True,
            max_value=127.5,
            meta=_about(f"pixels vary by more than blank_max_std ({config.blank_max_std:g})"),
        ),
    ]


def _label_rule(card: DataCard) -> "Expectation":
    import great_expectations.expectations as gxe

    if not card.class_names:
        return gxe.ExpectColumnValuesToBeNull(
            column="label", meta=_about("no image has a label, since the card names no classes")
        )
    last = len(card.class_names) - 1
    return gxe.ExpectColumnValuesToBeInSet(
        column="label",
        value_set=list(range(last + 1)),
        meta=_about(f"label is one of the classes 0 to {last} of the card"),
    )


def _split_rules() -> "list[Expectation]":
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnValuesToBeBetween(
            column="num_images", min_value=1, meta=_about("split train has images")
        )
    ]


def _class_rules(per_class: pd.DataFrame, config: ValidateDataConfig) -> "list[Expectation]":
    import great_expectations.expectations as gxe

    least = config.min_images_per_class
    smallest_allowed = per_class["num_images"].max() / MAX_IMBALANCE
    return [
        gxe.ExpectColumnValuesToBeBetween(
            column="num_images",
            min_value=least,
            meta=_about(f"every class has at least {least} images outside test"),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="num_images",
            min_value=float(smallest_allowed),
            severity="warning",
            meta=_about(f"no class has {MAX_IMBALANCE:g} times the images of another"),
        ),
    ]


def _about(sentence: str) -> dict[str, str]:
    return {"about": sentence}


def _judge(name: str, frame: pd.DataFrame, rules: "list[Expectation]") -> list[ExpectationResult]:
    """Validate one table in memory; nothing is written, nothing is sent."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("vivero").add_dataframe_asset(name)
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(
        batch_parameters={"dataframe": frame}
    )
    suite = gx.ExpectationSuite(name=name, expectations=rules)
    result_format = {"result_format": "SUMMARY", "partial_unexpected_count": NUM_EXAMPLES}
    validation = batch.validate(suite, result_format=result_format)
    order = [rule.meta["about"] for rule in rules]
    results = [_result(name, frame, item) for item in validation.results]
    return sorted(results, key=lambda result: order.index(result.about))


def _result(table: str, frame: pd.DataFrame, item: Any) -> ExpectationResult:
    config = item.expectation_config
    exceptions = _exceptions(item.exception_info)
    outcome: Literal["met", "not met", "error"] = "met" if item.success else "not met"
    observed = _observed(frame, item.result) if not item.success else ""
    if exceptions:
        outcome, observed = "error", exceptions
    return ExpectationResult(
        about=config.meta["about"],
        name=f"{table}: {config.type}",
        severity=config.severity.value,
        outcome=outcome,
        observed=observed,
    )


def _exceptions(info: dict[str, Any]) -> str:
    """What went wrong while judging, or an empty string; one exception or several by metric."""
    several = [info] if "raised_exception" in info else list(info.values())
    return "; ".join(str(one["exception_message"]) for one in several if one["raised_exception"])


def _observed(frame: pd.DataFrame, result: dict[str, Any]) -> str:
    """What was found instead, with the first rows where."""
    if "observed_value" in result:
        return f"found {result['observed_value']}"
    names = frame.iloc[:, 0]
    examples = [
        f"{names.iloc[index]} ({value})"
        for index, value in zip(
            result.get("partial_unexpected_index_list") or [],
            result.get("partial_unexpected_list") or [],
            strict=False,
        )
    ]
    return f"{result.get('unexpected_count')} rows, such as " + ", ".join(examples)
