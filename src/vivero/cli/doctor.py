"""`vivero doctor`: is this machine and this clone able to do the job, and if not, what to do."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.table import Table
from rich.text import Text

import vivero
from vivero.cli.clone import foreign_environment
from vivero.cli.console import plain_console
from vivero.cli.proxies import proxy_fault
from vivero.cli.waiting import shown_waiting
from vivero.config.environment import read_environment, tracking_uri
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, data_dir, project_dir
from vivero.errors import ViveroError
from vivero.integrity.clone import git_refusal
from vivero.tracking.server import is_server, without_credentials

MIN_FREE_BYTES = 3_000_000_000
MIN_MEMORY_BYTES = 3_000_000_000


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what it is like, and what to do where it is not well."""

    what: str
    state: Literal["ok", "note", "fail"]
    found: str
    advice: str = ""


def examine() -> int:
    """Print every finding; returns 1 when something must be fixed first, else 0."""
    root = project_dir()
    findings = [check(root) for check in CHECKS]
    table = Table("what", "", "found", "what to do", title=f"vivero doctor: {root}")
    colours = {"ok": "green", "note": "yellow", "fail": "red"}
    for finding in findings:
        mark = Text(finding.state, style=colours[finding.state])
        table.add_row(finding.what, mark, finding.found, finding.advice)
    plain_console().print(table)
    return int(any(finding.state == "fail" for finding in findings))


def python_version(_root: Path) -> Finding:
    """Python 3.11 or 3.12."""
    found = sys.version.split()[0]
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("Python", "ok", found)
    return Finding("Python", "fail", found, "make setup PYTHON=python3.11")


def packages(root: Path) -> Finding:
    """Every package of requirements.lock that is needed here, in its version."""
    wrong = []
    needed = _needed_names()
    for requirement in _locked(root):
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            if canonicalize_name(requirement.name) in needed:
                wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if not wrong:
        return Finding("packages", "ok", "as requirements.lock says")
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return Finding("packages", "fail", "; ".join(wrong[:3]) + more, "rm -rf .venv && make setup")


def _locked(root: Path) -> list[Requirement]:
    """Requirements of the lock file for this platform, without their hashes."""
    lines = (root / "requirements.lock").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line.rstrip(" \\")) for line in lines if not line.startswith((" ", "#"))]
    return [item for item in found if item.marker is None or item.marker.evaluate()]


def _needed_names() -> set[str]:
    """Names that an installed package asks for, in any of its extras.

    The lock also lists the CUDA libraries of one build of torch: another build does not name them.
    """
    asked = (line for found in metadata.distributions() for line in found.requires or ())
    return {canonicalize_name(Requirement(line).name) for line in asked}


def settings(root: Path) -> Finding:
    """params.yaml is readable and consistent."""
    try:
        load_config(root / PARAMS)
    except ViveroError as error:
        return Finding("params.yaml", "fail", str(error), "correct the lines named")
    return Finding("params.yaml", "ok", "read without a mistake")


def cores(_root: Path) -> Finding:
    """Cores that training may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = read_environment().vivero_num_threads
    return Finding("cores", "ok", f"{count}" + (f", {threads} to be used" if threads else ""))


def memory(_root: Path) -> Finding:
    """Memory that is free now."""
    import psutil

    free_bytes = psutil.virtual_memory().available
    found = f"{free_bytes / 1e9:.1f} GB free"
    if free_bytes >= MIN_MEMORY_BYTES:
        return Finding("memory", "ok", found)
    return Finding("memory", "note", found, "close something, or lower train.batch_images")


def disk(root: Path) -> Finding:
    """Space for data, artifacts and the cache."""
    free_bytes = shutil.disk_usage(root).free
    found = f"{free_bytes / 1e9:.1f} GB free"
    if free_bytes >= MIN_FREE_BYTES:
        return Finding("disk", "ok", found)
    return Finding("disk", "fail", found, "free 3 GB; work/ is safe to delete, dvc gc -w helps")


def git(root: Path) -> Finding:
    """A git repository, so that the lineage knows the code."""
    if not shutil.which("git"):
        return Finding("git", "note", "not installed", "install git: the lineage needs it")
    if not (root / ".git").exists():
        return Finding("git", "note", "no repository here", "clone instead of unpacking an archive")
    refused = git_refusal(root)
    if refused is not None:
        return Finding("git", "fail", "owned by another user", refused)
    return Finding("git", "ok", "a repository")


def environment(root: Path) -> Finding:
    """The environment of this clone, and no other one's code."""
    code_dir = Path(vivero.__file__).parents[2]
    foreign = foreign_environment(root, Path(sys.prefix), code_dir)
    if foreign is None:
        return Finding("environment", "ok", f"runs the code of {code_dir}")
    return Finding("environment", "fail", "of another folder", foreign)


def images(root: Path) -> Finding:
    """The data set."""
    if any(data_dir(root).glob("train-*.parquet")):
        return Finding("data", "ok", "data/ holds shards", "vivero data verify compares them")
    return Finding("data", "note", "no shards in data/", "vivero data fetch, or data import FOLDER")


def tracking(root: Path) -> Finding:
    """MLflow: the embedded store, or a server that answers."""
    uri = tracking_uri(root)
    if not is_server(uri):
        return Finding("MLflow", "ok", f"embedded ({urlsplit(uri).scheme} in this folder)")
    from vivero.tracking.store import find_fault  # takes seconds

    with shown_waiting("asking MLflow"):
        fault = find_fault(uri)
    if fault is None:
        return Finding("MLflow", "ok", f"{without_credentials(uri)} answers")
    found = f"{fault.what}: {fault.cause}" if fault.cause else fault.what
    advice = f"{fault.advice}; training continues without it and sends later"
    return Finding("MLflow", "note", found, advice)


def proxies(_root: Path) -> Finding:
    """Proxies and certificates, as Prefect's client reads them."""
    fault = proxy_fault()
    if fault is None:
        return Finding("proxies", "ok", "the variables can be used")
    return Finding("proxies", "fail", "`vivero run` cannot use them", fault)


def inception(_root: Path) -> Finding:
    """Inception's weights, needed for what may be called FID."""
    from vivero.evaluation.inception import FILE_NAME, PUBLISHED_SHA256
    from vivero.files import sha256_of_file

    folder = read_environment().vivero_inception_dir
    if folder is None:
        advice = "only for extractor: inception; set VIVERO_INCEPTION_DIR or go online"
        return Finding("Inception", "note", "no folder given", advice)
    weights_path = folder / FILE_NAME
    if not weights_path.is_file():
        return Finding("Inception", "fail", f"{weights_path} is missing", "put the file there")
    if sha256_of_file(weights_path) == PUBLISHED_SHA256:
        return Finding("Inception", "ok", str(weights_path))
    advice = "replace the file, or write its hash: compute_reference.extractor_sha256"
    return Finding("Inception", "note", f"{weights_path} is not the published file", advice)


CHECKS: tuple[Callable[[Path], Finding], ...] = (
    python_version,
    environment,
    packages,
    settings,
    cores,
    memory,
    disk,
    git,
    images,
    tracking,
    proxies,
    inception,
)
