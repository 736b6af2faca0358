"""Images that others put into a folder or under an S3 prefix: listed, read, looked at one by one.

Nothing is changed there. Files may be hostile: they are decoded in worker processes.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vivero.data.cleaning import MAX_FILE_BYTES, file_content
from vivero.data.facts import inspect_image, pixel_hashes
from vivero.data.folder_files import list_folder
from vivero.data.image_files import Refusal, decode
from vivero.data.isolation import Crash, Limits, map_isolated
from vivero.data.made_images import MadeImages
from vivero.data.progress import with_progress
from vivero.data.provenance import carries_provenance
from vivero.data.quarantine import QuarantineRow
from vivero.data.resizing import square_pixels
from vivero.errors import DataError

S3 = "s3://"


@dataclass(frozen=True)
class Arrival:
    """A file at the source. arrived_at: seconds since 1970, by the clock of the source."""

    key: str
    arrived_at: float


class Source(Protocol):
    """Where images come from."""

    def arrivals(self) -> list[Arrival]:
        """All files there are, without opening any."""
        ...

    def content(self, key: str) -> bytes | Refusal:
        """The bytes of a file, or why not."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """A folder of this machine. Hidden files and links that leave it are passed over."""

    folder: Path

    def arrivals(self) -> list[Arrival]:
        """All files; their time is the inode's, which a copy cannot set back as it can mtime."""
        found = []
        for file in list_folder(self.folder).files:
            try:
                found.append(Arrival(file.key, file.path.stat().st_ctime))
            except OSError:  # taken away meanwhile
                continue
        return found

    def content(self, key: str) -> bytes | Refusal:
        """The bytes of a file below the folder."""
        return file_content(self.folder / key)


@dataclass(frozen=True)
class S3Source:
    """The objects under an S3 prefix.

    Nothing is handed to s3fs: boto's own client, which is below it, finds the address of the server
    and the credentials where it does for every other program (variables, profiles, services).
    """

    prefix: str
    file_system: Any

    def arrivals(self) -> list[Arrival]:
        """All objects; the time is when S3 took them."""
        with self._refusals("list"):
            found = self.file_system.find(self.prefix.removeprefix(S3), detail=True)
        return [
            Arrival(name, facts["LastModified"].timestamp())
            for name, facts in found.items()
            if facts["type"] == "file" and facts.get("LastModified")
        ]

    def content(self, key: str) -> bytes | Refusal:
        """The bytes of an object."""
        with self._refusals("read"):
            try:
                num_bytes = int(self.file_system.info(key)["size"])
                if num_bytes > MAX_FILE_BYTES:
                    return Refusal("too_large", f"{num_bytes} bytes; at most {MAX_FILE_BYTES}")
                return bytes(self.file_system.cat_file(key))
            except FileNotFoundError:
                return Refusal("unreadable", "it is not there any more")

    @contextlib.contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        """Turn what the server, the network and the settings of AWS raise into one DataError."""
        from botocore.exceptions import BotoCoreError  # with s3fs alone

        try:
            yield
        except (OSError, ValueError, BotoCoreError) as error:
            raise DataError(
                f"cannot {what} {self.prefix}: {error}. Check the address (AWS_ENDPOINT_URL_S3, "
                f"AWS_ENDPOINT_URL or the profile), the proxy (HTTPS_PROXY, NO_PROXY), the "
                f"credentials (AWS_*) and that the bucket is there"
            ) from error


def open_source(address: str, root: Path) -> Source:
    """The source that an address names.

    Args:
        address: A folder, relative to root or not, or s3://bucket/prefix.
        root: Top of the repository.

    Raises:
        DataError: When a folder is no folder, or the address is of another kind.
    """
    if address.startswith(S3):
        import s3fs

        return S3Source(
            address, s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        )
    if "://" in address:
        raise DataError(f"'{address}' is neither a folder nor {S3}bucket/prefix")
    folder = root / address
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name the folder that new images come into")
    folder.mkdir(parents=True, exist_ok=True)
    return FolderSource(folder)


