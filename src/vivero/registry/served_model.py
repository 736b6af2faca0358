"""The model as MLflow's pyfunc, from code: `mlflow.pyfunc.load_model(URI).predict(table)`.

MLflow runs this file when the model is loaded; nothing in it is pickled.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.pyfunc import PythonModel

from vivero.config.paths import root_or_none
from vivero.diffusion.generation import generate
from vivero.registry.bundle import Bundle, load_bundle
from vivero.registry.keys import trusted_keys
from vivero.registry.own_images import own_spec
from vivero.registry.signatures import verify_folder

BATCH_IMAGES = 250


class ServedModel(PythonModel):  # type: ignore[misc]  # MLflow has no types
    """A table of labels and indices in, images out."""

    bundle: Bundle

    def load_context(self, context: Any) -> None:
        """Load the bundle that was logged with the model, once its signature was verified."""
        bundle_dir = Path(context.artifacts["bundle"])
        verify_folder(bundle_dir.parent, trusted_keys(root_or_none()))
        self.bundle = load_bundle(bundle_dir)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Make one image for each row.

        Args:
            context: MLflow's; unused.
            model_input: Columns label (int) and index (int, with the seed it fixes the noise).
            params: seed, sampler, num_steps, guidance; what is missing is the bundle's default.

        Returns:
            Images, shape (N, C, H, W), uint8.
        """
        bundle = self.bundle
        spec = own_spec(bundle, batch_images=BATCH_IMAGES, **(params or {}))
        labels = torch.tensor(model_input["label"].to_numpy(), dtype=torch.int64)
        indices = [int(index) for index in model_input["index"]]
        made = generate(bundle.denoiser, bundle.schedule, spec, labels, indices, bundle.image_shape)
        return torch.cat(list(made)).numpy()


mlflow.models.set_model(ServedModel())
