"""Which environment variables reach our processes, and which are meant for other programs.

A variable that a person exported for another project must not redirect, rename or break a run of
this one. This module holds the one list. `adopt` applies it to a process at its start, so what the
process starts inherits the result. The guide docs/guides/environment.md explains the list.

Pure functions besides `adopt`: no files, no imports outside the standard library.
"""

import fnmatch
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost", "::1")
IN_BRACKETS = re.compile(r"\[([0-9A-Fa-f:.]+)\](:\d+)?")  # httpx ends at this form of an address
API_URL = "PREFECT_API_URL"
KEY_PASSWORD = "VIVERO_SIGNING_KEY_PASSWORD"  # noqa: S105  # the name of a variable
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")  # Prefect ends at another one
LAUNCHED = "TORCHELASTIC_RUN_ID"  # torchrun sets it, and nobody else


@dataclass(frozen=True)
class Family:
    """Variables of one tool.

    Attributes:
        pattern: Shell pattern of all names of the tool.
        kept: Patterns of the names that keep their value; the others are removed.
    """

    pattern: str
    kept: tuple[str, ...] = ()


FAMILIES = (
    # Where MLflow is and how to reach it. Names of experiments, runs and stores are ours to choose.
    Family(
        "MLFLOW_*",
        (
            "MLFLOW_TRACKING_URI",
            "MLFLOW_TRACKING_USERNAME",
            "MLFLOW_TRACKING_PASSWORD",
            "MLFLOW_TRACKING_TOKEN",
            "MLFLOW_TRACKING_AUTH",
            "MLFLOW_TRACKING_AWS_SIGV4",
            "MLFLOW_TRACKING_INSECURE_TLS",
            "MLFLOW_TRACKING_*_CERT_PATH",
            "MLFLOW_WORKSPACE",
            "MLFLOW_HTTP_REQUEST_*",
            "MLFLOW_S3_*",
            "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE",
            "MLFLOW_GCS_*",
            "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT",
            "MLFLOW_*_MULTIPART_*",
            "MLFLOW_DISABLE_TELEMETRY",
            "MLFLOW_LOGGING_LEVEL",
        ),
    ),
    # How to reach the server that PREFECT_API_URL names. Without that name: PREFECT_ALONE.
    Family(
        "PREFECT_*",
        (
            API_URL,
            "PREFECT_API_KEY",
            "PREFECT_API_AUTH_STRING",
            "PREFECT_API_SSL_CERT_FILE",
            "PREFECT_API_TLS_INSECURE_SKIP_VERIFY",
            "PREFECT_API_ENABLE_HTTP2",
            "PREFECT_API_REQUEST_TIMEOUT",
            "PREFECT_CLOUD_*",
            "PREFECT_CLIENT_*",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY",
            "PREFECT_WORKER_*",
            "PREFECT_HOME",  # of a worker; `vivero run` sets its own
            "PREFECT_LOGGING_LEVEL",
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL",
            "PREFECT_RESULTS_DEFAULT_SERIALIZER",
            "PREFECT_SERVER_ANALYTICS_ENABLED",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS",
        ),
    ),
    # DVC's names of experiments and its services. Its settings files stay the person's own.
    Family(
        "DVC_*",
        (
            "DVC_STAGE",  # DVC itself tells a stage so
            "DVC_NO_ANALYTICS",
            "DVC_GLOBAL_CONFIG_DIR",
            "DVC_SYSTEM_CONFIG_DIR",
            "DVC_SITE_CACHE_DIR",
        ),
    ),
    Family("DVCLIVE_*"),
    # What changes which code Python runs, or how. How it stores and reports is the person's choice.
    Family(
        "PYTHON*",
        (
            "PYTHONPATH",  # see _own_import_path
            "PYTHONUNBUFFERED",
            "PYTHONDONTWRITEBYTECODE",
            "PYTHONPYCACHEPREFIX",
            "PYTHONHASHSEED",
            "PYTHONFAULTHANDLER",
            "PYTHONNOUSERSITE",
        ),
    ),
    # `git rev-parse --local-env-vars`, without what holds settings: a hook sets them for its own
    # repository, which need not be this one.
    *map(
        Family,
        (
            "GIT_DIR",
            "GIT_WORK_TREE",
            "GIT_IMPLICIT_WORK_TREE",
            "GIT_INDEX_FILE",
            "GIT_INDEX_VERSION",
            "GIT_PREFIX",
            "GIT_COMMON_DIR",
            "GIT_OBJECT_DIRECTORY",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES",
            "GIT_QUARANTINE_PATH",
            "GIT_GRAFT_FILE",
            "GIT_SHALLOW_FILE",
            "GIT_REPLACE_REF_BASE",
            "GIT_NO_REPLACE_OBJECTS",
            "GIT_NAMESPACE",
            "GIT_CEILING_DIRECTORIES",
            "GIT_DEFAULT_HASH",
            "GIT_EXTERNAL_DIFF",
            "GIT_DIFF_OPTS",
            "GIT_*_PATHSPECS",
            "GIT_REFLOG_ACTION",
            "GIT_TEMPLATE_DIR",
        ),
    ),
    Family("VIVERO_SIGNING_KEY_PEM"),  # for `make sign` alone, which reads it and starts no process
    Family("MPLBACKEND"),  # a notebook's backend does not exist in our processes
    Family("MATPLOTLIBRC"),  # figures of ours look the same everywhere
    Family("MPLCONFIGDIR"),  # its matplotlibrc neither, and nothing is written there
)

