"""A generated image that lost its record is recognised by its pixels, in any lossless form."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.unit.data.pictures import encoded, picture
from vivero.cli.data import app
from vivero.data.appending import append_folder
from vivero.data.facts import inspect_image
from vivero.data.imagefolder import import_folder
from vivero.data.incoming import FolderSource, Form, look_at
from vivero.data.made_images import MadeImages, new_batch, pixel_hashes_of, read_batch
from vivero.data.quarantine import read_quarantine
from vivero.errors import DataError
from vivero.evaluation.grids import save_image
from vivero.files import write_json

PARAMS = Path(__file__).parents[3] / "params.yaml"
WEIGHTS = "1" * 64
FORMS: dict[str, tuple[str, dict[str, Any]]] = {  # by name: mode, and how it is saved
    "png": ("RGB", {"format": "PNG"}),
    "alpha": ("RGBA", {"format": "PNG"}),
    "palette": ("P", {"format": "PNG"}),
    "grey": ("L", {"format": "PNG"}),
    "grey_alpha": ("LA", {"format": "PNG"}),
    "webp": ("RGB", {"format": "WEBP", "lossless": True}),
    "webp_alpha": ("RGBA", {"format": "WEBP", "lossless": True, "exact": True}),
    "bmp": ("RGB", {"format": "BMP"}),
    "tiff": ("RGB", {"format": "TIFF", "compression": "tiff_lzw"}),
    "gif": ("P", {"format": "GIF"}),
}
SUFFIXES = {"PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif"}


def made(root: Path, num_channels: int, height_px: int = 24, width_px: int = 32) -> Path:
    """A folder as `vivero sample` leaves it with one image of few colours, and its record."""
    folder = root / f"samples-{num_channels}"
    folder.mkdir()
    levels = np.random.default_rng(num_channels).integers(0, 256, (40, num_channels), np.uint8)
    choice = np.random.default_rng(7).integers(0, 40, (height_px, width_px))
    image = levels[choice].transpose(2, 0, 1)
    shared = {"weights_sha256": WEIGHTS, "lineage": {}, "seed": 7}
    save_image(folder / "00000-0.png", image, {**shared, "index": 0})
    entries = [{"index": 0, "label": 0, "file": "00000-0.png"}]
    write_json(folder / "samples.json", {**shared, "images": entries})
    return folder


def again(source: Path, folder: Path, name: str) -> Path:
    """The picture without its record, in another form that loses nothing."""
    mode, options = FORMS[name]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{SUFFIXES[options['format']]}"
    with Image.open(source) as image:
        if mode == "P":
            kept = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        else:
            kept = image.convert(mode)
        kept.save(path, **options)
    return path


def forms_of(num_channels: int) -> list[str]:
    return [name for name in FORMS if num_channels == 1 or not name.startswith("grey")]


@pytest.mark.parametrize("num_channels", [1, 3])
def test_there_is_one_hash_of_pixels(tmp_path: Path, num_channels: int):
    folder = made(tmp_path, num_channels)
    original = folder / "00000-0.png"
    facts = inspect_image(original.read_bytes())
    (entry,) = read_batch(folder)[1]
    assert entry["pixels_sha256"] == facts.pixel_sha256  # type: ignore[union-attr]
    for name in forms_of(num_channels):
        assert (
            pixel_hashes_of(again(original, tmp_path / "again", name))[0]
            == (entry["pixels_sha256"])
        ), name


@pytest.mark.parametrize("num_channels", [1, 3])
def test_an_append_refuses_what_was_made_here_without_any_record(tmp_path: Path, num_channels: int):
    (tmp_path / "old" / "bar").mkdir(parents=True)
    for seed in (1, 2):
        (tmp_path / "old" / "bar" / f"{seed}.png").write_bytes(encoded(picture(seed, mode="RGB")))
    data_dir = tmp_path / "data"
    import_folder(tmp_path / "old", data_dir, num_processes=1)
    folder = made(tmp_path, num_channels)
    MadeImages(tmp_path).add(*read_batch(folder))
    for name in forms_of(num_channels):
        new = tmp_path / f"new-{name}"
        again(folder / "00000-0.png", new / "bar", name)
        (new / "bar" / "real.png").write_bytes(encoded(picture(hash_of(name), mode="RGB")))
        report = append_folder(new, data_dir, num_processes=1)
        assert sum(report.counts.values()) == 1, name
        assert report.reasons == {"generated": 1}, name
    refused = read_quarantine(data_dir / "quarantine.parquet")
    assert {row.detail for row in refused} == {
        "its pixels are in the record of images that Vivero made; --with-generated takes it"
    }
    report = append_folder(new, data_dir, with_generated=True, num_processes=1)
    assert sum(report.counts.values()) == 1, "asked for, it is taken"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_first_import_refuses_what_was_made_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
):
    shutil.copy(PARAMS, tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    new, out = tmp_path / "new" / "bar", tmp_path / "elsewhere" / "data"
    new.mkdir(parents=True)
    (new / "real.png").write_bytes(encoded(picture(1, mode="RGB")))
    folder = made(tmp_path, 3)
    shutil.copy(folder / "00000-0.png", new / "with_record.png")
    MadeImages(tmp_path).add(*read_batch(folder))
    again(folder / "00000-0.png", new, "bmp")
    if overwrite:
        import_folder(tmp_path / "new", out, num_processes=1)
    command = ["import", str(new.parent), "--out", str(out), *(["--overwrite"] * overwrite)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "imported 1 " in done.output
    refused = read_quarantine(out / "quarantine.parquet")
    assert {row.reason for row in refused} == {"generated"}
    assert sorted(row.detail for row in refused) == [
        "it carries Vivero's record of having made it; --with-generated takes it",
        "its pixels are in the record of images that Vivero made; --with-generated takes it",
    ]
    with_generated = [*command[:4], "--overwrite", "--with-generated"]
    done = CliRunner().invoke(app, with_generated)
    assert "imported 3 " in done.output, "they are imported on request"


def hash_of(name: str) -> int:
    return 100 + list(FORMS).index(name)


def test_new_images_at_a_source_are_recognised(tmp_path: Path):
    folder = made(tmp_path, 3)
    MadeImages(tmp_path).add(*read_batch(folder))
    incoming = tmp_path / "incoming"
    for name in forms_of(3):
        again(folder / "00000-0.png", incoming, name)
    (incoming / "real.png").write_bytes(encoded(picture(5, mode="RGB")))
    source, form = FolderSource(incoming), Form(16, 3, 8, 64, 1.0)
    keys = sorted(arrival.key for arrival in source.arrivals())
    looked = look_at(source, keys, form, 1, MadeImages(tmp_path))
    assert looked.keys == ["real.png"]
    assert looked.num_ours == len(forms_of(3))
    assert look_at(source, keys, form, 1).num_ours == 0


@pytest.mark.parametrize("num_channels", [1, 3])
def test_what_was_recorded_with_version_0_1_is_still_found(tmp_path: Path, num_channels: int):
    folder = made(tmp_path, num_channels)
    with Image.open(folder / "00000-0.png") as image:
        pixels = np.asarray(image).reshape(24, 32, num_channels)
    former = hashlib.sha256(f"24x32x{num_channels}\n".encode() + pixels.tobytes()).hexdigest()
    entries = [{"index": 0, "label": 0, "file": "00000-0.png", "pixels_sha256": former}]
    images = MadeImages(tmp_path)
    images.add(
        new_batch("2026-11-01T00:00:00+00:00", {"weights_sha256": WEIGHTS}, entries), entries
    )
    hashes = pixel_hashes_of(again(folder / "00000-0.png", tmp_path / "again", "webp"))
    (found,) = images.images_with(hashes)
    assert found.entry["index"] == 0
    assert images.are_made([hashes, ("0" * 64, "1" * 64), ()]) == [True, False, False]


def test_without_a_record_nothing_is_made_here(tmp_path: Path):
    assert MadeImages(tmp_path).are_made([("a" * 64,)]) == [False]
    assert not (tmp_path / "made_images.db").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [("file", "../../secret.png"), ("file", "/etc/hostname"), ("file", "-x.png"), ("label", -1),
     ("class_name", "a\x1b[31mb"), ("index", 2**70)],
)  # fmt: skip
def test_a_listing_that_is_not_of_its_form_is_refused(tmp_path: Path, field: str, value: Any):
    folder = made(tmp_path, 1)
    record = json.loads((folder / "samples.json").read_text())
    record["images"][0][field] = value
    write_json(folder / "samples.json", record)
    with pytest.raises(DataError, match=f"unreadable record: {field}: "):
        read_batch(folder)
