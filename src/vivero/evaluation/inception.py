"""clean-fid's Inception, the only extractor whose Frechet distance may be called FID."""

import shutil
import urllib.error
import urllib.request
from pathlib import Path

from torch import Tensor

from vivero.errors import ExtractorError
from vivero.evaluation.extractors import Extractor
from vivero.evaluation.torchvision_door import open_torchvision_door
from vivero.files import sha256_of_file, write_whole

FILE_NAME = "inception-2015-12-05.pt"
FOLDER_VARIABLE = "VIVERO_INCEPTION_DIR"
SIZE_PX = 299
NUM_FEATURES = 2048
CLASSIFIER = "inception-2015-12-05, 1,008 logits without bias"
DOWNLOAD_TIMEOUT_S = 60.0


def load_inception(weights_dir: Path) -> Extractor:
    """Inception as clean-fid runs it: 2,048 features; logits where the file has its last layer.

    Args:
        weights_dir: Folder of the TorchScript file; it is downloaded there when it is missing.

    Raises:
        ExtractorError: When there is no file and no network, or the file is not TorchScript.
    """
    weights_path = weights_dir / FILE_NAME
    if not weights_path.is_file():
        _download(weights_path)
    open_torchvision_door()
    from cleanfid.inception_torchscript import InceptionV3W

    try:
        network = InceptionV3W(str(weights_dir), download=False, resize_inside=False)
    except (RuntimeError, AttributeError) as error:
        raise ExtractorError(
            f"{weights_path} is not the TorchScript file that clean-fid loads ({error}). "
            f"Delete it and run again, or {_advice()}"
        ) from error
    output = getattr(network.base, "output", None)

    def forward(images: Tensor) -> tuple[Tensor, Tensor | None]:
        features = network(images.contiguous())
        # The score of Salimans 2016 leaves out the bias of the last layer.
        return features, None if output is None else features @ output.weight.T

    return Extractor(
        "inception",
        sha256_of_file(weights_path),
        SIZE_PX,
        NUM_FEATURES,
        None if output is None else CLASSIFIER,
        forward,
    )


def _download(weights_path: Path) -> None:
    from cleanfid.downloads_helper import inception_url

    try:
        with (
            urllib.request.urlopen(inception_url, timeout=DOWNLOAD_TIMEOUT_S) as answer,  # noqa: S310 - clean-fid's https constant
            write_whole(weights_path) as part_path,
            part_path.open("wb") as file,
        ):
            shutil.copyfileobj(answer, file)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise ExtractorError(
            f"extractor inception needs {FILE_NAME}, which is neither in {weights_path.parent} "
            f"nor can be downloaded ({error}). To go on, {_advice()}"
        ) from error


def _advice() -> str:
    from cleanfid.downloads_helper import inception_url

    return (
        f"fetch {inception_url} on a machine with a network, put the file {FILE_NAME} into a "
        f"folder and set {FOLDER_VARIABLE} to that folder; or write "
        f"compute_reference.extractor: efficientnet_lite0, whose weights are installed"
    )
