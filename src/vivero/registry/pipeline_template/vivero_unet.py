"""The network of a Vivero bundle as a component of a diffusers pipeline; see ../pipeline.py."""

from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin

from vivero.models.load import load


class ViveroUNet(ModelMixin):  # type: ignore[misc]
    """A network of vivero that diffusers can load and move between devices."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def from_pretrained(cls, folder: str, **_: Any) -> "ViveroUNet":
        """Load config.json and the safetensors file of folder, with vivero's own checks."""
        component = cls(load(Path(folder).parent).network)
        component.eval()
        return component

    def forward(self, *inputs: Any) -> Any:
        """The network's raw prediction."""
        return self.network(*inputs)
