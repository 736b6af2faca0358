"""Signatures over the files of a model version, and the record of which version they are.

A signature (`model.sig`, the format of OpenSSF model-signing) lists the sha256 of every file of a
folder. One of these files is `record.json`, which binds name, version number and weights: a validly
signed older version is no other version. Importing model_signing takes a second: it is done late.
"""

import contextlib
import json
import re
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vivero.config.environment import user_name
from vivero.errors import BundleError
from vivero.files import read_json, sha256_of_file, write_json
from vivero.registry.keys import PublicKey, SigningKey

RECORD_NAME = "record.json"
SIGNATURE_NAME = "model.sig"
REPORTS_DIR = "reports"  # each report there has a signature of its own: it came later


@dataclass(frozen=True)
class Record:
    """What a signature vouches for, beside the bytes.

    Attributes:
        model: Registered model.
        version: Its number, as text.
        weights_sha256: Of the bundle.
        protocol_hash: Of a report that was added later; None for the version itself.
        signed_at: UTC, ISO 8601.
        signed_by: User.
    """

    model: str
    version: str
    weights_sha256: str
    protocol_hash: str | None
    signed_at: str
    signed_by: str


def new_record(
    model: str, version: str, weights_sha256: str, protocol_hash: str | None = None
) -> Record:
    """A record of now and of this user."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Record(model, version, weights_sha256, protocol_hash, now, user_name())


def sign_folder(folder: Path, record: Record, key: SigningKey) -> str:
    """Write record.json and model.sig into a folder: all files in it are signed but reports/.

    Returns:
        sha256 of the signature's file.
    """
    from model_signing import signing

    write_json(folder / RECORD_NAME, asdict(record))
    config = signing.Config().set_hashing_config(_hashing())
    # The password is annotated as text, but goes to cryptography, which takes bytes alone.
    config.use_elliptic_key_signer(private_key=key.path, password=key.password)
    config.sign(folder, folder / SIGNATURE_NAME)
    return sha256_of_file(folder / SIGNATURE_NAME)


def verify_folder(folder: Path, keys: dict[str, PublicKey]) -> Record:
    """Hold every file of a folder against its signature.

    Args:
        folder: With record.json and model.sig.
        keys: Trusted keys, by fingerprint.

    Raises:
        BundleError: When there is no signature, nobody trusted made it, or a file is missing,
            altered, not signed, or a link; it says which.
    """
    from cryptography.exceptions import InvalidSignature
    from model_signing import verifying

    signature_path = folder / SIGNATURE_NAME
    key = _key_of(signature_path, keys)
    try:
        with _as_file(key.pem) as key_path:
            config = verifying.Config().set_hashing_config(_hashing())
            config.use_elliptic_key_verifier(public_key=key_path).verify(folder, signature_path)
        return Record(**read_json(folder / RECORD_NAME))
    except InvalidSignature as error:
        raise BundleError(f"{signature_path} is no signature of {key.origin}: forged") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"the files in {folder} are not those that were signed: {_readable(str(error))}"
        ) from error


def check_record(record: Record, expected: Record) -> None:
    """Refuse a validly signed folder that is another's.

    Args:
        record: As it was signed.
        expected: signed_at and signed_by do not matter.

    Raises:
        BundleError: Saying what was asked for and what was signed.
    """
    for name in ("model", "version", "weights_sha256", "protocol_hash"):
        asked, signed = getattr(expected, name), getattr(record, name)
        if asked != signed:
            raise BundleError(
                f"{RECORD_NAME} was signed for {name} {signed}, asked for was {asked}: these are "
                f"the files of another version"
            )


def _readable(mismatch: str) -> str:
    """The library's message without its bytes of hashes."""
    altered = re.findall(r"Hash mismatch for \\*'(.+?)\\*':", mismatch)
    others = re.findall(
        r"((?:Extra files found|Missing files) in model .+?)(?:[\"']\]|[\"'], )", mismatch
    )
    said = ([f"altered: {', '.join(altered)}"] if altered else []) + others
    return "; ".join(said) or mismatch


def _hashing() -> Any:
    """Everything counts, also what git would ignore, and links are refused."""
    from model_signing import hashing

    config = hashing.Config().use_file_serialization(hashing_algorithm="sha256")
    return config.set_ignored_paths(paths=[SIGNATURE_NAME, REPORTS_DIR], ignore_git_paths=False)


def _key_of(signature_path: Path, keys: dict[str, PublicKey]) -> PublicKey:
    """The trusted key that a signature names."""
    if signature_path.is_symlink() or not signature_path.is_file():
        raise BundleError(f"{signature_path} is missing: these files are not signed")
    try:
        material = json.loads(signature_path.read_bytes())["verificationMaterial"]
        fingerprint = str(material["publicKey"]["hint"])
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{signature_path} is no signature that names its key") from error
    if fingerprint not in keys:
        raise BundleError(
            f"{signature_path} was made with key {fingerprint[:16]}, which nobody trusts here. If "
            f"you do, put its public key into trusted_keys/ (`vivero keys export`, where it lies)"
        )
    return keys[fingerprint]


@contextlib.contextmanager
def _as_file(pem: bytes) -> Any:
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:
        file.write(pem)
        file.flush()
        yield file.name
