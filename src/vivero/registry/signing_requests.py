"""Signing in a process of its own: `register` leaves what must be signed and takes it signed.

The folder VIVERO_UNSIGNED_DIR has one folder per request: copies of the files and record.json, and
model.sig once it is signed. So the process that has the private key reads files and writes
signatures, and the processes that train, judge and talk to servers never have the key.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vivero.errors import BundleError, SignatureNeededError
from vivero.files import read_json, sha256_of_file, sha256_of_json, write_json
from vivero.registry.keys import PublicKey, SigningKey
from vivero.registry.signatures import (
    RECORD_NAME,
    SIGNATURE_NAME,
    Record,
    check_record,
    new_record,
    sign_folder,
    verify_folder,
)


def copy_files(files: Sequence[Path], folder: Path) -> None:
    """Copy files and folders into a folder; DVC may keep links, which cannot be signed."""
    folder.mkdir(parents=True)
    for path in files:
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        copy(path, folder / path.name)


def signed_copies(
    unsigned_dir: Path, record: Record, files: Sequence[Path], keys: dict[str, PublicKey]
) -> Path:
    """The folder with the files, their record and their signature.

    Args:
        unsigned_dir: Folder of all requests.
        record: What the signature must vouch for.
        files: Files and folders that must be signed.
        keys: Trusted keys, by fingerprint.

    Raises:
        SignatureNeededError: When they are not signed yet; a request for them is there now.
        BundleError: When the signature is of nobody who is trusted.
    """
    request = request_folder(unsigned_dir, record)
    if (request / SIGNATURE_NAME).exists() and _digests(request) == _digests_of(files):
        check_record(verify_folder(request, keys), record)
        return request
    shutil.rmtree(request, ignore_errors=True)
    copy_files(files, request)
    write_json(request / RECORD_NAME, asdict(record))  # last: without it there is no request
    raise SignatureNeededError(
        f"version {record.version} of '{record.model}' waits for its signature; run `make sign`, "
        f"then `make register`"
    )


def request_folder(unsigned_dir: Path, record: Record) -> Path:
    """Where the request for a record is; the time and the user of the record do not matter."""
    named = {**asdict(record), "signed_at": None, "signed_by": None}
    return unsigned_dir / sha256_of_json(named)[:16]


def unsigned_requests(unsigned_dir: Path) -> list[Path]:
    """Folders that are complete and not signed."""
    found = sorted(path.parent for path in unsigned_dir.glob(f"*/{RECORD_NAME}"))
    return [folder for folder in found if not (folder / SIGNATURE_NAME).exists()]


def sign_requests(unsigned_dir: Path, key: SigningKey) -> list[Record]:
    """Sign every request; returns what was signed.

    Raises:
        BundleError: When the record of a request is damaged.
    """
    signed = []
    for folder in unsigned_requests(unsigned_dir):
        try:
            asked = Record(**read_json(folder / RECORD_NAME))
        except (OSError, ValueError, TypeError) as error:
            raise BundleError(f"{folder / RECORD_NAME} is damaged; run `make retrain`") from error
        now = new_record(asked.model, asked.version, asked.weights_sha256, asked.protocol_hash)
        sign_folder(folder, now, key)
        signed.append(now)
    return signed


def _digests_of(files: Sequence[Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in files:
        if path.is_dir():
            found |= {f"{path.name}/{name}": digest for name, digest in _digests(path).items()}
        else:
            found[path.name] = sha256_of_file(path)
    return found


def _digests(folder: Path) -> dict[str, str]:
    """sha256 of each file below a folder but for record and signature at its top."""
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {
        name: sha256_of_file(path)
        for name, path in names.items()
        if path.is_file() and name not in (RECORD_NAME, SIGNATURE_NAME)
    }
