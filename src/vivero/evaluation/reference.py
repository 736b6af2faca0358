"""What `compute_reference` makes and every judgement needs: the real images, as features.

Shapes: M reference images (of the training split), H held-out images (of the test split), D
features, K logits.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vivero.data.prepared import images_path, labels_path
from vivero.data.shards import Split
from vivero.errors import DataError
from vivero.evaluation.frechet import Moments, moments
from vivero.files import read_json, sha256_of_file, sha256_of_json, write_json, write_whole

FEATURES_NAME, FACTS_NAME = "features.safetensors", "reference.json"
SPLITS: tuple[Split, ...] = ("train", "test")  # that metrics use
CLASSIFIER_NAME, DRIFT_NAME = "classifier.safetensors", "drift.safetensors"


@dataclass(frozen=True)
class ReferenceFacts:
    """What the features are; part of every metric's protocol.

    Attributes:
        extractor: Name.
        extractor_sha256: Hash of its weights.
        classifier: What its logits say; None where it has none.
        size_px: Side that images are resized to.
        resize: How, in words.
        num_reference: M.
        num_held_out: H.
        data_digest: Hash of the raw data.
        splits_sha256: `sha256_of_splits` of the prepared images.
        seed: Of the small classifier.
        real_accuracy: Of the small classifier on real test images; None without labels.
        classifier_sha256: Hash of the small classifier's weights; None without labels.
        class_names: Of the data, by index; empty without classes.
        image_std: Standard deviation of all values of the training images in [-1, 1]: the one
            constant that weighs every model's denoising loss.
    """

    extractor: str
    extractor_sha256: str
    classifier: str | None
    size_px: int
    resize: str
    num_reference: int
    num_held_out: int
    data_digest: str
    splits_sha256: str
    seed: int
    real_accuracy: float | None
    classifier_sha256: str | None
    class_names: list[str]
    image_std: float


@dataclass(frozen=True)
class Reference:
    """The real side of every comparison.

    Attributes:
        facts: What it is.
        features: Shape (M, D), float32; row i is row i of the training split.
        held_out: Shape (H, D), float32; row i is row i of the test split.
        held_out_logits: Shape (H, K), float32; None where the extractor has none.
        moments: Of features.
        mean_kernel: Mean kernel over pairs of features.
    """

    facts: ReferenceFacts
    features: Tensor
    held_out: Tensor
    held_out_logits: Tensor | None
    moments: Moments
    mean_kernel: float

    @property
    def sha256(self) -> str:
        """Hash of what the features were made from, and of all else that models are judged by.

        All training and test images and labels are part of it: copies are looked for among all
        training images, and label agreement and the classification accuracy score use the labels.
        Not of the features' bytes, whose last digits depend on the kind of processor.
        """
        facts = self.facts
        made_from = (facts.extractor_sha256, facts.resize, facts.num_reference, facts.num_held_out)
        judged_by = (facts.classifier_sha256, facts.class_names, facts.image_std)
        return sha256_of_json([*made_from, facts.splits_sha256, *judged_by])


def sha256_of_splits(images_dir: Path) -> str:
    """One hash of all prepared images and labels that metrics use, from the bytes of the files.

    Raises:
        DataError: When a file is missing or cannot be read.
    """
    paths = [path(images_dir, split) for split in SPLITS for path in (images_path, labels_path)]
    try:
        return sha256_of_json({path.name: sha256_of_file(path) for path in paths})
    except OSError as error:
        raise DataError(
            f"the prepared images in {images_dir} cannot be read ({error}); run "
            f"`dvc repro prepare_data`"
        ) from error


def save_reference(
    folder: Path,
    facts: ReferenceFacts,
    features: Tensor,
    held_out: tuple[Tensor, Tensor | None],
    mean_kernel: float,
) -> None:
    """Write features, moments and facts; held_out is features and logits."""
    own = moments(features)
    tensors = {
        "features": features,
        "held_out": held_out[0],
        "mean": own.mean,
        "covariance": own.covariance,
        "mean_kernel": torch.tensor([mean_kernel], dtype=torch.float64),
    }
    if held_out[1] is not None:
        tensors["held_out_logits"] = held_out[1]
    with write_whole(folder / FEATURES_NAME) as part_path:
        part_path.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    write_json(folder / FACTS_NAME, asdict(facts))


def load_reference(folder: Path) -> Reference:
    """Read what save_reference wrote.

    Raises:
        DataError: When a file is missing or damaged.
    """
    path = folder / FEATURES_NAME
    try:
        tensors = load(path.read_bytes())
        return Reference(
            facts=ReferenceFacts(**read_json(folder / FACTS_NAME)),
            features=tensors["features"],
            held_out=tensors["held_out"],
            held_out_logits=tensors.get("held_out_logits"),
            moments=Moments(tensors["mean"], tensors["covariance"]),
            mean_kernel=float(tensors["mean_kernel"]),
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the reference in {folder} cannot be read ({error}); make it again with "
            f"`dvc repro -f compute_reference`"
        ) from error
