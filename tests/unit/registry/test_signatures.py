"""A signed version: whatever is changed, it is refused before it is loaded, and it is said why."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vivero.config.environment import user_config_dir
from vivero.errors import BundleError, ConfigError
from vivero.registry.keys import (
    PublicKey,
    SigningKey,
    _make_key,
    export_key,
    public_key_of,
    signing_key,
    trusted_keys,
)
from vivero.registry.signatures import (
    SIGNATURE_NAME,
    new_record,
    sign_folder,
    verify_folder,
)

FILES = ("bundle/config.json", "bundle/unet/weights.safetensors", "metrics.json", "MODEL_CARD.md")


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey(_make_key(tmp_path / "keys" / "key.pem"), None)


@pytest.fixture
def keys(key: SigningKey) -> dict[str, PublicKey]:
    own = public_key_of(key)
    return {own.fingerprint: own}


def folder_of(where: Path, version: str, key: SigningKey) -> Path:
    """A folder as a signed version has it; what is loaded is in test_verified_versions."""
    for name in FILES:
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{name} of version {version} {'x' * 100}".encode())
    sign_folder(where, new_record("vivero", version, version * 64), key)
    return where


def test_a_changed_payload_is_forged_even_if_the_registry_says_otherwise(
    tmp_path: Path, key: SigningKey, keys: dict[str, PublicKey]
):
    folder = folder_of(tmp_path / "good", "2", key)
    path = folder / SIGNATURE_NAME
    signature = json.loads(path.read_text())
    payload = base64.b64decode(signature["dsseEnvelope"]["payload"])
    signature["dsseEnvelope"]["payload"] = base64.b64encode(payload + b" ").decode()
    path.write_text(json.dumps(signature))
    with pytest.raises(BundleError, match=r"model\.sig.*forged"):
        verify_folder(folder, keys)


def test_reports_may_come_later_and_are_signed_on_their_own(
    tmp_path: Path, key: SigningKey, keys: dict[str, PublicKey]
):
    folder = folder_of(tmp_path / "good", "2", key)
    (folder / "reports" / "abc").mkdir(parents=True)
    (folder / "reports" / "abc" / "metrics.json").write_text("{}")
    assert verify_folder(folder, keys).version == "2"
    with pytest.raises(BundleError, match=r"model\.sig is missing"):
        verify_folder(folder / "reports" / "abc", keys)


def test_a_key_is_made_once_for_the_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    root = tmp_path / "repository"
    root.mkdir()
    assert trusted_keys(root) == {}
    first = signing_key(root)
    assert first.path.parent == user_config_dir()
    assert first.path.stat().st_mode & 0o777 == 0o600
    assert signing_key(root) == first
    own = public_key_of(first)
    assert list(trusted_keys(root)) == [own.fingerprint]
    exported = export_key(root, own, "ada")
    assert exported.parent == root / "trusted_keys"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "somebody else"))
    assert trusted_keys(root)[own.fingerprint].origin == str(exported)


@pytest.mark.parametrize(
    ("repository", "mlflow", "is_refused"),
    [
        ("https://git.example.org/v.git", "http://mlflow:15402", True),
        ("https://git.example.org/v.git", "https://mlflow.example.org", True),
        ("https://git.example.org/v.git", "http://127.0.0.1:15402", False),
        ("/home/ada/vivero", "http://localhost:15402", False),
        ("/home/ada/vivero", "http://[::1]:15402", False),
        ("/home/ada/vivero", None, False),
        (None, "https://mlflow.example.org", False),
    ],
)
def test_a_run_for_others_makes_no_key_of_its_own(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    repository: str | None,
    mlflow: str | None,
    is_refused: bool,
):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name, value in (("VIVERO_REPOSITORY", repository), ("MLFLOW_TRACKING_URI", mlflow)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    if not is_refused:
        assert signing_key(tmp_path / "clone").path.is_file()
        return
    with pytest.raises(ConfigError, match=r"openssl ecparam .*mount it.*vivero keys export"):
        signing_key(tmp_path / "clone")
    assert not user_config_dir().exists()
    monkeypatch.setenv("VIVERO_SIGNING_KEY", str(_make_key(tmp_path / "mounted" / "key.pem")))
    assert signing_key(tmp_path / "clone").path == tmp_path / "mounted" / "key.pem"


def test_a_key_in_the_repository_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = _make_key(tmp_path / "key.pem")
    monkeypatch.setenv("VIVERO_SIGNING_KEY", str(path))
    with pytest.raises(ConfigError, match="lies in the repository"):
        signing_key(tmp_path)
    path.write_text("no key")
    with pytest.raises(ConfigError, match="expected an elliptic private key as PEM"):
        signing_key(tmp_path / "elsewhere")


def test_without_a_place_for_a_key_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    assert trusted_keys(tmp_path) == {}
    with pytest.raises(ConfigError, match="let VIVERO_SIGNING_KEY name one"):
        signing_key(tmp_path)


def test_a_key_with_a_password_that_is_not_given_is_trusted_by_its_public_half_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    private = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "key.pem"
    path.write_bytes(private.private_bytes(*form, serialization.BestAvailableEncryption(b"word")))
    root = tmp_path / "clone"
    monkeypatch.setenv("VIVERO_SIGNING_KEY", str(path))
    assert trusted_keys(root) == {}
    with pytest.raises(ConfigError, match="VIVERO_SIGNING_KEY_PASSWORD"):
        signing_key(root)
    monkeypatch.setenv("VIVERO_SIGNING_KEY_PASSWORD", "word")
    [fingerprint] = trusted_keys(root)
    export_key(root, public_key_of(signing_key(root)), "ada")
    monkeypatch.delenv("VIVERO_SIGNING_KEY_PASSWORD")
    assert list(trusted_keys(root)) == [fingerprint]
