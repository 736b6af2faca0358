"""What `vivero simulate-drift` does: alarms by kind and size of a change, cell by cell, kept."""

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vivero.code_digest import module_closure_digest
from vivero.config.environment import extractor_weights_dir
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, project_dir, work_dir
from vivero.config.schema import CheckDriftConfig, Config
from vivero.data.prepared import PreparedSplit, open_split, read_card
from vivero.evaluation.cores import spread_over_cores
from vivero.evaluation.drift_shifts import NO_SHIFT, SHIFTS, Shift, changed_pixels, changes_pixels
from vivero.evaluation.drift_shifts import digits as foreign_digits
from vivero.evaluation.drift_simulation import (
    BATCH_SIZES,
    CellResult,
    Pool,
    Pools,
    missed,
    reduced,
    summarised,
    trial,
)
from vivero.evaluation.drift_simulation_plot import plot_power, power_table
from vivero.evaluation.extractors import build_extractor
from vivero.evaluation.features import cached_features
from vivero.files import sha256_of_json, write_json, write_text
from vivero.integrity.caches import read_record, write_record

MAX_SHIFTED_IMAGES = 2000
NUM_DIRECTIONS = 256
NUM_PERMUTATIONS = 199  # a permutation test is exact with any number; fewer are quicker
CODE = ("vivero.evaluation.drift_simulation", "vivero.evaluation.drift_shifts")


@dataclass(frozen=True)
class Plan:
    """What is simulated: batches without a change, and with each change, at each size."""

    num_null_trials: int
    num_power_trials: int
    sizes: tuple[int, ...]

    def cells(self) -> list[tuple[Shift, int, int]]:
        """Shift, size and trials of each cell, those without a change first."""
        null = [(NO_SHIFT, size, self.num_null_trials) for size in self.sizes]
        return null + [
            (shift, size, self.num_power_trials) for shift in SHIFTS for size in self.sizes
        ]


def simulate_drift(num_null_trials: int, num_power_trials: int) -> int:
    """Make all cells that are not there yet; write table, plot and JSON; print the verdict.

    Returns:
        0, or 1 when false alarms exceed the level beyond chance.
    """
    root = project_dir()
    config = load_config(root / PARAMS)
    folder = work_dir(root) / "simulate_drift"
    pools, settings = read_pools(config, root)
    sizes = tuple(size for size in BATCH_SIZES if size <= len(pools.held_out.labels) // 2)
    plan = Plan(num_null_trials, num_power_trials, sizes)
    pools, held_share = reduced(pools, NUM_DIRECTIONS)
    sys.stdout.write(f"{NUM_DIRECTIONS} directions hold {held_share:.1%} of the variance\n")
    tests = config.check_drift.model_copy(update={"num_permutations": NUM_PERMUTATIONS})
    results = run_cells(plan, pools, tests, folder / "cells", settings)
    return report(results, tests, folder)


def run_cells(
    plan: Plan, pools: Pools, config: CheckDriftConfig, cells_dir: Path, settings: dict[str, Any]
) -> list[CellResult]:
    """All cells of a plan, read back where they were finished under the same settings."""
    cells = plan.cells()
    results = []
    with tqdm(total=sum(n for *_, n in cells), desc="drift trials", disable=None) as bar:
        for shift, size, num_trials in cells:
            cell_settings = {**settings, "shift": shift.name, "size": size, "trials": num_trials}
            key = sha256_of_json(cell_settings)
            title = shift.name.replace(" ", "-").replace(",", "")
            path = cells_dir / f"{title}-{size}-{key[:12]}.json"
            bar.set_postfix_str(f"{shift.name}, {size} images", refresh=False)
            finished = read_record(path, key)
            if finished is not None:
                results.append(CellResult(**finished))
                bar.update(num_trials)
                continue
            one = partial(_trial, pools, shift, size, config)
            reports = _counted(spread_over_cores(one, range(num_trials)), bar)
            results.append(summarised(shift, size, reports))
            write_record(path, key, asdict(results[-1]))
    return results


def _trial(pools: Pools, shift: Shift, size: int, config: CheckDriftConfig, index: int) -> Any:
    return trial(pools, shift, size, index, config)


def _counted(reports: Iterable[Any], bar: "tqdm[Any]") -> Iterable[Any]:
    for made in reports:
        bar.update()
        yield made


def report(results: list[CellResult], config: CheckDriftConfig, folder: Path) -> int:
    """Write drift.json, drift.png and table.md; print the table and the verdict."""
    nulls = [result for result in results if result.family == "none"]
    misses = [result for result in nulls if missed(result, config.level, len(nulls))]
    table = power_table(results)
    plot_power(results, config.level, folder / "drift.png")
    write_text(folder / "table.md", table)
    write_json(
        folder / "drift.json",
        {
            "level": config.level,
            "is_level_kept": not misses,
            "cells": [
                {**asdict(result), "rate_low": result.rate.low, "rate_high": result.rate.high}
                for result in results
            ],
        },
    )
    sys.stdout.write(table + "\n")
    for result in nulls:
        sys.stdout.write(
            f"{result.batch_images} images without a change: {result.num_alarms} alarms in "
            f"{result.num_trials} trials ({result.num_significant} with a corrected p below "
            f"{config.level:g})\n"
        )
    verdict = (
        f"the false-alarm rate of {config.level:.0%} is kept at every size"
        if not misses
        else f"MORE false alarms than {config.level:.0%} explains with "
        f"{', '.join(str(result.batch_images) for result in misses)} images"
    )
    sys.stdout.write(f"{verdict}; table, plot and figures: {folder}\n")
    return 1 if misses else 0


def read_pools(config: Config, root: Path) -> tuple[Pools, dict[str, Any]]:
    """Features of real images, of the same ones after each change, and of foreign ones.

    Returns:
        The pools, and all that decides the result besides shift, size and trials.
    """
    settings = config.compute_reference
    images_dir = artifacts_dir(root, "prepare_data") / "images"
    card = read_card(images_dir)
    extractor = build_extractor(
        settings.extractor,
        settings.extractor_size_px,
        extractor_weights_dir(root),
        settings.extractor_sha256,
    )

    def pool(images: np.ndarray, labels: np.ndarray, subject: str) -> Pool:
        made = cached_features(
            extractor, images, settings.batch_images, work_dir(root) / "features", subject
        )
        return Pool(made.features, np.asarray(labels))

    train = _first(open_split(images_dir, "train"), settings.num_images)
    held_out = _first(open_split(images_dir, "test"), settings.num_images)
    some_images, some_labels = (part[:MAX_SHIFTED_IMAGES] for part in held_out)
    rng = np.random.default_rng(config.check_drift.seed)
    shifted = {
        shift.name: pool(changed_pixels(some_images, shift, rng), some_labels, shift.name)
        for shift in SHIFTS
        if changes_pixels(shift)
    }
    foreign = foreign_digits(card.image_size_px, card.num_channels)
    pools = Pools(
        reference=pool(*train, "training images"),
        held_out=pool(*held_out, "test images"),
        shifted=shifted,
        foreign=pool(foreign, np.zeros(len(foreign)), "digits").features,
        num_classes=len(card.class_names),
    )
    facts = {
        "code": module_closure_digest(CODE, ["vivero.config", "vivero.errors"]),
        "check_drift": config.check_drift.model_dump(),
        "extractor_sha256": extractor.weights_sha256,
        "size_px": extractor.size_px,
        "data_digest": card.source_digest,
    }
    return pools, facts


def _first(split: PreparedSplit, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images, which are a random choice: rows are in the order of a hash."""
    return np.asarray(split.images[:num_images]), split.labels[:num_images]
