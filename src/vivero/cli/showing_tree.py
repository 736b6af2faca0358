"""What `vivero show-tree` does: measure a trained tree, draw it, and keep the figures."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, project_dir
from vivero.data.prepared import open_split, read_card
from vivero.data.shards import Split
from vivero.diffusion.tree_denoiser import TreeDenoiser
from vivero.errors import BundleError
from vivero.evaluation.denoising import (
    LEAST_SIGMA,
    MOST_SIGMA,
    NoiseBank,
    held_out_bank,
    noise_levels,
)
from vivero.evaluation.tree_anatomy import (
    HIGH_SHARE,
    LOW_SHARE,
    BandFigures,
    BranchFigures,
    FusionFigures,
    HandoverFigures,
    Sampling,
    band_figures,
    branch_figures,
    descent,
    fusion_figures,
    handover_figures,
    noisy_view,
    relative_sampling_cost,
    training_sigmas,
)
from vivero.evaluation.tree_pictures import (
    draw_bands,
    draw_branches,
    draw_denoising,
    draw_descent,
    draw_fusion,
)
from vivero.files import write_json
from vivero.registry.bundle import Bundle, load_bundle
from vivero.registry.versions import resolve_model

REPORT = "tree.json"
BANDS, BRANCHES, FUSION = "bands.png", "branches.png", "fusion.png"
DENOISING, DESCENT = "denoising.png", "descent.png"
SPLIT: Split = "test"
NUM_APART, NUM_MADE = 2, 3  # images taken apart, and images made
NUM_FUSION_SIGMAS = 12
SHOWN_SIGMAS = (0.05, 0.15, 0.5, 1.5, 5.0, 15.0)


@dataclass(frozen=True)
class Subject:
    """A tree and all that it is shown with.

    Attributes:
        name: As it was named.
        bundle: The model.
        tree: Its denoiser.
        bank: Held-out images.
        sampling: How images are made.
    """

    name: str
    bundle: Bundle
    tree: TreeDenoiser
    bank: NoiseBank
    sampling: Sampling


@dataclass(frozen=True)
class Figures:
    """All that was measured."""

    bands: list[BandFigures]
    branches: list[BranchFigures]
    handovers: list[HandoverFigures]
    fusion: list[FusionFigures]


def show_tree(model: str, num_images: int, seed: int, out_dir: Path) -> None:
    """Write the pictures of a tree and out_dir/tree.json.

    Args:
        model: A registry address or a bundle folder.
        num_images: Held-out images that bands and fusion are measured on.
        seed: Of the noise.
        out_dir: Folder to write to.

    Raises:
        BundleError: When there is no such model, it is no tree, or the prepared images are not of
            its shape.
    """
    subject = _subject(model, num_images, seed)
    tree, bank, sampling = subject.tree, subject.bank, subject.sampling
    total = NUM_FUSION_SIGMAS + 5
    with tqdm(total=total, desc="show-tree", unit="part", disable=None) as bar:
        bands = band_figures(bank.clean, tree.scheduler.num_levels)
        draw_bands(bank.clean[:NUM_APART], bands, out_dir / BANDS)
        bar.update()
        branches = branch_figures(tree, sampling, subject.bundle.image_shape)
        drawn = training_sigmas(tree.scheduler)
        draw_branches(branches, drawn, sampling.sigmas, out_dir / BRANCHES)
        bar.update()
        fusion = _fusion(subject, bar.update, out_dir)
        handovers = handover_figures(tree, bank)
        bar.update()
        shown = replace(bank, sigmas=torch.tensor(SHOWN_SIGMAS))
        views = [noisy_view(tree, shown, 0, level) for level in range(len(SHOWN_SIGMAS))]
        draw_denoising(bank.clean[0], views, out_dir / DENOISING)
        bar.update()
        way = descent(tree, sampling, subject.bundle.image_shape)
        draw_descent(way, _names(subject), out_dir / DESCENT)
        bar.update()
    figures = Figures(bands, branches, handovers, fusion)
    write_json(out_dir / REPORT, _as_json(subject, figures))
    _print(figures, out_dir)


def _subject(model: str, num_images: int, seed: int) -> Subject:
    root = project_dir()
    settings = load_config(root / PARAMS).evaluate
    bundle = load_bundle(resolve_model(model, root))
    tree = bundle.denoiser
    if not isinstance(tree, TreeDenoiser):
        raise BundleError(
            f"{model} is no tree but a {bundle.config.model.name}, which has no branches to show; "
            f"name a model trained with train.model.name: tree, or look at this one with "
            f"`vivero sample`"
        )
    images_dir = artifacts_dir(root, "prepare_data") / "images"
    card = read_card(images_dir)
    prepared = (card.num_channels, card.image_size_px, card.image_size_px)
    if bundle.image_shape != prepared:
        raise BundleError(
            f"{model} makes images of shape (C, H, W) {bundle.image_shape}, the prepared ones have "
            f"{prepared}; run this in the clone where its images are prepared"
        )
    bank_settings = settings.model_copy(update={"num_denoising_images": num_images, "seed": seed})
    bank = held_out_bank(open_split(images_dir, SPLIT), bank_settings, tree.null_label)
    defaults = bundle.sampling
    low, high = defaults.guidance_interval
    num_classes = len(bundle.class_names)
    sampling = Sampling(
        sigmas=bundle.schedule.sampling_sigmas(defaults.num_steps),
        guidance=defaults.guidance,
        guidance_interval=(low, high),
        labels=torch.arange(NUM_MADE) % num_classes
        if num_classes
        else torch.zeros(NUM_MADE).long(),
        seed=seed,
    )
    return Subject(model, bundle, tree, bank, sampling)


def _fusion(subject: Subject, advance: Callable[[], object], out_dir: Path) -> list[FusionFigures]:
    """Measure and draw the mixture over the noise at which there is one."""
    thresholds = subject.tree.scheduler.thresholds
    most = min(thresholds[-1], MOST_SIGMA) if thresholds else MOST_SIGMA
    sigmas = noise_levels(NUM_FUSION_SIGMAS, LEAST_SIGMA, max(most, 2 * LEAST_SIGMA))
    figures = fusion_figures(subject.tree, replace(subject.bank, sigmas=sigmas), advance)
    if figures:
        draw_fusion(figures, len(subject.bank.clean), out_dir / FUSION)
    return figures


def _names(subject: Subject) -> list[str]:
    labels = subject.sampling.labels.tolist()
    names = subject.bundle.class_names
    return [names[label] for label in labels] if names else [f"image {k}" for k in range(NUM_MADE)]


def _as_json(subject: Subject, figures: Figures) -> dict[str, Any]:
    scheduler, sampling = subject.tree.scheduler, subject.sampling
    return {
        "model": subject.name,
        "weights_sha256": subject.bundle.weights_sha256,
        "split": SPLIT,
        "n": len(subject.bank.clean),
        "seed": subject.bank.seed,
        "threshold": scheduler.threshold,
        "thresholds": [_or_none(sigma) for sigma in scheduler.thresholds],
        "band_std_of_training": list(subject.tree.bands.detail_std),
        "bands": [asdict(band) for band in figures.bands],
        "sampling": {
            "num_steps": len(sampling.sigmas) - 1,
            "guidance": sampling.guidance,
            "guidance_interval": list(sampling.guidance_interval),
            "relative_cost": relative_sampling_cost(figures.branches),
        },
        "branches": [_branch_row(branch, figures.branches[0]) for branch in figures.branches],
        "handovers": [asdict(handover) for handover in figures.handovers],
        "fusion": {
            "range_of_weights": [LOW_SHARE, HIGH_SHARE],
            "levels": [asdict(found) for found in figures.fusion],
        },
    }


def _branch_row(branch: BranchFigures, finest: BranchFigures) -> dict[str, Any]:
    return {
        **asdict(branch),
        "above_sigma": _or_none(branch.above_sigma),
        "up_to_sigma": _or_none(branch.up_to_sigma),
        "relative_macs": branch.macs / finest.macs,
        "relative_time": branch.ms_per_image / finest.ms_per_image,
    }


def _or_none(value: float) -> float | None:
    """JSON knows no infinity."""
    return None if math.isinf(value) else value


def _print(figures: Figures, out_dir: Path) -> None:
    cost = relative_sampling_cost(figures.branches)
    steps = " + ".join(str(branch.num_steps) for branch in figures.branches)
    lines = [
        f"{len(figures.branches)} branches; {steps} steps, finest first, "
        f"cost {cost:.0%} of as many on the finest",
        f"Pictures and {REPORT} in {out_dir}",
    ]
    if not figures.fusion:
        lines.insert(1, f"Its branches are not mixed (is_fused: false), so there is no {FUSION}")
    for line in lines:
        tqdm.write(line)
