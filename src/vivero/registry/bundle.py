"""A model bundle: one folder with all that making images needs, checked by a manifest.

The layout is that of diffusers; `pipeline.py` and `unet/vivero_unet.py` are for
`DiffusionPipeline.from_pretrained(BUNDLE, custom_pipeline=BUNDLE, trust_remote_code=True)`.
Vivero itself imports and executes nothing that lies in a bundle, and nothing in it is a pickle.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from vivero.config.schema import SamplingConfig
from vivero.diffusion.schedules import NoiseSchedule, build_schedule
from vivero.errors import BundleError
from vivero.files import (
    read_bounded_json,
    read_json,
    sha256_of_file,
    sha256_of_json,
    sync,
    write_json,
    write_text,
)
from vivero.integrity.records import MAX_RECORD_BYTES, LineageRecord, read_record, shown
from vivero.models.denoisers import AnyDenoiser, build_denoiser
from vivero.models.load import NETWORK_DIR, WEIGHTS_NAME, load, save
from vivero.models.nf_resnet import fold
from vivero.registry.bundle_config import BundleConfig
from vivero.registry.diffusers_layout import write_diffusers_files

MANIFEST_NAME, CARD_NAME = "manifest.json", "MODEL_CARD.md"
AGAIN = (
    "fetch the bundle again with `dvc checkout`, or make it again: `dvc repro -f -s sample` for "
    "artifacts/sample/bundle, `dvc repro -f -s train` for artifacts/train/bundle"
)


@dataclass(frozen=True)
class Identity:
    """What makes a registered version: the same weights with another sampler are a new version.

    Attributes:
        weights_sha256: Hash of the weights' file.
        sampling_sha256: Hash of the settings of sampling.
    """

    weights_sha256: str
    sampling_sha256: str


def sampling_digest(sampling: SamplingConfig) -> str:
    """Hex sha256 of settings of sampling."""
    return sha256_of_json(sampling.model_dump())


@dataclass(frozen=True)
class BundleContents:
    """What a bundle is written from.

    Attributes:
        network: state_dict of the network: the averaged (EMA) weights.
        config: As `bundle_config.bundle_config` makes it.
        lineage: What made the weights, as JSON values; weights_sha256 is filled in here.
        model_card: Markdown for people.
    """

    network: Mapping[str, Tensor]
    config: dict[str, Any]
    lineage: Mapping[str, Any]
    model_card: str


@dataclass(frozen=True)
class Bundle:
    """A bundle that was checked and loaded, ready to make images.

    Attributes:
        network: As it was trained; what a fine-tuning starts from.
        folded_network: The same with its standardised weights worked out; what denoiser calls, and
            what has to be moved to another device.
    """

    network: nn.Module
    folded_network: nn.Module
    denoiser: AnyDenoiser
    schedule: NoiseSchedule
    config: BundleConfig
    lineage: LineageRecord
    weights_sha256: str

    @property
    def class_names(self) -> list[str]:
        """Names of the classes by index; empty for images without labels."""
        return self.config.class_names

    @property
    def num_channels(self) -> int:
        """1 = grey, 3 = colour."""
        return self.config.image.num_channels

    @property
    def image_size_px(self) -> int:
        """Side of the square images."""
        return self.config.image.size_px

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.num_channels, self.image_size_px, self.image_size_px)

    @property
    def sampling(self) -> SamplingConfig:
        """How images are made with the model: judged, timed and served alike.

        Raises:
            BundleError: When the bundle is the output of a training, which has no such settings.
        """
        if self.config.sampling is None:
            raise BundleError(
                "this bundle is the output of a training and has no settings of sampling; use "
                "artifacts/sample/bundle, which `dvc repro sample` writes"
            )
        return self.config.sampling

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        """sampler, num_steps, guidance, guidance_interval, adaptive_threshold."""
        return self.sampling.model_dump()

    @property
    def identity(self) -> Identity:
        """What makes this model another one than its neighbours: weights and sampling."""
        return Identity(self.weights_sha256, sampling_digest(self.sampling))


def write_bundle(bundle_dir: Path, contents: BundleContents) -> str:
    """Write a bundle whole or not at all; one that is there already is replaced.

    Equal contents give equal bytes.

    Returns:
        sha256 of the weights' file.

    Raises:
        ValueError: If the weights are not those of the network that contents.config describes.
        ValidationError: If contents.config is not a bundle's.
    """
    config = BundleConfig.model_validate(contents.config)
    bundle_dir.parent.mkdir(parents=True, exist_ok=True)
    part_dir = Path(tempfile.mkdtemp(prefix=f".{bundle_dir.name}.", dir=bundle_dir.parent))
    try:
        part_dir.chmod(0o755)
        save(part_dir, contents.network, config.network)
        weights_sha256 = sha256_of_file(part_dir / NETWORK_DIR / WEIGHTS_NAME)
        write_json(part_dir / "config.json", config.model_dump())
        write_json(
            part_dir / "lineage.json", {**contents.lineage, "weights_sha256": weights_sha256}
        )
        write_text(part_dir / CARD_NAME, contents.model_card)
        write_diffusers_files(part_dir, config)
        write_json(part_dir / MANIFEST_NAME, {"files": _hashes(part_dir)})
        if bundle_dir.exists():
            former_dir = Path(tempfile.mkdtemp(prefix=".former.", dir=bundle_dir.parent))
            bundle_dir.rename(former_dir / bundle_dir.name)
            part_dir.rename(bundle_dir)
            shutil.rmtree(former_dir)
        else:
            part_dir.rename(bundle_dir)
        sync(bundle_dir.parent)
    finally:
        shutil.rmtree(part_dir, ignore_errors=True)
    return weights_sha256


def write_served_bundle(trained_dir: Path, bundle_dir: Path, sampling: SamplingConfig) -> Bundle:
    """Write the bundle of a training once more, with the settings of sampling it is served by.

    Args:
        trained_dir: The bundle that the stage `train` wrote.
        bundle_dir: Where the served one goes; what is there is replaced.
        sampling: Settings of sampling.

    Returns:
        The served bundle, loaded.

    Raises:
        BundleError: When the bundle of the training is damaged.
    """
    trained = load_bundle(trained_dir)
    config = trained.config.model_copy(update={"sampling": sampling})
    card = (trained_dir / CARD_NAME).read_text(encoding="utf-8")
    contents = BundleContents(
        trained.network.state_dict(), config.model_dump(), trained.lineage.values(), card
    )
    weights_sha256 = write_bundle(bundle_dir, contents)
    if weights_sha256 != trained.weights_sha256:
        raise BundleError(f"{bundle_dir} got other weights than {trained_dir}; {AGAIN}")
    return load_bundle(bundle_dir)


def read_identity(bundle_dir: Path) -> Identity:
    """Identity of a bundle whose files were verified; of layouts that had no tag for it too.

    Raises:
        BundleError: When it is the output of a training, which is not served.
    """
    sampling = _read_config(bundle_dir / "config.json").sampling
    if sampling is None:
        raise BundleError(f"{bundle_dir} has no settings of sampling, so it is not served")
    return Identity(weights_sha256_of(bundle_dir), sampling_digest(sampling))


def load_bundle(bundle_dir: Path) -> Bundle:
    """Check every file of a bundle against its manifest, then load it.

    Raises:
        BundleError: When a file is missing, altered, not in the manifest or a link, or is of no
            use; it names it.
    """
    listed = check_manifest(bundle_dir)
    config = _read_config(bundle_dir / "config.json")
    loaded = load(bundle_dir)
    if loaded.weights_sha256 != listed[f"{NETWORK_DIR}/{WEIGHTS_NAME}"]:
        raise BundleError(f"{bundle_dir / NETWORK_DIR / WEIGHTS_NAME} changed while it was read")
    if loaded.config != config.network:
        raise BundleError(
            f"{bundle_dir / 'config.json'} and {bundle_dir / NETWORK_DIR / 'config.json'} "
            f"describe different networks; {AGAIN}"
        )
    folded = fold(loaded.network)
    try:
        denoiser = build_denoiser(folded, config.model, config.diffusion, len(config.class_names))
    except ValueError as error:
        weights_path = bundle_dir / NETWORK_DIR / WEIGHTS_NAME
        raise BundleError(f"{weights_path} holds scales of no data: {error}; {AGAIN}") from error
    return Bundle(
        network=loaded.network,
        folded_network=folded,
        denoiser=denoiser,
        schedule=build_schedule(config.diffusion),
        config=config,
        lineage=_read_lineage(bundle_dir / "lineage.json"),
        weights_sha256=loaded.weights_sha256,
    )


def weights_sha256_of(bundle_dir: Path) -> str:
    """Hex sha256 of the weights' file, which names the model."""
    return sha256_of_file(bundle_dir / NETWORK_DIR / WEIGHTS_NAME)


