"""config.json of a bundle: what the model is, and how images are made with it by default."""

from collections.abc import Sequence
from typing import Any

from vivero.config.schema import (
    Config,
    DiffusionConfig,
    ModelConfig,
    Positive,
    SamplingConfig,
    Section,
)
from vivero.models.load import NetworkConfig


class ImageConfig(Section):
    """What an image of the model is."""

    num_channels: Positive
    size_px: Positive


class BundleConfig(Section):
    """config.json of a bundle."""

    model: ModelConfig
    diffusion: DiffusionConfig
    image: ImageConfig
    class_names: list[str]
    sampling: SamplingConfig | None  # None: the output of a training, which is not served

    @property
    def network(self) -> NetworkConfig:
        """What the network is built from."""
        return NetworkConfig(
            model=self.model,
            num_channels=self.image.num_channels,
            num_classes=len(self.class_names),
            image_size_px=self.image.size_px,
        )


def bundle_config(config: Config, class_names: Sequence[str]) -> dict[str, Any]:
    """config.json of a served bundle, trained on images of class_names (empty: no labels)."""
    return BundleConfig(
        model=config.train.model,
        diffusion=config.train.diffusion,
        image=ImageConfig(
            num_channels=config.prepare_data.num_channels,
            size_px=config.prepare_data.image_size_px,
        ),
        class_names=list(class_names),
        sampling=config.sampling,
    ).model_dump()
