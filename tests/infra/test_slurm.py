"""The batch file of Slurm is good shell, and its options are ones that sbatch and torchrun know."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

REPOSITORY = Path(__file__).parents[2]
BATCH_FILE = REPOSITORY / "infra/slurm/train.sbatch"
SHELLCHECK = Path(sys.executable).parent / "shellcheck"

# The long options of sbatch(1), one a line.
SBATCH_OPTIONS = set(Path(__file__).with_name("sbatch_options.txt").read_text().split())


def unknown_options(text: str) -> set[str]:
    """Options on #SBATCH lines that sbatch would refuse."""
    lines = re.findall(r"^#SBATCH\s+(.*)$", text, re.MULTILINE)
    given = [word.partition("=")[0] for line in lines for word in shlex.split(line, comments=True)]
    return {option for option in given if option.removeprefix("--") not in SBATCH_OPTIONS}


def late_options(text: str) -> list[str]:
    """#SBATCH lines below the first command, which sbatch silently ignores."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    return [line for line in lines[first:] if line.startswith("#SBATCH")]


def shell_findings(path: Path) -> str:
    for command in (["bash", "-n"], [str(SHELLCHECK), "--severity=style"]):
        found = subprocess.run([*command, str(path)], capture_output=True, text=True)
        if found.returncode:
            return found.stdout + found.stderr
    return ""


def torchrun_options(text: str) -> list[str]:
    """What stands between torch.distributed.run and the background sign, variables as 1."""
    command = re.search(r"-m torch\.distributed\.run \\\n(.*?) &\n", text, re.DOTALL)
    assert command is not None
    words = shlex.split(command[1].replace("\\\n", " "))
    return [re.sub(r"\$\{?\w+\}?", "1", word) for word in words]


def test_the_shell_is_good():
    assert shell_findings(BATCH_FILE) == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [("then\n", "\n"), ('cd "$SLURM_SUBMIT_DIR"', "cd $SLURM_SUBMIT_DIR")],
)
def test_bad_shell_is_seen(tmp_path: Path, old: str, new: str):
    text = BATCH_FILE.read_text()
    assert old in text
    broken = tmp_path / "broken.sbatch"
    broken.write_text(text.replace(old, new, 1))
    assert shell_findings(broken)


def test_sbatch_knows_every_option():
    text = BATCH_FILE.read_text()
    assert not unknown_options(text)
    assert not late_options(text)
    assert text.count("\n#SBATCH") >= 8


def test_an_unknown_or_late_option_is_seen():
    text = BATCH_FILE.read_text()
    assert unknown_options(text.replace("--requeue", "--restart")) == {"--restart"}
    assert late_options(text + "#SBATCH --mem=0\n")


def test_torchrun_takes_every_option():
    got = get_args_parser().parse_args(torchrun_options(BATCH_FILE.read_text()))
    assert (got.module, got.rdzv_backend, got.max_restarts) == (True, "c10d", 3)


def test_an_option_that_torchrun_does_not_know_is_seen(capsys: pytest.CaptureFixture[str]):
    broken = BATCH_FILE.read_text().replace("--rdzv-id", "--rendezvous-id")
    with pytest.raises(SystemExit):
        get_args_parser().parse_args(torchrun_options(broken))
    assert "unrecognized arguments: --rendezvous-id" in capsys.readouterr().err


FAKES = {  # srun runs its command here, scancel finds it by its pid, scontrol tells of its requeue
    "srun": 'while [[ $1 == --* ]]; do shift; done; echo $$ > "$FAKES/step.pid"; exec "$@"',
    "scancel": 'echo "$*" > "$FAKES/cancelled"; kill -TERM "$(< "$FAKES/step.pid")"',
    "scontrol": 'if [[ $1 == show ]]; then echo localhost; else echo "$*" > "$FAKES/requeued"; fi',
}


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    """A folder with programs that do here what Slurm's do on a cluster of one node."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    for name, body in FAKES.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


def start_batch(fakes: Path, folder: Path, job_id: int) -> "subprocess.Popen[str]":
    """Start the batch file as Slurm would on one node, with two workers of the tiny training."""
    env = {
        **os.environ,
        "PATH": f"{fakes}:{os.environ['PATH']}",
        "FAKES": str(fakes),
        "PYTHON": sys.executable,
        "MODULE": "tests.unit.training.tiny_run",
        "WORKERS_PER_NODE": "2",
        "SLURM_JOB_ID": str(job_id),
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_SUBMIT_DIR": str(REPOSITORY),
    }
    return subprocess.Popen(
        ["bash", str(BATCH_FILE), str(folder), "num_processes=2", "total_images=480"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


@pytest.mark.slow
def test_a_job_whose_time_is_over_saves_is_requeued_and_ends_with_the_same_bytes(
    fakes: Path, tmp_path: Path
):
    undisturbed = start_batch(fakes, tmp_path / "undisturbed", job_id=os.getpid())
    output, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, output
    assert not (fakes / "requeued").exists()

    folder = tmp_path / "warned"
    warned = start_batch(fakes, folder, job_id=os.getpid() + 1)
    wait_for(lambda: any(folder.glob("checkpoints/0*")), warned)
    warned.send_signal(signal.SIGUSR1)
    output, _ = warned.communicate()
    assert warned.returncode != 0
    assert "stopped by SIGTERM" in output
    assert (fakes / "cancelled").read_text() == f"--signal=TERM {os.getpid() + 1}.0\n"
    assert (fakes / "requeued").read_text() == f"requeue {os.getpid() + 1}\n"
    assert not (folder / "final.json").exists()

    again = start_batch(fakes, folder, job_id=os.getpid() + 1)
    output, _ = again.communicate()
    assert again.returncode == 0, output
    one, other = (
        json.loads((f / "final.json").read_text()) for f in (tmp_path / "undisturbed", folder)
    )
    assert other["resumed_from"]
    assert other["sha256"] == one["sha256"]
