"""What each image adds to a figure: kept with a report, so that two models compare image by image.

Image k of two models comes from the same noise and label, so what is hard in it is hard for both
and drops out of the difference of their figures. A mean's values are what it is the mean of; a
Frechet distance's are its influences, of the samples and (`#reference`) of the reference's images.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vivero.errors import DataError
from vivero.files import write_whole

PER_IMAGE_NAME = "per_image.safetensors"
OF_REFERENCE = "#reference"  # after the name of a distance
RECORD = "vivero"  # one entry of metadata: several would come in any order

PerImage = Mapping[str, np.ndarray]


def save_per_image(values: PerImage, protocol_hash: str, weights_sha256: str, path: Path) -> None:
    """Write the values of each figure; equal values give equal bytes.

    Args:
        values: By the name of the figure, shape (N,): shares as bool, others as floats.
        protocol_hash: Of the report that they belong to.
        weights_sha256: Of the model that was judged.
        path: File to write.
    """
    record = json.dumps({"protocol": protocol_hash, "weights_sha256": weights_sha256})
    stored = {
        name: np.ascontiguousarray(row, dtype=np.bool_ if row.dtype == np.bool_ else np.float32)
        for name, row in values.items()
    }
    with write_whole(path) as part_path:
        part_path.write_bytes(save(stored, metadata={RECORD: record}))


def load_per_image(path: Path, protocol_hash: str, weights_sha256: str) -> dict[str, np.ndarray]:
    """Read what save_per_image wrote.

    Returns:
        The values by figure; none when the file is of another protocol or another model.

    Raises:
        DataError: When the file is damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            record = json.loads((file.metadata() or {})[RECORD])
            if record != {"protocol": protocol_hash, "weights_sha256": weights_sha256}:
                return {}
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"the values per image in {path} cannot be read ({error}); they belong to a report: "
            f"make it again with `dvc repro -f evaluate`, or delete the model's local copy"
        ) from error
