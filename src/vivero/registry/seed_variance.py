"""The variance between seeds of a recipe, in seed_variance.json beside params.yaml.

`vivero seeds` measures and writes it, git tracks it, `vivero judge` reads it: two trainings of one
recipe differ, and a gain counts only beyond that (evaluation/paired.py). The file holds each value;
what is derived from them is written for readers and must agree when the file is read.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as parsed_dataclass

from vivero.config.paths import SEED_VARIANCE
from vivero.config.schema import Config
from vivero.errors import DataError
from vivero.evaluation.spread import SeedSpread, SeedSpreads
from vivero.files import sha256_of_json, write_json
from vivero.registry.differences import MEASURE_SEEDS, gain_of
from vivero.registry.gates import ruler_hash
from vivero.training.fingerprint import SETTINGS_WITHOUT_EFFECT

MAX_FILE_BYTES = 4_000_000
COUNTS_OF_IMAGES = ("copied_share.", "near_equal_share.", "unusable_share.")
WITHOUT_EFFECT = (SETTINGS_WITHOUT_EFFECT - {"initial_model"}) | {"seed"}

Name = Annotated[str, Field(min_length=1, max_length=200)]
Digest = Annotated[str, Field(max_length=200)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


@parsed_dataclass(frozen=True, config={"extra": "ignore"})
class MetricValues:
    """What the file holds of one metric.

    Attributes:
        values: By seed.
        evaluation_error: Part of their spread that comes from evaluating on finite images.
    """

    values: Annotated[dict[Seed, Finite], Field(min_length=2, max_length=1000)]
    evaluation_error: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @property
    def spread(self) -> SeedSpread:
        """The spread between these seeds."""
        return SeedSpread(dict(self.values), self.evaluation_error)


@parsed_dataclass(frozen=True, config={"extra": "ignore"})
class SeedVariance:
    """A recipe and the values of its trainings.

    Attributes:
        name: Of the trainings: `vivero seeds --name`.
        recipe_sha256: Hash of the settings that decide the model and its images, but the seed.
        ruler_sha256: `ruler_hash` of the protocol that the models were evaluated under.
        data_digest: The md5 of data/ that the models were trained on; None when not known.
        weights_sha256: Of the model of each seed.
        metrics: By name.
    """

    name: Name
    recipe_sha256: Digest
    ruler_sha256: Digest
    data_digest: Digest | None
    weights_sha256: Annotated[dict[Seed, Digest], Field(min_length=2, max_length=1000)]
    metrics: Annotated[dict[Name, MetricValues], Field(max_length=1000)]

    def as_json(self) -> dict[str, Any]:
        """What is written: the values, and beside them what they amount to."""
        return {
            "name": self.name,
            "recipe_sha256": self.recipe_sha256,
            "ruler_sha256": self.ruler_sha256,
            "data_digest": self.data_digest,
            "weights_sha256": {str(seed): sha for seed, sha in self.weights_sha256.items()},
            "metrics": {name: _as_row(metric) for name, metric in sorted(self.metrics.items())},
        }


def recipe_sha256(params: Mapping[str, Any]) -> str:
    """Hash of the settings that decide the model and how its images are sampled, but the seed.

    Args:
        params: The blocks of params.yaml as plain values.
    """
    training = dict(params["train"])
    sampling = training.pop("sampling", None)  # where older settings have it
    settings = {name: value for name, value in training.items() if name not in WITHOUT_EFFECT}
    recipe = {"train": settings, "sampling": params.get("sampling", sampling)}
    return sha256_of_json(_comparable(recipe))


def recipe_of(config: Config) -> str:
    """`recipe_sha256` of the present settings."""
    return recipe_sha256(config.model_dump(mode="json", by_alias=True))


def _comparable(value: Any) -> Any:
    """Numbers as floats: 80 and 80.0 are one setting."""
    if isinstance(value, Mapping):
        return {name: _comparable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(part) for part in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def measure_seed_variance(
    name: str, recipe: str, reports: Mapping[int, Mapping[str, Any]]
) -> SeedVariance:
    """The variance between seeds, from the reports of their models.

    Args:
        name: Of the trainings.
        recipe: `recipe_sha256` of all of them.
        reports: By seed: evaluate's metrics.json of at least two models, with `per_image` where
            there are values per image; all under one ruler.
    """
    lineages = {seed: report.get("lineage") or {} for seed, report in reports.items()}
    digests = {lineage.get("data_digest") for lineage in lineages.values()}
    shared = set.intersection(*(set(report["metrics"]) for report in reports.values()))
    measured = {metric: _measured(metric, reports) for metric in sorted(shared)}
    return SeedVariance(
        name=name,
        recipe_sha256=recipe,
        ruler_sha256=ruler_hash(next(iter(reports.values()))),
        data_digest=digests.pop() if len(digests) == 1 else None,
        weights_sha256={
            seed: str(lineage.get("weights_sha256", "")) for seed, lineage in lineages.items()
        },
        metrics={name: metric for name, metric in measured.items() if metric.spread.is_relative},
    )


def merge_seed_variance(new: SeedVariance, former: SeedVariance | None) -> SeedVariance:
    """The new seeds with those measured before, where recipe, ruler and data are the same.

    The error of the evaluation is the smaller of both: the less is removed, the larger the spread.
    """
    if former is None or _conditions(former) != _conditions(new):
        return new
    metrics = {
        name: MetricValues(
            dict(sorted((former.metrics[name].values | metric.values).items())),
            min(former.metrics[name].evaluation_error, metric.evaluation_error),
        )
        for name, metric in new.metrics.items()
        if name in former.metrics
    }
    weights = dict(sorted((former.weights_sha256 | new.weights_sha256).items()))
    return replace(new, weights_sha256=weights, metrics=metrics)


def _conditions(found: SeedVariance) -> tuple[str, str, str | None]:
    return found.recipe_sha256, found.ruler_sha256, found.data_digest


def _measured(metric: str, reports: Mapping[int, Mapping[str, Any]]) -> MetricValues:
    """Values by seed; the error of the evaluation is 0 (an upper bound) where it is not known."""
    gains = [gain_of(metric, *pair) for pair in combinations(reports.values(), 2)]
    is_known = all(gain.is_paired for gain in gains)
    variance = sum(gain.std_error**2 for gain in gains) / len(gains) / 2 if is_known else 0.0
    values = {seed: float(report["metrics"][metric]["value"]) for seed, report in reports.items()}
    return MetricValues(values, math.sqrt(variance))


def spreads_for(
    found: SeedVariance | None, recipe: str, data_digest: str | None, ruler: str
) -> SeedSpreads | None:
    """The spreads to judge a candidate by, with a note when they were measured on another recipe.

    A spread of zero, and spreads of seeds of which two have the same weights, are not known.

    Args:
        found: What seed_variance.json holds; None when it is missing.
        recipe: `recipe_sha256` of the candidate.
        data_digest: Of the data that the candidate was trained on.
        ruler: `ruler_hash` of the candidate's report.
    """
    if found is None:
        return None
    reasons = {name: _why_unknown(found, name) for name in found.metrics}
    return SeedSpreads(
        {name: metric.spread for name, metric in found.metrics.items() if not reasons[name]},
        _note(found, recipe, data_digest, ruler),
        {name: reason for name, reason in reasons.items() if reason},
    )


def _note(found: SeedVariance, recipe: str, data_digest: str | None, ruler: str) -> str:
    """How the seeds differ from a candidate; empty when they do not."""
    other = [
        what
        for what, differs in (
            ("on another recipe", found.recipe_sha256 != recipe),
            ("on other data", found.data_digest != data_digest),
            ("under another ruler", found.ruler_sha256 != ruler),
        )
        if differs
    ]
    return f"measured {' and '.join(other)} ('{found.name}')" if other else ""


def _why_unknown(found: SeedVariance, metric: str) -> str | None:
    """Why the values of a metric do not show how far seeds differ; None when they do.

    Trainings by different seeds give different weights and different values. A share that counts
    images may be 0 for all seeds: its error by images is above 0 (`paired_error`), and counts.
    """
    seeds_of: dict[str, list[int]] = {}
    for seed, sha256 in found.weights_sha256.items():
        seeds_of.setdefault(sha256, []).append(seed)
    for seeds in seeds_of.values():
        if len(seeds) > 1:
            return f"seeds {seeds[0]} and {seeds[1]} of '{found.name}' have the same weights"
    values = set(found.metrics[metric].values.values())
    is_empty_share = values == {0.0} and metric.startswith(COUNTS_OF_IMAGES)
    if len(values) == 1 and not is_empty_share:
        return f"all seeds of '{found.name}' have the same {metric}"
    return None


def read_seed_variance(root: Path) -> SeedVariance | None:
    """What seed_variance.json holds; None when there is no such file.

    Raises:
        DataError: When the file is not what `vivero seeds` writes.
    """
    path = root / SEED_VARIANCE
    if not path.exists():
        return None
    try:
        return _parsed(path)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{SEED_VARIANCE} is not what `vivero seeds` writes ({_first_line(error)}); restore it "
            f"with `git checkout {SEED_VARIANCE}`, or measure again: {MEASURE_SEEDS}"
        ) from error


def _parsed(path: Path) -> SeedVariance:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES} bytes")
    text = path.read_text(encoding="utf-8")
    found = TypeAdapter(SeedVariance).validate_json(text)
    if json.loads(text) != found.as_json():
        raise ValueError("its values and what is derived from them disagree")
    return found


def write_seed_variance(root: Path, measured: SeedVariance) -> Path:
    """Write seed_variance.json; returns its path."""
    path = root / SEED_VARIANCE
    write_json(path, measured.as_json())
    return path


def _as_row(metric: MetricValues) -> dict[str, Any]:
    spread = metric.spread
    return {
        "mean": _rounded(spread.mean),
        "relative_std": _rounded(spread.relative_std),
        "observed_relative_std": _rounded(spread.observed_relative_std),
        "degrees_of_freedom": spread.degrees_of_freedom,
        "evaluation_error": metric.evaluation_error,
        "values": {str(seed): value for seed, value in metric.values.items()},
    }


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
