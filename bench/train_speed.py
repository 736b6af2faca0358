"""`make bench-train`: our loop against the hardware's peak and against the usual loop, in one run.

Everything is measured in turn, round after round, each time in a process of its own, so that what
else the machine does falls on all alike; a figure is the median of its rounds. The last line says
the ratios; the exit code is 1 when a target is missed. On a GPU the same program runs as it is.
"""

import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from bench.hardware import DTYPES, has_bf16, peak_flops
from vivero.config.paths import project_dir, work_dir
from vivero.files import read_json, write_json
from vivero.processes import TUNING, run_program
from vivero.training.distributed import alone
from vivero.training.profiling import PhaseShare, share_of_the_rest

NUM_ROUNDS, NUM_STEPS = 3, 10
CONTESTANTS = [(name, precision) for precision in DTYPES for name in ("usual", "ours")]
LEAST_SHARE_OF_PEAK = {"fp32": 0.85, "bf16": 0.60}
LEAST_OVER_USUAL_FP32 = {"fp32": 1.0, "bf16": 1.7}
MAX_REST = 0.03


def figures_of(command: list[str]) -> dict[str, Any]:
    """The line of JSON that a program prints last, run in a process of its own.

    Every process has the same memory and spinning settings, so that a ratio compares loops only.
    """
    process = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project_dir(),
        env={**os.environ, **TUNING},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        sys.exit(f"bench: {' '.join(command)} failed:\n{process.stderr[-3000:]}")
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return figures


def measured() -> dict[str, dict[str, float]]:
    """Median figures of the peaks ("peak"), of each contestant, and of our phases ("rest")."""
    rounds = defaultdict(list)
    with tqdm(total=NUM_ROUNDS * (len(CONTESTANTS) + 1) + 1, desc="bench-train") as bar:
        for _ in range(NUM_ROUNDS):
            rounds["peak"].append(figures_of(["bench.train_speed", "peak"]))
            bar.update()
            for name, precision in CONTESTANTS:
                command = ["bench.contestants", name, precision, str(NUM_STEPS)]
                rounds[f"{name} {precision}"].append(figures_of(command))
                bar.update()
        rounds["rest"].append(rest_of_the_time())
        bar.update()
    return {
        name: {key: statistics.median(one[key] for one in each) for key in each[0]}
        for name, each in rounds.items()
    }


def rest_of_the_time() -> dict[str, float]:
    """What everything but forward, backward and optimiser takes with the repository's settings."""
    subprocess.run(
        [sys.executable, "-m", "vivero.stages.train", "--profile"],
        cwd=project_dir(),
        env={**os.environ, **TUNING},
        capture_output=True,
        check=True,
    )
    phases = read_json(work_dir(project_dir()) / "profile" / "phases.json")
    return {"share": share_of_the_rest([PhaseShare(**phase) for phase in phases])}


def ratios(figures: dict[str, dict[str, float]]) -> dict[str, float]:
    """What the targets are about, by name."""
    named = {"rest": figures["rest"]["share"]}
    for precision in DTYPES:
        peak = max(v for name, v in figures["peak"].items() if name.startswith(precision))
        ours = figures[f"ours {precision}"]
        named[f"{precision} of peak"] = ours["flops_per_s"] / peak
        usual = figures["usual fp32"]["images_per_s"]
        named[f"{precision} over usual fp32"] = ours["images_per_s"] / usual
    return named


def misses(named: dict[str, float], with_bf16: bool) -> list[str]:
    """The targets that are missed, in words."""
    found = [f"the rest takes more than {MAX_REST:.0%}"] if named["rest"] > MAX_REST else []
    for precision in DTYPES if with_bf16 else ("fp32",):
        least = LEAST_SHARE_OF_PEAK[precision]
        if named[f"{precision} of peak"] < least:
            found.append(f"{precision} is below {least:.0%} of its peak")
        times = LEAST_OVER_USUAL_FP32[precision]
        if named[f"{precision} over usual fp32"] < times:
            found.append(f"{precision} is below {times:g} times the usual loop in fp32")
    return found


def tables(figures: dict[str, dict[str, float]]) -> list[Table]:
    """The peaks, then the loops."""
    peaks = Table("peak of the hardware", "GFLOP/s")
    for name, value in figures["peak"].items():
        peaks.add_row(name, f"{value / 1e9:,.0f}")
    loops = Table("loop", "images/s", "GFLOP/s", "peak memory, MiB")
    for name, precision in CONTESTANTS:
        one = figures[f"{name} {precision}"]
        loops.add_row(
            f"{name} {precision}",
            f"{one['images_per_s']:,.1f}",
            f"{one['flops_per_s'] / 1e9:,.0f}",
            f"{one['peak_memory_bytes'] / 2**20:,.0f}",
        )
    return [peaks, loops]


def sentence(named: dict[str, float], found: list[str]) -> str:
    """The last line."""
    verdict = "missed: " + "; ".join(found) if found else "every target is met"
    return (
        f"fp32 at {named['fp32 of peak']:.1%} of the peak and {named['fp32 over usual fp32']:.2f} "
        f"times the usual loop, bf16 at {named['bf16 of peak']:.1%} of its peak and "
        f"{named['bf16 over usual fp32']:.2f} times the usual loop in fp32, everything but "
        f"forward, backward and optimiser {named['rest']:.2%} of the time: {verdict}"
    )


def main() -> None:
    """Measure everything, or with the argument `peak` the hardware alone."""
    device = alone().device
    if sys.argv[1:] == ["peak"]:
        sys.stdout.write(json.dumps(peak_flops(device)) + "\n")
        return
    figures = measured()
    named = ratios(figures)
    found = misses(named, has_bf16(device))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    out_path = work_dir(project_dir()) / "bench" / "train_speed.json"
    write_json(out_path, {"device": name, "figures": figures, "ratios": named, "missed": found})
    console = Console()
    for table in tables(figures):
        console.print(table)
    parameters = figures["ours fp32"]["num_parameters"]
    console.print(f"the network of both has {parameters / 1e6:.1f} M parameters; {out_path}")
    sys.stdout.write(sentence(named, found) + "\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    run_program("bench-train", main)
