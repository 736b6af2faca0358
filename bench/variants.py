"""The variants of the ablation plan, as changes of params.yaml, and the order they are trained in.

A0 is the plain control: the tree's own network without routing, fusion or any loss but the finest
branch's. A3 is the tree proper; what follows differs from it in one thing each. U0 is the U-Net
that was the default before there were trees. A4 is A3's weights with a hand-over that forgets what
was foreseen of the details. Pure: no files, no training.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vivero.config.schema import Config, TrainConfig

Changes = Mapping[str, Any]  # dotted name below train. to its value

DATASETS = ("fashion_mnist", "colour")
TREE, PLAIN = "A3", "A0"
NO_TREE_LOSSES: Changes = {
    f"loss.{name}_weight": 0.0
    for name in ("coarse", "consistency", "handover", "detail", "perceptual")
}
A0: Changes = {
    "model.name": "tree",
    "model.patch_px": 2,
    "model.attention_heads": 4,
    "model.tree.threshold": None,
    "model.tree.is_fused": False,
    "model.tree.normalisation": "none",
    "model.tree.channel_attention": "none",
    "model.tree.downsampling": "blur",
    "model.tree.has_cross_attention": False,
    "model.tree.fine_crop_share": 1.0,
    **NO_TREE_LOSSES,
}
A1: Changes = {**A0, "loss.coarse_weight": 0.25}
A2: Changes = {**A1, "model.tree.is_fused": True, "loss.consistency_weight": 0.1}
A3: Changes = {**A2, "model.tree.threshold": 4.0, "loss.detail_weight": 0.25}
PERCEPTUAL: Changes = {"loss.perceptual_weight": 0.1}


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        what: In words.
        changes: Of the block train.
        weights_of: The variant whose weights it takes instead of training; None when it trains.
    """

    what: str
    changes: Changes
    weights_of: str | None = None


VARIANTS: dict[str, Variant] = {
    "U0": Variant(
        "the U-Net of before, GroupNorm",
        {
            "model.name": "unet",
            "model.channels": [64, 128],
            "model.patch_px": 2,
            "model.attention_heads": 4,
            "learning_rate": 4e-3,
        },
    ),
    "A0": Variant("plain control: no routing, one loss", A0),
    "A1": Variant("A0 + losses of the coarser branches", A1),
    "A2": Variant("A1 + fusion and consistency", A2),
    "A3": Variant("A2 + routing at kappa 4 and detail head: the tree", A3),
    "A3-1.5": Variant("A3 at kappa 1.5", {**A3, "model.tree.threshold": 1.5}),
    "A3-2": Variant("A3 at kappa 2", {**A3, "model.tree.threshold": 2.0}),
    "A3-3": Variant("A3 at kappa 3", {**A3, "model.tree.threshold": 3.0}),
    "A3-6": Variant("A3 at kappa 6", {**A3, "model.tree.threshold": 6.0}),
    "A4": Variant("A3's weights, naive hand-over", A3, weights_of="A3"),
    "A5": Variant("A3 + hand-over consistency", {**A3, "loss.handover_weight": 0.25}),
    "A6": Variant("A3 + half crops of the finest", {**A3, "model.tree.fine_crop_share": 0.5}),
    "A7a": Variant(
        "A3 without any attention",
        {**A3, "model.attention_heads": 0},
    ),
    "A7e": Variant("A3 + cross-attention", {**A3, "model.tree.has_cross_attention": True}),
    "A7b": Variant(
        "A3 + squeeze-and-excite", {**A3, "model.tree.channel_attention": "squeeze_excite"}
    ),
    "A7c": Variant("A3 with GroupNorm", {**A3, "model.tree.normalisation": "group"}),
    "A7d": Variant("A3 with strided convolutions", {**A3, "model.tree.downsampling": "strided"}),
    "A8a": Variant(
        "A3 + perceptual loss below sigma 0.3",
        {**A3, **PERCEPTUAL, "loss.perceptual_max_sigma": 0.3},
    ),
    "A8b": Variant(
        "A3 + perceptual loss at all noise",
        {**A3, **PERCEPTUAL, "loss.perceptual_max_sigma": 1e9},
    ),
}
# What the choice needs comes first, seed by seed; then one variant after the other.
FIRST = ("A0", "A3", "U0")
THEN = (
    *("A2", "A1", "A5", "A4", "A7a", "A7b", "A7c", "A7d", "A7e", "A6"),
    *("A3-2", "A3-3", "A3-6", "A3-1.5", "A8a", "A8b"),
)


@dataclass(frozen=True)
class Run:
    """One training, or one judgement of another one's weights.

    Attributes:
        dataset: One of DATASETS.
        variant: A key of VARIANTS; for a trial with a change behind it, "A3+learning_rate=1e-3".
        seed: Of weights, order and noise.
        seconds: How long it trains, in seconds of one core.
        num_samples: How many images it makes.
    """

    dataset: str
    variant: str
    seed: int
    seconds: float
    num_samples: int

    @property
    def weights_from(self) -> "Run | None":
        """The run whose weights this one takes."""
        source = variant_of(self.variant).weights_of
        if source is None:
            return None
        return Run(self.dataset, source, self.seed, self.seconds, self.num_samples)


def variant_of(name: str) -> Variant:
    """The variant of a name; "A3+learning_rate=1e-3" is A3 with one thing changed.

    Raises:
        ValueError: When there is none.
    """
    known, *further = name.split("+")
    if known not in VARIANTS:
        raise ValueError(f"there is no variant '{known}'; known are {', '.join(VARIANTS)}")
    variant = VARIANTS[known]
    if not further:
        return variant
    changes = dict(variant.changes)
    for text in further:
        key, _, value = text.partition("=")
        try:
            changes[key] = json.loads(value)
        except ValueError:
            changes[key] = value
    return Variant(f"{known} with {', '.join(further)}", changes, variant.weights_of)


def train_config_of(run: Run, config: Config) -> TrainConfig:
    """The settings of a run: the repository's with the variant's changes.

    Raises:
        ValueError: When they do not go together, or name what is not there.
    """
    block = config.train.model_dump()
    changes = {
        **variant_of(run.variant).changes,
        "seed": run.seed,
        "initial_model": None,
        "num_processes": 1,
        "num_micro_batches": 1,
        "sharding": "none",
        "compile": False,
        "early_stopping_images": 0,
    }
    for name, value in changes.items():
        *parents, last = name.split(".")
        place = block
        for parent in parents:
            place = place[parent]
        if last not in place:
            raise ValueError(f"train.{name} is no setting")
        place[last] = value
    return TrainConfig.model_validate(block)


def runs_in_order(
    datasets: Sequence[str],
    variants: Sequence[str] | None,
    seeds: Sequence[int],
    seconds: float,
    num_samples: int,
) -> Iterator[Run]:
    """All runs, in the order of their worth; variants = None for all of the plan."""
    first = [name for name in FIRST if variants is None or name in variants]
    chosen = variants if variants is not None else (*FIRST, *THEN)
    for seed in seeds:
        for dataset in datasets:
            for name in first:
                yield Run(dataset, name, seed, seconds, num_samples)
    for name in chosen:
        if name not in first:
            for seed in seeds:
                for dataset in datasets:
                    yield Run(dataset, name, seed, seconds, num_samples)
