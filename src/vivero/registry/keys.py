"""Keys that sign model versions: one private key of the user, and the public keys that are trusted.

The private key never lies in the repository or beside the models. Trusted are the public keys in
the repository's `trusted_keys/`, which git's review guards, those in VIVERO_TRUSTED_KEYS where
there is no clone, and the user's own.
"""

import contextlib
import hashlib
import ipaddress
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vivero.config.environment import read_environment, user_config_dir
from vivero.errors import ConfigError
from vivero.files import sync, write_text

TRUSTED_DIR = "trusted_keys"
KEY_NAME = "signing_key.pem"


@dataclass(frozen=True)
class SigningKey:
    """A private key as a file.

    Attributes:
        path: PEM.
        password: Of the file; None when it has none.
    """

    path: Path
    password: bytes | None

    def __repr__(self) -> str:
        return f"SigningKey({self.path})"


@dataclass(frozen=True)
class PublicKey:
    """A public key that may have signed a model.

    Attributes:
        origin: Where it was found, for messages.
        pem: SubjectPublicKeyInfo.
    """

    origin: str
    pem: bytes

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of pem, by which a signature names its key."""
        return hashlib.sha256(self.pem).hexdigest()


def signing_key(root: Path) -> SigningKey:
    """The key of VIVERO_SIGNING_KEY, or the user's own, made at first use.

    Raises:
        ConfigError: When it is missing, no elliptic key, needs another password, or lies in root;
            or when a run for others has none.
    """
    found = _existing_key()
    if found is None:
        _require_key_of_ones_own_home()
        found = SigningKey(_own_key(), None)
    if found.path.resolve().is_relative_to(root.resolve()):
        raise ConfigError(
            f"the signing key {found.path} lies in the repository, where it can be committed or "
            f"stored beside the models; move it elsewhere and let VIVERO_SIGNING_KEY name it"
        )
    public_key_of(found)
    return found


def trusted_keys(root: Path | None) -> dict[str, PublicKey]:
    """All keys whose signatures count, by fingerprint."""
    folders = [] if root is None else [root / TRUSTED_DIR]
    given = read_environment().vivero_trusted_keys
    if given is not None:
        if not given.is_dir():
            raise ConfigError(f"VIVERO_TRUSTED_KEYS names {given}, which is no folder")
        folders.append(given)
    keys = [_public_key(path) for folder in folders for path in sorted(folder.glob("*.pem"))]
    own = _existing_key()
    if own is not None and not _is_locked(own):
        keys.append(public_key_of(own))
    return {key.fingerprint: key for key in reversed(keys)}


def export_key(root: Path, key: PublicKey, name: str) -> Path:
    """Write a public key into the repository's folder of trusted keys."""
    path = root / TRUSTED_DIR / f"{name}-{key.fingerprint[:8]}.pem"
    write_text(path, key.pem.decode())
    return path


def public_key_of(key: SigningKey) -> PublicKey:
    """The public half of a private key.

    Raises:
        ConfigError: When the file cannot be read as an elliptic key with this password.
    """
    try:
        private = serialization.load_pem_private_key(key.path.read_bytes(), key.password)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"cannot read the signing key {key.path}: {error}; expected an elliptic private key "
            f"as PEM (`openssl ecparam -name prime256v1 -genkey -noout`), and its password, if it "
            f"has one, in VIVERO_SIGNING_KEY_PASSWORD"
        ) from error
    return PublicKey(str(key.path), _pem(private.public_key(), key.path))


def _is_locked(key: SigningKey) -> bool:
    """Whether the file has a password that this process was not given, since it signs nothing."""
    try:
        serialization.load_pem_private_key(key.path.read_bytes(), key.password)
    except TypeError:  # cryptography's word for a password that is missing, or too many
        return key.password is None
    except (OSError, ValueError, UnsupportedAlgorithm):
        return False
    return False


def _existing_key() -> SigningKey | None:
    environment = read_environment()
    if environment.vivero_signing_key is not None:
        secret = environment.vivero_signing_key_password
        password = secret.get_secret_value().encode() if secret else None
        return SigningKey(environment.vivero_signing_key, password or None)
    try:
        path = user_config_dir() / KEY_NAME
    except RuntimeError:  # a user without a home has no key there
        return None
    return SigningKey(path, None) if path.exists() else None


def _require_key_of_ones_own_home() -> None:
    """Refuse to make a key for a run that works for others: in a container it is gone after it.

    Such a run clones VIVERO_REPOSITORY and registers with an MLflow on another machine; services
    on this machine's loopback are one user's own.
    """
    environment = read_environment()
    host = urlsplit(environment.mlflow_tracking_uri or "").hostname
    if environment.vivero_repository and host and not _is_loopback(host):
        raise ConfigError(
            f"a run for {host} has no signing key, and one made here would be trusted by nobody "
            f"else and lost with this machine; make one (`openssl ecparam -name prime256v1 "
            f"-genkey -noout -out signing_key.pem`), mount it, let VIVERO_SIGNING_KEY name it, "
            f"and commit its public half with `vivero keys export` (docs/guides/signatures.md)"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _own_key() -> Path:
    try:
        return _make_key(user_config_dir() / KEY_NAME)
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        raise ConfigError(
            f"cannot make a signing key in your folder of settings: {error}; let "
            f"VIVERO_SIGNING_KEY name one (`openssl ecparam -name prime256v1 -genkey -noout`)"
        ) from error


def _make_key(path: Path) -> Path:
    """A new private key, readable by its owner alone; of two makers the first one wins."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(part)
        sync(path.parent)
    finally:
        Path(part).unlink()
    return path


def _public_key(path: Path) -> PublicKey:
    try:
        loaded = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"cannot read the trusted key {path}: {error}; expected an elliptic public key as "
            f"PEM, as `vivero keys export` writes it"
        ) from error
    return PublicKey(str(path), _pem(loaded, path))


def _pem(key: object, path: Path) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{path} is no elliptic key; expected one of secp256r1, 384r1 or 521r1")
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
