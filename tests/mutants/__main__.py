"""`make mutants`: break the code in many places, and see whether a test fails each time.

Runs the declared mutations and MUTANTS automatic ones that SEED draws. Each mutation is applied in
a copy of the repository, where the tests of its file run until the first one fails. Writes
work/mutants.json. The exit code is 1 when a mutation survives, 2 when the tests fail without one.

Environment: MUTANTS (40), SEED (drawn and printed), ONLY (a part of the name or file),
TIMEOUT_S (300).
"""

import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from tests.mutants.mutation import (
    REPOSITORY,
    Mutation,
    load_declared,
    load_equivalent,
    load_modules,
)
from tests.mutants.operators import mutations_of
from vivero.files import write_json

REPORT_PATH = REPOSITORY / "work" / "mutants.json"
BASELINE_TIMEOUT_S = 3600.0
PASSED, FAILED, COLLECTION_ERROR = 0, 1, 2


@dataclass(frozen=True)
class Outcome:
    """What a mutation did to the tests: killed, timed out or survived; and the first failure."""

    mutation: Mutation
    status: str
    seconds: float
    failure: str


def automatic_mutations(count: int, seed: int) -> list[Mutation]:
    """A random choice of all automatic mutations, without those that no test can notice."""
    every = [
        mutation
        for file, tests in load_modules().items()
        for mutation in mutations_of(file, (REPOSITORY / file).read_text("utf-8"), tests)
    ]
    equivalent = load_equivalent()
    candidates = [mutation for mutation in every if mutation.name not in equivalent]
    return random.Random(seed).sample(candidates, min(count, len(candidates)))


def copy_tree(folder: Path) -> None:
    """Copy what git tracks, and new files that it does not ignore, into a repository of its own."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        source, target = REPOSITORY / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "a copy"]):
        identity = ["-c", "user.name=mutants", "-c", "user.email=mutants@localhost"]
        subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


def run_tests(
    tests: Sequence[str], folder: Path, timeout_s: float
) -> "subprocess.CompletedProcess[str]":
    """Run tests of the copy until one fails.

    Raises:
        subprocess.TimeoutExpired: When they take too long.
    """
    code = folder / "src"
    command = [
        *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header"),
        *("--tb=line", "-m", "not slow", *tests),
    ]
    env = {**os.environ, "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except BaseException:  # also Ctrl-C: a session of its own gets no signal of the terminal
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, "")


def tried(mutation: Mutation, folder: Path, timeout_s: float) -> Outcome:
    """Apply a mutation to the copy, run its tests, and take the mutation back."""
    path = folder / mutation.file
    text = path.read_text(encoding="utf-8")
    path.write_text(mutation.applied_to(text), encoding="utf-8")
    started_at = time.monotonic()
    try:
        done = run_tests(mutation.tests, folder, timeout_s)
        status = {PASSED: "survived", FAILED: "killed", COLLECTION_ERROR: "killed"}.get(
            done.returncode, "error"
        )
        lines = done.stdout.strip().splitlines() or ["no output"]
        failure = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1])
    except subprocess.TimeoutExpired:
        status, failure = "timed out", f"no end within {timeout_s:g} s"
    finally:
        path.write_text(text, encoding="utf-8")
    return Outcome(mutation, status, round(time.monotonic() - started_at, 1), failure)


def report(outcomes: Sequence[Outcome], seed: int) -> None:
    """Write work/mutants.json."""
    rows = [
        {
            "name": one.mutation.name,
            "file": one.mutation.file,
            "old": one.mutation.old,
            "new": one.mutation.new,
            "tests": list(one.mutation.tests),
            "status": one.status,
            "seconds": one.seconds,
            "failure": one.failure,
        }
        for one in outcomes
    ]
    survivors = [row["name"] for row in rows if row["status"] in ("survived", "error")]
    REPORT_PATH.parent.mkdir(exist_ok=True)
    write_json(REPORT_PATH, {"seed": seed, "survivors": survivors, "mutations": rows})


def main() -> int:
    """Try all mutations that are asked for."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    count = int(os.environ.get("MUTANTS") or 40)
    seed = int(os.environ.get("SEED") or secrets.randbelow(1_000_000))
    only = os.environ.get("ONLY") or ""
    timeout_s = float(os.environ.get("TIMEOUT_S") or 300)
    every = [*load_declared(), *automatic_mutations(count, seed)]
    chosen = [one for one in every if only in one.name or only in one.file]
    with tempfile.TemporaryDirectory(prefix="vivero-mutants-") as name:
        folder = Path(name)
        copy_tree(folder)
        tests = sorted({test for one in chosen for test in one.tests})
        sys.stdout.write(f"{len(chosen)} mutations, SEED={seed}; first the tests without one\n")
        baseline = run_tests(tests, folder, BASELINE_TIMEOUT_S)
        if baseline.returncode != PASSED:
            sys.stdout.write(f"{baseline.stdout[-3000:]}\nthe tests fail without a mutation\n")
            return 2
        outcomes: list[Outcome] = []
        alive: list[Outcome] = []
        bar = tqdm(chosen, desc="mutants", unit="mutant")
        for mutation in bar:
            outcomes.append(tried(mutation, folder, timeout_s))
            alive = [one for one in outcomes if one.status in ("survived", "error")]
            bar.set_postfix_str(f"{len(alive)} survive")
            report(outcomes, seed)
            if outcomes[-1] in alive:
                tqdm.write(f"{outcomes[-1].status}: {mutation.name}")
    names = "".join(f"\n  {one.mutation.name}" for one in alive) or " none"
    sys.stdout.write(
        f"{len(outcomes) - len(alive)} of {len(outcomes)} mutations were noticed; SEED={seed}; "
        f"survivors:{names}\nDetails: {REPORT_PATH.relative_to(REPOSITORY)}\n"
    )
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
