"""Ways to files of a public data set: a Debian package, or a download. Each file is hash-checked.

A way that does not lead there raises SourceError with a reason; the caller tries the next one.
"""

import gzip
import hashlib
import logging
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import requests
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential
from tqdm import tqdm

from vivero.files import write_whole

log = logging.getLogger(__name__)

APT_TIMEOUT_S = 300
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
BLOCK_BYTES = 1 << 16


class SourceError(Exception):
    """A way to the files is closed; the message says why."""


@dataclass(frozen=True)
class PackedFile:
    """A gzip file, and the sha256 of what is inside it (packing differs between mirrors)."""

    name: str
    sha256: str


def read_packed(folder: Path, file: PackedFile) -> bytes:
    """The unpacked content of folder/file.name.

    Raises:
        SourceError: When it is missing, damaged, or not the content that was expected.
    """
    path = folder / file.name
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise SourceError(f"{path} is not there") from error
    except (OSError, EOFError) as error:
        raise SourceError(f"{path} cannot be read ({error})") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != file.sha256:
        raise SourceError(f"{path} has sha256 {sha256} inside; {file.sha256} was expected")
    return content


def unpack_debian_package(package: str, work_dir: Path) -> Path:
    """Download a Debian package and unpack it below work_dir; needs apt, but no root.

    When this machine has no package lists (as in a fresh container), private ones are fetched.

    Returns:
        The folder that stands for the file system's root.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SourceError("this system has no apt-get and dpkg-deb")
    download_dir, root_dir = work_dir / "debian", work_dir / "debian_root"
    for folder in (download_dir, root_dir):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        _run(["apt-get", "download", package], download_dir)
    except SourceError as first_error:
        options = _private_apt(work_dir / "apt")
        try:
            _run(["apt-get", *options, "update"], download_dir)
            _run(["apt-get", *options, "download", package], download_dir)
        except SourceError as error:
            raise SourceError(f"{first_error}; with fresh package lists: {error}") from error
    archives = sorted(download_dir.glob("*.deb"))
    if not archives:
        raise SourceError(f"apt-get download {package} left no package")
    _run(["dpkg-deb", "-x", str(archives[0]), str(root_dir)], download_dir)
    return root_dir


def _private_apt(folder: Path) -> list[str]:
    """Options that make apt keep its state in folder, where no root is needed."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]


def _run(command: Sequence[str], cwd: Path) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=APT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(f"`{' '.join(command)}` failed: {error}") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SourceError(f"`{' '.join(command)}` failed: {said}")


def download_files(base_url: str, files: Sequence[PackedFile], folder: Path) -> Path:
    """Download every file into folder, each whole and checked; what is there already is kept.

    Returns:
        folder.
    """
    for file in files:
        try:
            read_packed(folder, file)
        except SourceError:
            _download(f"{base_url}/{file.name}", folder / file.name)
            read_packed(folder, file)
    return folder


def _download(url: str, path: Path) -> None:
    log.info("downloading %s", url)
    try:
        _download_with_retries(url, path)
    except requests.RequestException as error:
        raise SourceError(f"{url} cannot be downloaded: {error}") from error


@retry(
    retry=retry_if_exception_type((requests.ConnectionError, requests.Timeout)),
    stop=stop_after_attempt(3),
    wait=wait_exponential(multiplier=0.5, max=10),
    reraise=True,
)
def _download_with_retries(url: str, path: Path) -> None:
    timeouts_s = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    with requests.get(url, stream=True, timeout=timeouts_s) as answer:
        answer.raise_for_status()
        num_bytes = int(answer.headers.get("Content-Length", 0)) or None
        with (
            write_whole(path) as part_path,
            part_path.open("wb") as part,
            tqdm(total=num_bytes, unit="B", unit_scale=True, desc=path.name, disable=None) as bar,
        ):
            for block in answer.iter_content(BLOCK_BYTES):
                part.write(block)
                bar.update(len(block))