def check_manifest(bundle_dir: Path) -> dict[str, str]:
    """Compare a bundle's files with its manifest.

    Returns:
        sha256 of every file by its name, as the manifest has them.

    Raises:
        BundleError: Naming the first file that is missing, altered, extra or a link.
    """
    manifest_path = bundle_dir / MANIFEST_NAME
    try:
        listed = dict(read_json(manifest_path)["files"])
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise BundleError(
            f"no readable {MANIFEST_NAME} in {bundle_dir}, so this is no whole model bundle; "
            f"name the folder that holds {MANIFEST_NAME}, or {AGAIN}"
        ) from error
    found = _hashes(bundle_dir)
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            problem = "is missing"
        elif name not in listed:
            problem = f"is not in {MANIFEST_NAME}"
        elif found[name] != listed[name]:
            problem = f"was altered: expected sha256 {listed[name]}, found {found[name]}"
        else:
            continue
        raise BundleError(f"{bundle_dir / name} {problem}; {AGAIN}")
    return listed


def _hashes(bundle_dir: Path) -> dict[str, str]:
    """Sha256 of every file but the manifest, by its name within the bundle."""
    hashes = {}
    for path in sorted(bundle_dir.rglob("*")):
        name = path.relative_to(bundle_dir).as_posix()
        if path.is_symlink():
            raise BundleError(f"{path} is a link, which a bundle may not hold; {AGAIN}")
        if path.is_file() and name != MANIFEST_NAME:
            hashes[name] = sha256_of_file(path)
    return hashes


def _read_config(path: Path) -> BundleConfig:
    try:
        return BundleConfig.model_validate(read_json(path))
    except (OSError, ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{path} is not the settings of a bundle that this version of vivero knows: {error}"
        ) from error


def _read_lineage(path: Path) -> LineageRecord:
    """The lineage of a bundle, which may be from anyone: every field has its form."""
    try:
        return read_record(LineageRecord, read_bounded_json(path, MAX_RECORD_BYTES))
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read {path}: {shown(error, 1000)}; {AGAIN}") from error
