"""Images of a run, named as MLflow's page for image grids expects them.

MLflow's own `log_image` draws a new random name each time, so a repeated call shows the image
twice. Here the name follows from the run, the key and images_seen.
"""

import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

from PIL import Image

from vivero.tracking.journal import Entry

FOLDER = "images"
IS_SHOWN_TAG = "mlflow.loggedImages"
THUMBNAIL_PX = 256


def existing_images(client: Any, run_id: str) -> set[str]:
    """Stems of the images that stand completely in the run: with their small version."""
    paths = [Path(info.path).name for info in client.list_artifacts(run_id, FOLDER)]
    return {
        name.removesuffix("+compressed.webp") for name in paths if name.endswith("+compressed.webp")
    }


def log_image(client: Any, run_id: str, path: Path, entry: Entry, existing: set[str]) -> None:
    """Send an image and its small version, unless `existing` names it; then name it there."""
    stem = _stem(run_id, entry)
    if stem in existing:
        return
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(path, Path(folder, f"{stem}.png"))
        client.log_artifact(run_id, str(Path(folder, f"{stem}.png")), FOLDER)
        thumbnail_path = Path(folder, f"{stem}+compressed.webp")
        with Image.open(path) as image:
            thumbnail = image.convert("RGB")
            thumbnail.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            thumbnail.save(thumbnail_path)
        client.log_artifact(run_id, str(thumbnail_path), FOLDER)
    client.set_tag(run_id, IS_SHOWN_TAG, "True")
    existing.add(stem)


def _stem(run_id: str, entry: Entry) -> str:
    step = entry.images_seen or 0
    identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id}/{entry.key}/{step}")
    key = entry.key.replace("/", "~")
    return f"{key}+step+{step}+timestamp+{step}+{identity}"
