"""Stage `prepare_data`: shards and their manifest in; equal, split, memory-mapped images out."""

import time
from pathlib import Path

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, data_dir
from vivero.config.schema import Config
from vivero.data.card import read_card
from vivero.data.folders import new_folder
from vivero.data.placement import place_images
from vivero.data.prepared import PreparedCard, write_prepared_card
from vivero.data.prepared_writer import ImageForm, write_arrays, write_index
from vivero.data.shards import SPLITS
from vivero.files import sha256_of_dir, write_json
from vivero.integrity.entry import verified
from vivero.processes import run_stage

NAME = "prepare_data"


def run(config: Config, root: Path) -> None:
    """Write artifacts/prepare_data/images and summary.json from data/ and its manifest."""
    started_s = time.monotonic()
    raw_dir, out_dir = data_dir(root), artifacts_dir(root, NAME)
    manifest_path = artifacts_dir(root, "validate_data") / "manifest.parquet"
    card = read_card(raw_dir)
    form = ImageForm(config.prepare_data.image_size_px, config.prepare_data.num_channels)
    placed = place_images(manifest_path, card, config.prepare_data)
    counts: dict[str, int] = {
        split: sum(image.split == split for image in placed) for split in SPLITS
    }
    prepared_card = PreparedCard(
        name=card.name,
        licence=card.licence,
        class_names=list(card.class_names),
        num_channels=form.num_channels,
        image_size_px=form.size_px,
        source_digest=sha256_of_dir(raw_dir),
        counts=counts,
    )
    with new_folder(out_dir / "images", overwrite=True) as images_dir:
        # How many processes decode changes no byte, so one knob serves both stages.
        write_arrays(images_dir, placed, raw_dir, form, config.validate_data.num_processes)
        write_index(images_dir, placed)
        write_prepared_card(images_dir, prepared_card)
    shape = f"{form.size_px} x {form.size_px} x {form.num_channels}"
    splits = ", ".join(f"{count} {split}" for split, count in counts.items())
    summary = {
        "stage": NAME,
        "seconds": round(time.monotonic() - started_s, 2),
        "made": f"{len(placed)} images of {shape}: {splits}",
        **{f"num_{split}": count for split, count in counts.items()},
    }
    write_json(out_dir / "summary.json", summary)


def main() -> None:
    """Run the stage as dvc.yaml does."""
    run_stage(NAME, verified(NAME, lambda root: run(load_config(root / PARAMS), root)))


if __name__ == "__main__":
    main()
