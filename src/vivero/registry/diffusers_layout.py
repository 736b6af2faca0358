"""What diffusers needs beside the weights: an index, a scheduler's settings, and code as text.

The code is copied from `pipeline_template`; diffusers runs it, vivero never does.
"""

from importlib import resources
from pathlib import Path
from typing import Any

from vivero.config.schema import DiffusionConfig
from vivero.files import write_json, write_text
from vivero.models.load import DIFFUSERS_CLASS, NETWORK_DIR
from vivero.registry.bundle_config import BundleConfig

DIFFUSERS_VERSION = "0.42.1"  # whose layout this is


def write_diffusers_files(bundle_dir: Path, config: BundleConfig) -> None:
    """Add model_index.json, the scheduler's settings, and the code that diffusers runs."""
    template = resources.files("vivero.registry") / "pipeline_template"
    write_text(bundle_dir / "pipeline.py", (template / "pipeline.py").read_text("utf-8"))
    network_code = (template / "vivero_unet.py").read_text("utf-8")
    write_text(bundle_dir / NETWORK_DIR / "vivero_unet.py", network_code)
    scheduler = _scheduler_config(config.diffusion)
    write_json(bundle_dir / "scheduler" / "scheduler_config.json", scheduler)
    size_px = config.image.size_px
    write_json(
        bundle_dir / "model_index.json",
        {
            "_class_name": ["pipeline", "ViveroPipeline"],
            "_diffusers_version": DIFFUSERS_VERSION,
            "scheduler": ["diffusers", scheduler["_class_name"]],
            "unet": ["vivero_unet", DIFFUSERS_CLASS],
            "settings": {
                "model": config.model.model_dump(),
                "diffusion": config.diffusion.model_dump(),
                "class_names": config.class_names,
                "image_shape": [config.image.num_channels, size_px, size_px],
                "sampling": config.sampling and config.sampling.model_dump(),
            },
        },
    )


def _scheduler_config(config: DiffusionConfig) -> dict[str, Any]:
    """The scheduler of diffusers that visits the same noise levels as ours."""
    if config.schedule == "karras":
        return {
            "_class_name": "EDMDPMSolverMultistepScheduler",
            "_diffusers_version": DIFFUSERS_VERSION,
            "sigma_min": config.sigma_min,
            "sigma_max": config.sigma_max,
            "sigma_data": config.sigma_data,
            "rho": 7.0,
        }
    return {
        "_class_name": "HeunDiscreteScheduler",
        "_diffusers_version": DIFFUSERS_VERSION,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": "linear" if config.schedule == "linear" else "squaredcos_cap_v2",
        "timestep_spacing": "linspace",
    }
