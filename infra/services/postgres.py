"""PostgreSQL: its folder, its user, its databases."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg2
from psycopg2 import sql

from infra.services.settings import DATABASE_PASSWORD, DATABASE_USER, DATABASES, HOST, Settings
from vivero.errors import ConfigError

SYSTEM_USER = "postgres"  # PostgreSQL refuses to run as root
DEBIAN_DIR = Path("/usr/lib/postgresql")


def bin_dir() -> Path | None:
    """Folder of PostgreSQL's programs, the newest version; None where there is none."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(DEBIAN_DIR.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None


def required_bin_dir() -> Path:
    """As bin_dir.

    Raises:
        ConfigError: When PostgreSQL is not installed.
    """
    folder = bin_dir()
    if folder is None:
        raise ConfigError(
            f"PostgreSQL is not installed: no initdb on PATH or below {DEBIAN_DIR}. Install it "
            f"(Debian, Ubuntu: `apt-get install postgresql`; no database of yours is touched), "
            f"then run the same command again"
        )
    return folder


def server_user() -> str | None:
    """Who PostgreSQL runs as: user postgres when we are root, else ourselves (None).

    Raises:
        ConfigError: When we are root and there is no such user.
    """
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError as error:
        raise ConfigError(
            f"PostgreSQL does not run as root, and there is no user {SYSTEM_USER}; add one "
            f"(`useradd --system {SYSTEM_USER}`) or start the services as another user"
        ) from error
    return SYSTEM_USER


def data_dir(settings: Settings) -> Path:
    """Where the databases lie: below the folder, or where user postgres can go.

    A clone in a closed home (mode 0700) is closed for user postgres as well; opening the home of
    a person is not ours to do, so the data then lies in the home of user postgres. Where they are,
    they stay, also when a folder is opened or closed later.
    """
    inside = settings.folder / "postgres"
    user = server_user()
    if user is None:
        return inside
    outside = Path(pwd.getpwnam(user).pw_dir) / f"vivero-{settings.digest}"
    for folder in (inside, outside):
        if (folder / "PG_VERSION").exists():
            return folder
    return inside if _may_enter(settings.folder, user) else outside


def _may_enter(folder: Path, user: str) -> bool:
    """Whether a user may go into a folder; what is not there yet will be open."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    entered = subprocess.run(["test", "-x", str(existing)], user=user, group=_group(user), cwd="/")
    return entered.returncode == 0


def _group(user: str) -> int:
    return pwd.getpwnam(user).pw_gid


def prepare(settings: Settings, password: str) -> None:
    """Make the database cluster, unless it is there.

    Raises:
        ConfigError: When initdb refuses; with its words.
    """
    folder = data_dir(settings)
    if (folder / "PG_VERSION").exists():
        return
    user = server_user()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory() as made:
        password_path = Path(made) / "password"
        password_path.write_text(password, encoding="utf-8")
        if user is not None:
            for path in (folder, password_path.parent, password_path):
                shutil.chown(path, user)
        command = [
            *(str(required_bin_dir() / "initdb"), "--pgdata", str(folder), "--data-checksums"),
            *("--username", DATABASE_USER, "--pwfile", str(password_path)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
        ]
        group = None if user is None else _group(user)
        done = subprocess.run(
            command,
            user=user,
            group=group,
            cwd="/",
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
    if done.returncode:
        raise ConfigError(f"initdb in {folder} failed: {done.stderr.strip()}")


def command(settings: Settings) -> list[str]:
    """What starts the server: on loopback alone, and by password alone."""
    options = {
        "listen_addresses": HOST,
        "port": str(settings.port("postgres")),
        "unix_socket_directories": "",
        "max_connections": "200",
    }
    flags = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    return [str(required_bin_dir() / "postgres"), "-D", str(data_dir(settings)), *flags]


def connect(
    settings: Settings, password: str, database: str = "postgres"
) -> psycopg2.extensions.connection:
    """A connection that commits each statement.

    Raises:
        psycopg2.OperationalError: When the server does not answer, or not to us.
    """
    connection = psycopg2.connect(
        host=HOST,
        port=settings.port("postgres"),
        user=DATABASE_USER,
        password=password,
        dbname=database,
        connect_timeout=5,
    )
    connection.autocommit = True
    return connection


def make_databases(settings: Settings, password: str) -> None:
    """Make the databases that are missing."""
    connection = connect(settings, password)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            there = {name for (name,) in cursor.fetchall()}
            for name in DATABASES:
                if name not in there:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    finally:
        connection.close()


def refuses(settings: Settings, env: dict[str, str]) -> str | None:
    """Why the server will never let us in, if so; None when it does or is only starting."""
    try:
        connect(settings, env[DATABASE_PASSWORD]).close()
    except psycopg2.OperationalError as error:
        if "password authentication failed" not in str(error):
            return None
        return (
            f"PostgreSQL does not take the password of {settings.env_path}: the databases in "
            f"{data_dir(settings)} are older than that file. Bring the file back, or remove the "
            f"folder (its runs and models are lost), and run the same command again"
        )
    return None
