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
# The file that clean-fid and StyleGAN publish, 95,607,719 bytes. FID is the distance with these
# weights, so another file gets another name.
PUBLISHED_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
KNOWN_SHA256 = frozenset({PUBLISHED_SHA256})
FOLDER_VARIABLE = "VIVERO_INCEPTION_DIR"
SIZE_PX = 299
NUM_FEATURES = 2048
CLASSIFIER = "inception-2015-12-05, 1,008 logits without bias"
DOWNLOAD_TIMEOUT_S = 60.0


def load_inception(weights_dir: Path, weights_sha256: str | None = None) -> Extractor:
    """Inception as clean-fid runs it: 2,048 features; logits where the file has its last layer.

    The file is code that torch runs, so its hash is checked before it is loaded.

    Args:
        weights_dir: Folder of the TorchScript file; it is downloaded there when it is missing.
        weights_sha256: Hash of a file other than the published one; None allows only that.

    Raises:
        ExtractorError: When there is no file and no network, or it is another file.
    """
    weights_path = weights_dir / FILE_NAME
    if not weights_path.is_file():
        _download(weights_path)
    digest = sha256_of_file(weights_path)
    name = _name_of(weights_path, digest, weights_sha256)
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
        name,
        digest,
        SIZE_PX,
        NUM_FEATURES,
        None if output is None else CLASSIFIER,
        forward,
    )


def _name_of(weights_path: Path, digest: str, allowed: str | None) -> str:
    """Name of the extractor, which is part of each metric's name.

    Raises:
        ExtractorError: When the file is neither the published one nor the allowed one.
    """
    if allowed is None and digest in KNOWN_SHA256:
        return "inception"
    if allowed is not None and digest == allowed:
        return "inception" if digest in KNOWN_SHA256 else f"inception-{digest[:8]}"
    expected = f"the published file has {PUBLISHED_SHA256}"
    if allowed is not None:
        expected = f"compute_reference.extractor_sha256 names {allowed}"
    raise ExtractorError(
        f"{weights_path} has sha256 {digest}, but {expected}. Replace the file; or, if you trust "
        f"it, write compute_reference.extractor_sha256: {digest} in params.yaml. Its distance is "
        f"then called fd.inception-{digest[:8]}, because only the published file gives FID"
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