PREFECT_ALONE = (  # kept without PREFECT_API_URL, where a temporary server of ours is used
    "PREFECT_HOME",
    "PREFECT_LOGGING_*",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER",
    "PREFECT_SERVER_ANALYTICS_ENABLED",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS",
)

# Places in a job of several processes, from another launcher or from an allocation of Slurm.
LAUNCHER = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "ROLE_NAME",
    "ROLE_WORLD_SIZE",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_*",
    "PET_*",
)


def own_variables(given: Mapping[str, str], *, is_launched: bool = False) -> dict[str, str]:
    """The variables that our processes run with.

    Args:
        given: Variables as a person, a hook or a launcher left them.
        is_launched: Whether this process may be one of several that torchrun started; its place
            among them is then kept.

    Returns:
        The variables without those of other programs. Loopback addresses are asked directly,
        whatever proxy is set. What starts with them has UTF-8 names and text, writes the encoding
        of our output, and escapes what that cannot show. Applying it again changes nothing.
    """
    place = () if is_launched and LAUNCHED in given else LAUNCHER
    own = {
        name: value for name, value in given.items() if _is_ours(name) and not _fits(name, place)
    }
    if not own.get(API_URL):
        own = {
            name: value
            for name, value in own.items()
            if not name.startswith("PREFECT_") or _fits(name, PREFECT_ALONE)
        }
    own = {
        name: value
        for name, value in own.items()
        if not name.startswith("PREFECT_LOGGING_") or value in LEVELS
    }
    own |= _without_proxy(own)
    own |= {
        "MPLBACKEND": "agg",
        # Read when MLflow is imported, by whatever module imports it first.
        "MLFLOW_DISABLE_TELEMETRY": own.get("MLFLOW_DISABLE_TELEMETRY", "true"),
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": f"{getattr(sys.stdout, 'encoding', None) or 'utf-8'}:backslashreplace",
    }
    return own | _own_import_path(own.pop("PYTHONPATH", ""))


def variables_for_command(given: Mapping[str, str], command: Sequence[str]) -> dict[str, str]:
    """The variables of a command of ours: only one that registers can open the signing key."""
    registers = any(word.endswith(("stages.register", "pipelines.experiment")) for word in command)
    return {name: value for name, value in given.items() if registers or name != KEY_PASSWORD}


def adopt() -> None:
    """Give this process, and what it will start, `own_variables`."""
    own = own_variables(os.environ, is_launched=True)
    for name in set(os.environ) - set(own):
        del os.environ[name]
    os.environ.update(own)


def _is_ours(name: str) -> bool:
    family = next((family for family in FAMILIES if _fits(name, (family.pattern,))), None)
    return family is None or _fits(name, family.kept)


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _without_proxy(given: Mapping[str, str]) -> dict[str, str]:
    """NO_PROXY with the loopback; clients read the spelling in lower case first."""
    hosts = given.get("no_proxy") or given.get("NO_PROXY") or ""
    named = [IN_BRACKETS.sub(r"\1", host.strip()) for host in hosts.split(",") if host.strip()]
    merged = "*" if "*" in named else ",".join(dict.fromkeys([*named, *LOOPBACK]))
    return {"no_proxy": merged, "NO_PROXY": merged}


def _own_import_path(given: str) -> dict[str, str]:
    """PYTHONPATH with the one folder that this package was imported from, if it holds it."""
    source_dir = Path(__file__).parents[2]
    folders = [Path(folder).absolute() for folder in given.split(os.pathsep) if folder]
    return {"PYTHONPATH": str(source_dir)} if source_dir in folders else {}
