"""Registering without the key, signing in a process of its own, and completing without the key."""

from pathlib import Path

import pytest

from tests.model_versions import report
from tests.unit.registry.test_registration import NAME, candidate_of, with_report
from vivero.config.environment import user_config_dir
from vivero.config.schema import Config
from vivero.errors import BundleError, SignatureNeededError
from vivero.files import sha256_of_file
from vivero.registry.keys import SigningKey, _make_key, export_key, public_key_of
from vivero.registry.registration import Candidate, register_version
from vivero.registry.signing_requests import sign_requests, unsigned_requests
from vivero.registry.verdict_record import registered_verdict
from vivero.registry.versions import bring_here, list_versions


@pytest.fixture
def unsigned_dir(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where requests are left; no key is anywhere that `register` looks."""
    folder = root / "work" / "unsigned"
    monkeypatch.setenv("VIVERO_UNSIGNED_DIR", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("VIVERO_SIGNING_KEY", raising=False)
    return folder


@pytest.fixture
def key(root: Path, tmp_path: Path) -> SigningKey:
    """A key that the repository trusts."""
    made = SigningKey(_make_key(tmp_path / "elsewhere" / "key.pem"), None)
    export_key(root, public_key_of(made), "workflows")
    return made


@pytest.fixture
def waiting(root: Path, unsigned_dir: Path, tiny_config: Config) -> Candidate:
    """A candidate whose version waits for its signature."""
    candidate = candidate_of(root, tiny_config)
    with pytest.raises(SignatureNeededError, match=r"version 1 .*make sign.*make register"):
        register_version(root, NAME, candidate)
    return candidate


def test_a_version_is_complete_after_its_signature_and_not_before(
    root: Path, unsigned_dir: Path, key: SigningKey, waiting: Candidate
):
    [version] = list_versions(root, NAME)
    assert not version.signature_sha256
    with pytest.raises(BundleError):
        bring_here(root, version)

    [record] = sign_requests(unsigned_dir, key)
    assert (record.version, record.weights_sha256) == ("1", version.weights_sha256)
    assert sign_requests(unsigned_dir, key) == []
    complete, is_new = register_version(root, NAME, waiting)
    assert not is_new
    assert bring_here(root, complete).is_dir()
    assert not user_config_dir().exists(), "no process made a key of its own"


def test_it_waits_as_long_as_nobody_signs(root: Path, unsigned_dir: Path, waiting: Candidate):
    with pytest.raises(SignatureNeededError):
        register_version(root, NAME, waiting)
    assert len(unsigned_requests(unsigned_dir)) == 1
    assert len(list_versions(root, NAME)) == 1


def test_a_request_that_was_altered_after_its_signature_must_be_signed_again(
    root: Path, unsigned_dir: Path, key: SigningKey, waiting: Candidate
):
    sign_requests(unsigned_dir, key)
    [card] = unsigned_dir.glob("*/MODEL_CARD.md")
    card.write_text("# Another model\n")
    with pytest.raises(SignatureNeededError):
        register_version(root, NAME, waiting)
    assert card.read_text() == "# A model\n"
    assert not list_versions(root, NAME)[0].signature_sha256


def test_a_signature_that_nobody_trusts_is_refused(
    root: Path, unsigned_dir: Path, tmp_path: Path, waiting: Candidate
):
    stranger = SigningKey(_make_key(tmp_path / "stranger" / "key.pem"), None)
    sign_requests(unsigned_dir, stranger)
    with pytest.raises(BundleError, match="nobody trusts here"):
        register_version(root, NAME, waiting)
    assert not list_versions(root, NAME)[0].signature_sha256


def test_the_record_of_another_version_is_not_taken(
    root: Path, unsigned_dir: Path, key: SigningKey, waiting: Candidate
):
    [path] = unsigned_dir.glob("*/record.json")
    path.write_text(path.read_text().replace('"version": "1"', '"version": "9"'))
    sign_requests(unsigned_dir, key)
    with pytest.raises(BundleError, match="another version"):
        register_version(root, NAME, waiting)


@pytest.mark.parametrize("text", ["", "[]", '{"model": "vivero"}'])
def test_a_damaged_request_is_named(unsigned_dir: Path, key: SigningKey, text: str):
    (unsigned_dir / "request").mkdir(parents=True)
    (unsigned_dir / "request" / "record.json").write_text(text)
    with pytest.raises(BundleError, match=r"record\.json is damaged; run `make retrain`"):
        sign_requests(unsigned_dir, key)


def test_a_new_report_and_its_verdict_are_signed_in_one_round(
    root: Path, unsigned_dir: Path, key: SigningKey, waiting: Candidate, tiny_config: Config
):
    sign_requests(unsigned_dir, key)
    register_version(root, NAME, waiting)
    with_report(waiting, tiny_config, report(4.0, protocol="b"))
    with pytest.raises(SignatureNeededError):
        register_version(root, NAME, waiting)
    assert len(sign_requests(unsigned_dir, key)) == 2
    version, _ = register_version(root, NAME, waiting)
    verdict = registered_verdict(root, version)
    assert verdict is not None
    assert verdict.report_sha256 == sha256_of_file(waiting.metrics_path)
