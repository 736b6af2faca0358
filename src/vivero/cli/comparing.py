"""What `vivero compare` does: load two models, measure both, write and print who is better."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from vivero.cli.console import plain_console
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, project_dir
from vivero.data.prepared import image_std, open_split, read_card
from vivero.data.shards import Split
from vivero.diffusion.weights import loss_weight
from vivero.errors import BundleError, DataError
from vivero.evaluation.comparison import Better, Comparison, PairedDifference, compare_errors
from vivero.evaluation.comparison_plot import plot_comparison
from vivero.evaluation.denoising import NoiseBank, errors_by_noise_level, held_out_bank
from vivero.evaluation.intervals import CONFIDENCE
from vivero.files import write_json
from vivero.registry.bundle import Bundle, load_bundle
from vivero.registry.versions import resolve_model

REPORT, PLOT = "comparison.json", "comparison.png"
SPLIT: Split = "test"
LETTERS: dict[Better, str] = {"first": "A", "second": "B"}
Kind = tuple[tuple[int, int, int], list[str]]  # shape of an image, names of the classes


def compare_models(models: tuple[str, str], out_dir: Path) -> None:
    """Write out_dir/comparison.json and comparison.png, and print who is better.

    Args:
        models: Two registry addresses or bundle folders.
        out_dir: Folder to write to.

    Raises:
        BundleError: When the models do not make images of the same kind, or not of the kind that
            the prepared images are.
    """
    root = project_dir()
    settings = load_config(root / PARAMS).evaluate
    first, second = (load_bundle(resolve_model(model, root)) for model in models)
    images_dir = artifacts_dir(root, "prepare_data") / "images"
    card = read_card(images_dir)
    prepared = ((card.num_channels, card.image_size_px, card.image_size_px), card.class_names)
    _refuse_unlike(f"A ({models[0]})", _kind(first), f"B ({models[1]})", _kind(second))
    _refuse_unlike("the models", _kind(first), "the prepared images", prepared)
    bank = held_out_bank(open_split(images_dir, SPLIT), settings, first.denoiser.null_label)

    std = image_std(open_split(images_dir, "train").images)
    if not std:
        raise DataError("cannot compare: all training images have one and the same colour")

    comparison = compare_errors(*_paired_errors(first, second, bank, std))
    report = {"weight_sigma_data": std, **_report(models, (first, second), bank, comparison)}
    write_json(out_dir / REPORT, report)
    plot_comparison(bank.sigmas.tolist(), comparison, models, out_dir / PLOT)
    _print(models, bank, comparison, out_dir)


def _kind(bundle: Bundle) -> Kind:
    return bundle.image_shape, bundle.class_names


def _refuse_unlike(one: str, kind: Kind, other: str, other_kind: Kind) -> None:
    for what, ours, theirs in zip(("shape (C, H, W)", "classes"), kind, other_kind, strict=True):
        if ours != theirs:
            raise BundleError(
                f"cannot compare: images of {one} have {what} {ours}, those of {other} {theirs}; "
                f"compare models of one data set, in the clone where its images are prepared"
            )


def _paired_errors(
    first: Bundle, second: Bundle, bank: NoiseBank, std: float
) -> tuple[Tensor, Tensor]:
    """Errors of both models, each (S levels, N images), by EDM's weight for data of this std."""

    def weight(sigma: Tensor) -> Tensor:
        return loss_weight("edm", sigma, std)

    levels = zip(
        errors_by_noise_level(first.denoiser, weight, bank),
        errors_by_noise_level(second.denoiser, weight, bank),
        strict=True,
    )
    shown = tqdm(levels, total=len(bank.sigmas), desc="compare", unit="level", disable=None)
    one, two = zip(*shown, strict=True)
    return torch.stack(one), torch.stack(two)


def _report(
    models: tuple[str, str], bundles: tuple[Bundle, Bundle], bank: NoiseBank, found: Comparison
) -> dict[str, Any]:
    sigmas = bank.sigmas.tolist()
    return {
        "models": {
            letter: {"name": name, "weights_sha256": bundle.weights_sha256}
            for letter, name, bundle in zip("AB", models, bundles, strict=True)
        },
        "split": SPLIT,
        "n": len(bank.clean),
        "seed": bank.seed,
        "sigmas": sigmas,
        "weight": "edm",
        "confidence": CONFIDENCE,
        "correction_over_levels": "holm",
        "mean": _as_row(found.mean),
        "levels": [
            {"sigma": sigma, **_as_row(level)}
            for sigma, level in zip(sigmas, found.levels, strict=True)
        ],
    }


def _as_row(pair: PairedDifference) -> dict[str, Any]:
    return {
        "A": asdict(pair.first),
        "B": asdict(pair.second),
        "difference": asdict(pair.difference),
        "relative_difference": asdict(pair.relative),
        "p_value": pair.p_value,
        "better": pair.better and LETTERS[pair.better],
    }


def _print(models: tuple[str, str], bank: NoiseBank, found: Comparison, out_dir: Path) -> None:
    table = Table("sigma", "A", "B", "B against A", "95 % interval", "p", "better")
    table.title = f"Denoising loss on {len(bank.clean)} held-out images, the same noise for both"
    table.caption = "p at single levels is corrected for their number (Holm)"
    for column in table.columns[:-1]:
        column.justify = "right"
    for sigma, level in zip(bank.sigmas.tolist(), found.levels, strict=True):
        table.add_row(f"{sigma:.3g}", *_cells(level))
    table.add_section()
    table.add_row("mean", *_cells(found.mean), style="bold")
    console = plain_console()
    console.print(table)
    lines = [f"{letter} = {name}" for letter, name in zip("AB", models, strict=True)]
    lines += [_sentence(found), f"All numbers in {out_dir / REPORT}, picture in {out_dir / PLOT}"]
    console.print(*lines, sep="\n", highlight=False, markup=False, soft_wrap=True)


def _cells(pair: PairedDifference) -> tuple[str, ...]:
    relative = pair.relative
    return (
        f"{pair.first.value:.4g}",
        f"{pair.second.value:.4g}",
        f"{relative.value:+.2%}",
        f"{relative.low:+.2%} to {relative.high:+.2%}",
        "< 0.0001" if pair.p_value < 1e-4 else f"{pair.p_value:.4f}",
        LETTERS[pair.better] if pair.better else "-",
    )


def _sentence(found: Comparison) -> str:
    """Who is better, in words."""
    relative = found.mean.relative
    if found.mean.better is None:
        overall = (
            f"In the mean over levels neither is better beyond chance "
            f"({relative.low:+.2%} to {relative.high:+.2%})"
        )
    else:
        overall = (
            f"In the mean over levels {LETTERS[found.mean.better]} is better: the loss of B is "
            f"{abs(relative.value):.2%} {'below' if relative.value < 0 else 'above'} that of A"
        )
    won = {letter: [level.better for level in found.levels].count(who)
           for who, letter in LETTERS.items()}  # fmt: skip
    return (
        f"{overall}. Of {len(found.levels)} levels A is better at {won['A']}, B at {won['B']}, "
        f"undecided are {len(found.levels) - sum(won.values())}."
    )
