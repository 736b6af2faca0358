"""Extractors: the real packaged weights, and clean-fid's Inception from a file of its interface."""

import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from vivero.errors import ExtractorError
from vivero.evaluation import efficientnet, inception
from vivero.evaluation.extractors import build_extractor
from vivero.evaluation.features import cached_features, extract
from vivero.evaluation.inception import FILE_NAME, PUBLISHED_SHA256
from vivero.evaluation.resize import clean_resized
from vivero.files import sha256_of_file


def drawn_images(num_images: int = 5, num_channels: int = 3, side_px: int = 20) -> np.ndarray:
    shape = (num_images, num_channels, side_px, side_px)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def extractor():
    return build_extractor("efficientnet_lite0", 32, Path("unused"), None)


class TinyInception(torch.nn.Module):
    """The interface that clean-fid and the score use: `layers` to 2,048 features, and `output`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(192, 2048)
        )
        self.output = torch.nn.Linear(2048, 1008)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.output(self.layers((images - 128) / 128)), dim=1)


@pytest.fixture
def inception_dir(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tracing = torch.jit.trace(TinyInception().eval(), torch.rand(2, 3, 299, 299))
    tracing.save(str(tmp_path / FILE_NAME))
    return tmp_path


@pytest.mark.parametrize("num_channels", [1, 3])
def test_resizes_exactly_as_clean_fid_does(num_channels: int):
    from cleanfid.resize import make_resizer

    images = drawn_images(num_channels=num_channels)
    resizer = make_resizer("PIL", False, "bicubic", (48, 48))
    expected = np.stack([resizer(i.repeat(4 - num_channels, 0)[:3].transpose(1, 2, 0))
                         for i in images])  # fmt: skip
    assert np.array_equal(clean_resized(images, 48).permute(0, 2, 3, 1).numpy(), expected)


def test_refuses_images_that_are_not_bytes():
    with pytest.raises(ValueError, match="need uint8 images"):
        clean_resized(np.zeros((1, 3, 8, 8), dtype=np.float32), 32)


def test_efficientnet_gives_the_features_and_logits_of_its_own_package(extractor):
    from efficientnet_lite_pytorch import EfficientNet

    images = drawn_images()
    original = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=str(efficientnet.packaged_weights_path())
    ).eval()
    with torch.inference_mode():
        expected = original((clean_resized(images, 32) - 127.5) / 127.5)
    features, logits = extractor(images)
    assert features.shape == (5, 1280)
    assert features.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-3)


def test_grey_images_are_taken_as_colour_ones_with_equal_channels(extractor):
    grey = drawn_images(num_channels=1)
    torch.testing.assert_close(extractor(grey)[0], extractor(grey.repeat(3, axis=1))[0])


def test_features_do_not_depend_on_how_many_threads_make_them(extractor):
    images = drawn_images(9)
    alone = extract(extractor, images, 2)
    torch.set_num_threads(2)
    try:
        together = extract(extractor, images, 2)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(alone.features, together.features)
    assert torch.equal(alone.logits, together.logits)


def test_altered_weights_are_refused(monkeypatch, tmp_path: Path):
    altered = tmp_path / "weights.pth"
    altered.write_bytes(b"other")
    monkeypatch.setattr(efficientnet, "packaged_weights_path", lambda: altered)
    with pytest.raises(ExtractorError, match="should have sha256 579344248a93"):
        build_extractor("efficientnet_lite0", 32, tmp_path, None)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_inception_runs_from_a_torchscript_file(inception_dir: Path):
    images = drawn_images(2)
    digest = sha256_of_file(inception_dir / FILE_NAME)
    extractor = build_extractor("inception", 299, inception_dir, digest)
    assert extractor.name == f"inception-{digest[:8]}"
    features, logits = extractor(images)

    torch.manual_seed(0)
    network = TinyInception().eval()
    with torch.inference_mode():
        expected = network.layers((clean_resized(images, 299) - 128) / 128)
        expected_logits = expected @ network.output.weight.T
    assert extractor.weights_sha256 == digest
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(logits, expected_logits)


def test_inception_without_file_and_network_says_how_to_get_it(monkeypatch, tmp_path: Path):
    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(ExtractorError) as caught:
        build_extractor("inception", 299, tmp_path, None)
    for part in (FILE_NAME, "https://", "VIVERO_INCEPTION_DIR", "no route to host"):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_file_that_is_not_torchscript_is_refused(tmp_path: Path):
    (tmp_path / FILE_NAME).write_bytes(b"half a download")
    digest = sha256_of_file(tmp_path / FILE_NAME)
    with pytest.raises(ExtractorError, match="not the TorchScript file"):
        build_extractor("inception", 299, tmp_path, digest)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_file_of_other_bytes_is_refused_with_the_hash_to_write(inception_dir: Path):
    digest = sha256_of_file(inception_dir / FILE_NAME)
    for setting in (None, PUBLISHED_SHA256, "0" * 64):
        with pytest.raises(ExtractorError) as caught:
            build_extractor("inception", 299, inception_dir, setting)
        assert f"write compute_reference.extractor_sha256: {digest} in params.yaml" in str(
            caught.value
        )
        assert f"fd.inception-{digest[:8]}" in str(caught.value)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_other_bytes_are_refused_before_torch_runs_them(inception_dir: Path, monkeypatch):
    def run(*_arguments: object, **_options: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(torch.jit, "load", run)
    with pytest.raises(ExtractorError, match="only the published file gives FID"):
        build_extractor("inception", 299, inception_dir, None)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_the_published_file_is_called_inception(inception_dir: Path, monkeypatch):
    """The file itself is not here: its hash is that of the stand-in for this test."""
    digest = sha256_of_file(inception_dir / FILE_NAME)
    monkeypatch.setattr(inception, "KNOWN_SHA256", frozenset({digest}))
    assert build_extractor("inception", 299, inception_dir, None).name == "inception"
    assert build_extractor("inception", 299, inception_dir, digest).name == "inception"


def test_inception_at_another_size_is_refused(tmp_path: Path):
    with pytest.raises(ExtractorError, match="extractor_size_px: 299"):
        build_extractor("inception", 64, tmp_path, None)


def flip_a_bit_of_the_features(entry: Path) -> None:
    """Set the lowest bit of the first feature's exponent, which leaves the file well-formed."""
    content = bytearray(entry.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    content[begin + 2] ^= 0x80
    entry.write_bytes(content)


def cut(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes()[:-5])


def write_infinite_features(entry: Path) -> None:
    safetensors.torch.save_file({"features": torch.full((4, 1280), torch.inf)}, entry)


@pytest.mark.parametrize("damage", [flip_a_bit_of_the_features, cut, write_infinite_features])
def test_a_damaged_cache_entry_is_computed_again(extractor, tmp_path: Path, caplog, damage):
    images = drawn_images(4)
    first = cached_features(extractor, images, 2, tmp_path)
    (entry,) = tmp_path.iterdir()
    whole = entry.read_bytes()
    damage(entry)
    second = cached_features(extractor, images, 2, tmp_path)
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.logits, second.logits)
    assert f"{entry} is damaged" in caplog.text
    assert entry.read_bytes() == whole


def test_the_cache_is_used_and_knows_other_images_apart(extractor, tmp_path: Path):
    images, calls = drawn_images(4), []
    counting = replace(extractor, forward=lambda x: calls.append(len(x)) or extractor.forward(x))
    first = cached_features(counting, images, 2, tmp_path)
    again = cached_features(counting, images, 2, tmp_path)
    assert calls == [2, 2]
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.logits, again.logits)
    assert len(cached_features(counting, images[:3], 2, tmp_path).features) == 3
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("number", [torch.inf, torch.nan])
@pytest.mark.parametrize("is_logit", [False, True])
def test_features_that_are_not_finite_are_refused_and_not_cached(
    extractor, tmp_path: Path, number, is_logit
):
    def broken(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features, logits = torch.zeros(len(images), 1280), torch.zeros(len(images), 1000)
        (logits if is_logit else features)[0, 0] = number
        return features, logits

    with pytest.raises(ExtractorError, match=r"NaN or infinite.*run the same command again"):
        cached_features(replace(extractor, forward=broken), drawn_images(4), 2, tmp_path)
    assert not list(tmp_path.iterdir())
