"""What a run is made from: settings, prepared images, lineage; together they name the run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vivero.config.paths import artifacts_dir, work_dir
from vivero.config.schema import Config
from vivero.data.prepared import PreparedCard, open_split, read_card
from vivero.data.shards import Split
from vivero.errors import DataError
from vivero.files import sha256_of_dir
from vivero.tracking.lineage import Lineage, read_lineage
from vivero.training.distributed import Workers
from vivero.training.feed import Feed, open_feed
from vivero.training.fingerprint import fingerprint


@dataclass(frozen=True)
class InitialModel:
    """A model that training starts from.

    Attributes:
        name: As train.initial_model names it.
        weights_sha256: Hash of its weights' file.
        weights: By name.
    """

    name: str
    weights_sha256: str
    weights: Mapping[str, Tensor]


@dataclass(frozen=True)
class TrainInputs:
    """What a run is made from, and where it keeps its state.

    Attributes:
        config: All settings.
        root: Top of the repository.
        card: What the prepared images are.
        lineage: Data, code, settings and seed, by hash.
        run_key: The fingerprint.
        initial_model: What training starts from; None = new weights.
    """

    config: Config
    root: Path
    card: PreparedCard
    lineage: Lineage
    run_key: str
    initial_model: InitialModel | None = None

    @property
    def images_dir(self) -> Path:
        """The prepared images."""
        return artifacts_dir(self.root, "prepare_data") / "images"

    @property
    def run_dir(self) -> Path:
        """Checkpoints, journal and previews of this fingerprint."""
        return work_dir(self.root) / "checkpoints" / self.run_key


def read_inputs(
    config: Config, root: Path, initial_model: InitialModel | None = None
) -> TrainInputs:
    """Look at everything that decides the weights."""
    images_dir = artifacts_dir(root, "prepare_data") / "images"
    card = read_card(images_dir)
    lineage = read_lineage(root, config.train.seed)
    initial_sha256 = initial_model.weights_sha256 if initial_model else None
    run_key = fingerprint(config.train, sha256_of_dir(images_dir), initial_sha256)
    return TrainInputs(config, root, card, lineage, run_key, initial_model)


def open_images(inputs: TrainInputs, split: Split, workers: Workers) -> Feed:
    """The images of one split, which may not be empty."""
    feed = open_feed(open_split(inputs.images_dir, split), workers.device)
    if not len(feed):
        raise DataError(
            f"the {split} split of {inputs.card.name} has no image; bring more images in, or "
            f"change prepare_data.validation_share, and run `dvc repro prepare_data`"
        )
    return feed