@dataclass(frozen=True)
class Form:
    """What a good image must be like, and the form that it is brought into."""

    size_px: int
    num_channels: int
    min_side_px: int
    max_side_px: int
    blank_max_std: float


@dataclass(frozen=True)
class IncomingFile:
    """A file as it goes to a worker."""

    key: str
    content: bytes
    form: Form


@dataclass(frozen=True)
class IncomingImage:
    """A good image.

    Attributes:
        pixel_hashes: See `data.facts.pixel_hashes`.
        pixels: As prepare_data makes them: uint8, (C, H, W).
        is_ours: Whether it carries the record of a generated image.
    """

    pixel_hashes: tuple[str, str]
    pixels: np.ndarray
    is_ours: bool

    @property
    def pixel_sha256(self) -> str:
        """The name of its pixels."""
        return self.pixel_hashes[0]


@dataclass(frozen=True)
class Looked:
    """What came of looking at files.

    Attributes:
        keys: Of the good images that are not ours, each pixels once.
        images: The same, uint8, (N, C, H, W).
        refused: What is no good image, and why; copies among them.
        num_ours: Images that Vivero made.
    """

    keys: list[str]
    images: np.ndarray
    refused: list[QuarantineRow]
    num_ours: int


def inspect_file(file: IncomingFile) -> IncomingImage | Refusal:
    """Hold one file to the rules for single images; runs in a worker, since it may be hostile."""
    file_name = file.key.rpartition("/")[2]  # as an import would see it
    facts = inspect_image(file.content, file_name)
    if isinstance(facts, Refusal):
        return facts
    form, size = file.form, f"{facts.width_px} x {facts.height_px} pixels"
    if min(facts.width_px, facts.height_px) < form.min_side_px:
        return Refusal("too_small", f"{size}; min_side_px is {form.min_side_px}")
    if max(facts.width_px, facts.height_px) > form.max_side_px:
        return Refusal("too_large", f"{size}; max_side_px is {form.max_side_px}")
    if facts.std <= form.blank_max_std:
        return Refusal("blank", f"its pixels vary by {facts.std:g}")
    image = decode(file.content)
    if isinstance(image, Refusal):
        return image
    pixels = np.ascontiguousarray(square_pixels(image, form.size_px, form.num_channels))
    return IncomingImage(pixel_hashes(image), pixels, carries_provenance(file.content))


def look_at(
    source: Source,
    keys: Sequence[str],
    form: Form,
    num_processes: int,
    made: MadeImages | None = None,
) -> Looked:
    """Read, decode and check files one by one; copies of the same pixels count once.

    Args:
        source: Where the files are.
        keys: Of the files.
        form: What a good image is like.
        num_processes: How many processes decode.
        made: The record of generated images, of which those are found that lost their own record.
    """
    unreadable: dict[str, Refusal] = {}

    def files() -> Iterator[IncomingFile]:
        for key in keys:
            content = source.content(key)
            if isinstance(content, Refusal):
                unreadable[key] = content
                content = b""
            yield IncomingFile(key, content, form)

    looks = map_isolated(inspect_file, files(), Limits(num_processes))
    good: dict[str, tuple[str, np.ndarray]] = {}
    refused: list[QuarantineRow] = []
    num_ours = 0
    for key, look in zip(keys, with_progress(looks, len(keys), "new images"), strict=True):
        outcome = unreadable.get(key, look)
        if isinstance(outcome, Refusal | Crash):
            refused.append(QuarantineRow(None, None, key, outcome.reason, outcome.detail))
        elif outcome.is_ours or (made and made.are_made([outcome.pixel_hashes])[0]):
            num_ours += 1
        elif outcome.pixel_sha256 in good:
            detail = f"the same pixels as {good[outcome.pixel_sha256][0]}"
            refused.append(QuarantineRow(None, None, key, "duplicate", detail))
        else:
            good[outcome.pixel_sha256] = (key, outcome.pixels)
    shape = (0, form.num_channels, form.size_px, form.size_px)
    images = [pixels for _, pixels in good.values()]
    return Looked(
        keys=[key for key, _ in good.values()],
        images=np.stack(images) if images else np.zeros(shape, np.uint8),
        refused=refused,
        num_ours=num_ours,
    )
