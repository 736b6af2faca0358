"""The environment, read in this module alone: addresses, credentials, switches.

No value of a secret is ever put into a message, a tag or a log.
"""

import getpass
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from vivero.config.paths import tracking_root, work_dir


class Environment(BaseSettings):
    """What the environment says; every field is optional."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    mlflow_tracking_uri: str | None = None
    vivero_ab_database_url: SecretStr | None = None
    vivero_inception_dir: Path | None = None
    vivero_num_threads: int | None = None
    vivero_signing_key: Path | None = None
    vivero_signing_key_password: SecretStr | None = None
    vivero_unsigned_dir: Path | None = None
    vivero_trainer_dir: Path | None = None
    vivero_trusted_keys: Path | None = None
    xdg_config_home: Path | None = None
    vivero_incoming: str | None = None
    vivero_repository: str | None = None
    vivero_runs_dir: Path | None = None
    vivero_dvc_remote: str | None = None


def read_environment() -> Environment:
    """The environment as it is now."""
    return Environment()


def tracking_uri(root: Path) -> str:
    """Address of MLflow: MLFLOW_TRACKING_URI, or an sqlite file at the top of the repository."""
    given = read_environment().mlflow_tracking_uri
    return given or f"sqlite:///{tracking_root(root) / 'mlflow.db'}"


def local_artifacts_dir(root: Path) -> Path:
    """Where the embedded MLflow store keeps its files; unused when a server is given."""
    return tracking_root(root) / "mlartifacts"


def extractor_weights_dir(root: Path) -> Path:
    """Where Inception's weights lie: VIVERO_INCEPTION_DIR, or else where they are downloaded to."""
    return read_environment().vivero_inception_dir or work_dir(root) / "extractors"


def ab_database_url(root: Path) -> SecretStr:
    """Where A/B tests are kept: VIVERO_AB_DATABASE_URL, or an sqlite file beside MLflow's."""
    given = read_environment().vivero_ab_database_url
    return given or SecretStr(f"sqlite:///{tracking_root(root) / 'ab_tests.db'}")


def user_config_dir() -> Path:
    """The user's own folder of settings, outside every repository: where a signing key is made."""
    return (read_environment().xdg_config_home or Path("~/.config").expanduser()) / "vivero"


def user_name() -> str:
    """Who acts, for the record of promotions; "unknown" where the system does not say."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
