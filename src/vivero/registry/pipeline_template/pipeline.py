"""A Vivero model as a diffusers pipeline; needs the packages `vivero` and `diffusers`.

    pipeline = DiffusionPipeline.from_pretrained(
        BUNDLE, custom_pipeline=BUNDLE, trust_remote_code=True
    )
    images = pipeline(class_labels=[0, 1], seed=7).images

diffusers runs code that lies in a model's folder only with `trust_remote_code=True`. The noise
levels come from the scheduler; the same seed makes the same images as `vivero sample`.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput

from vivero.config.schema import DiffusionConfig, ModelConfig
from vivero.diffusion.generation import GenerationSpec, generate
from vivero.models.denoisers import build_denoiser


class ViveroPipeline(DiffusionPipeline):  # type: ignore[misc]
    """From class labels to images.

    Args:
        unet: The network.
        scheduler: A scheduler of diffusers that works in sigmas.
        settings: Model, diffusion, class names, image shape, sampling defaults.
    """

    def __init__(self, unet: Any, scheduler: Any, settings: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(settings=settings)

    def sampling_sigmas(self, num_steps: int) -> torch.Tensor:
        """The scheduler's noise levels, falling to 0; Heun's lists inner levels twice."""
        self.scheduler.set_timesteps(num_steps)
        levels: torch.Tensor = self.scheduler.sigmas.double().cpu().unique_consecutive()
        return levels

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int] = 0,
        seed: int = 0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        output_type: str = "pil",
        batch_images: int = 64,
    ) -> ImagePipelineOutput:
        """Make one image for each label; image k depends on (seed, k) alone.

        Args:
            class_labels: Index of each image's class; the number of classes stands for none.
            seed: At least 0.
            num_inference_steps: Noise levels visited; None takes the model's default.
            guidance_scale: 1 = none; None takes the model's default.
            output_type: "pil", or "np" for floats in [0, 1], shape (N, H, W, C).
            batch_images: Images made at a time.
        """
        settings = self.config.settings
        sampling = settings["sampling"]
        steps, guidance = num_inference_steps, guidance_scale
        spec = GenerationSpec(
            seed=seed,
            sampler=sampling["sampler"],
            num_steps=sampling["num_steps"] if steps is None else steps,
            guidance=sampling["guidance"] if guidance is None else guidance,
            guidance_interval=tuple(sampling["guidance_interval"]),
            batch_images=batch_images,
            adaptive_threshold=sampling["adaptive_threshold"],
        )
        denoiser = build_denoiser(
            self.unet.network,
            ModelConfig.model_validate(settings["model"]),
            DiffusionConfig.model_validate(settings["diffusion"]),
            len(settings["class_names"]),
        )
        labels = torch.tensor(
            [class_labels] if isinstance(class_labels, int) else list(class_labels),
            device=self.device,
        )
        levels = SimpleNamespace(sampling_sigmas=self.sampling_sigmas)
        shape = tuple(settings["image_shape"])
        chunks = generate(denoiser, levels, spec, labels, range(len(labels)), shape)
        images = torch.cat(list(chunks)).permute(0, 2, 3, 1).numpy() / 255.0
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images)
