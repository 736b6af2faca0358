"""The bench of training speed compares loops, not settings of the process."""

import json
import subprocess

import pytest

from bench import train_speed
from vivero.processes import TUNING

FIGURES = {"flops_per_s": 2.0, "images_per_s": 2.0, "peak_memory_bytes": 2.0, "fp32": 1.0}


def test_both_loops_and_the_peak_run_with_the_same_memory_and_spinning(monkeypatch):
    started: dict[str, list[dict[str, str]]] = {}

    def run(command, **options):
        started.setdefault(" ".join(command[2:]), []).append(options["env"])
        return subprocess.CompletedProcess(command, 0, json.dumps(FIGURES), "")

    monkeypatch.setenv("GOMP_SPINCOUNT", "7")  # of a person's own shell
    monkeypatch.setattr(train_speed.subprocess, "run", run)
    monkeypatch.setattr(train_speed, "rest_of_the_time", lambda: {"share": 0.0})
    train_speed.measured()

    programs = {program.split()[1] if " " in program else program for program in started}
    assert {"ours", "usual", "peak"} <= programs
    tuning = [{name: env[name] for name in TUNING} for envs in started.values() for env in envs]
    assert tuning == [TUNING] * len(tuning)


def test_a_program_that_fails_ends_the_bench_with_its_message():
    with pytest.raises(SystemExit, match="No module named"):
        train_speed.figures_of(["vivero.no_such_module"])
