"""Files go to MLflow with a signature: a whole version, or a report added to it later.

The registry records the signature's hash last. Until then, and whenever it differs, the files are
refused, so that a kill between two uploads is never mistaken for a whole version.
"""

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivero.config.environment import read_environment
from vivero.errors import BundleError
from vivero.files import sha256_of_file
from vivero.registry.keys import signing_key, trusted_keys
from vivero.registry.report_record import read_report_record
from vivero.registry.signatures import (
    RECORD_NAME,
    REPORTS_DIR,
    SIGNATURE_NAME,
    Record,
    new_record,
    sign_folder,
)
from vivero.registry.signing_requests import copy_files, signed_copies
from vivero.registry.verdict_record import VERDICT_KEY, verdict_folder
from vivero.registry.versions import (
    SIGNATURE_TAG,
    ModelVersion,
    report_folder,
    report_name,
    report_tag,
)

log = logging.getLogger(__name__)


def sign_version(
    root: Path, client: Any, version: ModelVersion, files: Sequence[Path], with_files: bool
) -> None:
    """Sign the files of a version and store the signature.

    Args:
        root: Top of the repository.
        client: Of MLflow.
        version: Whose files they are.
        files: Files and folders here; only they can be vouched for, not what the store holds.
        with_files: Whether to send them too.

    Raises:
        ConfigError: When there is no usable key.
    """
    record = new_record(version.name, version.version, version.weights_sha256)
    upload = _Upload(version.model_id, "artifacts", with_files)
    sha256 = _sign_and_send(root, client, files, record, upload)
    client.set_model_version_tag(version.name, version.version, SIGNATURE_TAG, sha256)


def add_signed_report(
    root: Path, client: Any, version: ModelVersion, files: Sequence[Path]
) -> None:
    """Keep a report under its protocol, so that later candidates can be compared.

    A report with other bytes under the same protocol is replaced by this one, newly signed.

    Args:
        root: Top of the repository.
        client: Of MLflow.
        version: Whose report it is.
        files: metrics.json and what belongs to it.
    """
    metrics_path = next(path for path in files if path.name == "metrics.json")
    protocol_hash = read_report_record(metrics_path).protocol.hash
    tag = report_tag(protocol_hash)
    if _is_stored(root, version, files, protocol_hash):
        return
    record = new_record(version.name, version.version, version.weights_sha256, protocol_hash)
    place = f"artifacts/{REPORTS_DIR}/{report_name(protocol_hash)}"
    upload = _Upload(version.model_id, place, with_files=True)
    sha256 = _sign_and_send(root, client, files, record, upload)
    client.set_model_version_tag(version.name, version.version, tag, sha256)


def add_signed_verdict(
    root: Path, client: Any, version: ModelVersion, files: Sequence[Path]
) -> None:
    """Keep the last verdict on a version with its signed files; an equal one stays.

    Args:
        root: Top of the repository.
        client: Of MLflow.
        version: Whose verdict it is.
        files: verdict.json and the metrics.json that it is about.
    """
    folder = verdict_folder(root, version)
    if folder is not None and _are_same(folder, files):
        return
    record = new_record(version.name, version.version, version.weights_sha256, VERDICT_KEY)
    place = f"artifacts/{REPORTS_DIR}/{report_name(VERDICT_KEY)}"
    sha256 = _sign_and_send(root, client, files, record, _Upload(version.model_id, place, True))
    client.set_model_version_tag(version.name, version.version, report_tag(VERDICT_KEY), sha256)


def _is_stored(
    root: Path, version: ModelVersion, files: Sequence[Path], protocol_hash: str
) -> bool:
    """Whether the version has these very files under this protocol, verified."""
    try:
        folder = report_folder(root, version, protocol_hash)
    except BundleError as error:
        log.warning("the report in MLflow is replaced: %s", error)
        return False
    if folder is None:
        return False
    is_same = _are_same(folder, files)
    if not is_same:
        log.info("version %s gets a new report under a known protocol", version.version)
    return is_same


def _are_same(folder: Path, files: Sequence[Path]) -> bool:
    return all(
        (folder / path.name).is_file()
        and sha256_of_file(folder / path.name) == sha256_of_file(path)
        for path in files
    )


@dataclass(frozen=True)
class _Upload:
    model_id: str
    place: str
    with_files: bool


def _sign_and_send(
    root: Path, client: Any, files: Sequence[Path], record: Record, upload: _Upload
) -> str:
    """Hash of the signature that was stored."""
    unsigned_dir = read_environment().vivero_unsigned_dir
    with tempfile.TemporaryDirectory() as temporary:
        if unsigned_dir is None:
            folder = Path(temporary) / "signed"
            copy_files(files, folder)
            sign_folder(folder, record, signing_key(root))
        else:
            folder = signed_copies(unsigned_dir, record, files, trusted_keys(root))
        sha256 = sha256_of_file(folder / SIGNATURE_NAME)
        if not upload.with_files:
            folder = _signature_alone(folder, Path(temporary) / "signature")
        client.log_model_artifacts(upload.model_id, str(folder), upload.place)
    return sha256


def _signature_alone(folder: Path, signature_dir: Path) -> Path:
    signature_dir.mkdir()
    for name in (RECORD_NAME, SIGNATURE_NAME):
        shutil.copyfile(folder / name, signature_dir / name)
    return signature_dir
