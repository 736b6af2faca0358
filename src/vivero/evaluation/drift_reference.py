"""What later data is compared with, in one file: features, labels and pictures of real images."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vivero.errors import DataError
from vivero.files import write_whole

MAX_REFERENCE_IMAGES = 2000
NUM_TYPICAL = 12


@dataclass(frozen=True)
class DriftReference:
    """Real images' features that later data is compared with.

    Attributes:
        features: Shape (N, D), float32.
        extractor_sha256: Hash of the weights that made them.
        data_digest: Of the data they come from.
        labels: Shape (N,), int64; None where the images have no classes.
        class_names: By label.
        typical: A few of the images, uint8, (n, C, H, W), for a person to look at; None in
            references of before.
    """

    features: Tensor
    extractor_sha256: str
    data_digest: str
    labels: Tensor | None = None
    class_names: tuple[str, ...] = field(default=())
    typical: Tensor | None = None

    def label_counts(self) -> np.ndarray | None:
        """Images of each class; None without classes."""
        if self.labels is None or not self.class_names:
            return None
        known = self.labels[self.labels >= 0]
        return torch.bincount(known, minlength=len(self.class_names)).numpy()


def save_drift_reference(path: Path, reference: DriftReference) -> None:
    """Write the reference as safetensors, whole or not at all."""
    tensors = {"features": reference.features[:MAX_REFERENCE_IMAGES].contiguous().float()}
    if reference.labels is not None:
        tensors["labels"] = reference.labels[:MAX_REFERENCE_IMAGES].contiguous()
    if reference.typical is not None:
        tensors["typical"] = reference.typical[:NUM_TYPICAL].contiguous()
    facts = {
        "extractor_sha256": reference.extractor_sha256,
        "data_digest": reference.data_digest,
        "class_names": list(reference.class_names),
    }
    # safetensors writes its metadata in no fixed order, so one entry holds all: equal bytes
    metadata = {"facts": json.dumps(facts)}
    with write_whole(path) as part_path:
        part_path.write_bytes(save(tensors, metadata=metadata))


def load_drift_reference(path: Path) -> DriftReference:
    """Read a reference.

    Raises:
        DataError: When the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return DriftReference(
                features=tensors["features"],
                extractor_sha256=facts["extractor_sha256"],
                data_digest=facts["data_digest"],
                labels=tensors.get("labels"),
                class_names=tuple(facts.get("class_names", ())),
                typical=tensors.get("typical"),
            )
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} is no readable drift reference ({error}); make it again with "
            f"`dvc repro -f compute_reference`"
        ) from error
