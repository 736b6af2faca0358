"""How much energy a training takes: measured where the machine says it, else estimated.

Processors tell by RAPL (Linux, /sys/class/powercap, whole packages with whatever else runs on
them), NVIDIA's graphics cards by NVML. Without RAPL the busy time of the process is multiplied by
stated watts, and the record says so. What is measured goes into the journal piece by piece, so a
kill loses at most one interval, and work that is done again is counted again: it took energy twice.
Libraries for this (codecarbon, zeus) keep one total in memory that ends with the process, bring a
dozen packages with them, and one of those pickles (decision 21).
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pynvml

from vivero.tracking.journal import Entry

RAPL_DIR = Path("/sys/class/powercap")
WATTS_PER_CORE = 8.0  # a server's processor of 250 W, shared by its 32 cores
JOULES_PER_KWH = 3.6e6


class EnergyMeter:
    """Measures this machine and process, piece by piece."""

    def __init__(self, gpu_uuids: Sequence[str] = (), rapl_dir: Path = RAPL_DIR) -> None:
        """Begin; the first piece holds all that the process has done so far.

        Args:
            gpu_uuids: Graphics cards that the training uses on this machine.
            rapl_dir: Where Linux shows the processors' counters.
        """
        self._process = psutil.Process()
        self._cpu_s = 0.0
        self._noted_at = time.monotonic()
        self._packages = _packages(rapl_dir)
        self._package_uj = [_number(package / "energy_uj") for package in self._packages]
        self._gpus = _gpus(gpu_uuids)
        self._gpu_mj = [_gpu_mj(gpu) for gpu in self._gpus]

    def since_last(self) -> dict[str, float]:
        """Seconds, busy seconds, and the joules that were measured, since the last call."""
        now, times = time.monotonic(), self._process.cpu_times()
        cpu_s = times.user + times.system
        piece = {"seconds": now - self._noted_at, "cpu_s": cpu_s - self._cpu_s}
        self._noted_at, self._cpu_s = now, cpu_s
        if self._packages:
            piece["cpu_j"] = self._package_joules()
        if self._gpus:
            mj = [_gpu_mj(gpu) for gpu in self._gpus]
            piece["gpu_j"] = (sum(mj) - sum(self._gpu_mj)) / 1e3
            self._gpu_mj = mj
        return piece

    def _package_joules(self) -> float:
        """The counters start again at zero when they are full."""
        now = [_number(package / "energy_uj") for package in self._packages]
        before, self._package_uj = self._package_uj, now
        full = [_number(package / "max_energy_range_uj") for package in self._packages]
        used = [(n - b) if n >= b else n + f - b for n, b, f in zip(now, before, full, strict=True)]
        return sum(used) / 1e6


def energy_record(
    entries: Iterable[Entry], num_processes: int = 1, num_machines: int = 1, has_gpu: bool = False
) -> dict[str, Any]:
    """What a journal says of energy, over all starts of the training.

    The first process speaks for all: its busy time counts for each, its machine's joules for each
    machine.

    Returns:
        kwh, measured_kwh (its part that was measured), cpu_s, seconds, and how it was found.
    """
    pieces = [entry.values for entry in entries if entry.kind == "energy"]
    busy_s = num_processes * _total(pieces, "cpu_s")
    estimated_s = num_processes * sum(piece["cpu_s"] for piece in pieces if "cpu_j" not in piece)
    measured_j = num_machines * (_total(pieces, "cpu_j") + _total(pieces, "gpu_j"))
    estimated_j = estimated_s * WATTS_PER_CORE
    return {
        "kwh": (measured_j + estimated_j) / JOULES_PER_KWH,
        "measured_kwh": measured_j / JOULES_PER_KWH,
        "cpu_s": busy_s,
        "seconds": _total(pieces, "seconds"),
        "how": _how(pieces, has_gpu, num_processes, num_machines),
    }


def _how(
    pieces: Sequence[Mapping[str, float]], has_gpu: bool, num_processes: int, num_machines: int
) -> str:
    if not pieces:
        return "not recorded"
    parts = []
    if any("cpu_j" in piece for piece in pieces):
        parts.append("processors measured by RAPL, with all that ran on them")
    if any("cpu_j" not in piece for piece in pieces):
        parts.append(f"processors estimated: busy seconds at {WATTS_PER_CORE:g} W a core")
    if any("gpu_j" in piece for piece in pieces):
        parts.append("graphics cards measured by NVML")
    elif has_gpu:
        parts.append("graphics cards not measured: the true figure is higher")
    if num_processes > 1:
        parts.append(f"the first of {num_processes} processes on {num_machines} machine(s) "
                     "stands for all")  # fmt: skip
    return "; ".join(parts)


def _total(pieces: Sequence[Mapping[str, float]], key: str) -> float:
    return float(sum(piece.get(key, 0.0) for piece in pieces))


def _packages(rapl_dir: Path) -> list[Path]:
    """Folders of the processor packages that may be read; since 2020 Linux shows them to root."""
    found = sorted(rapl_dir.glob("intel-rapl:*")) if rapl_dir.is_dir() else []
    packages = [folder for folder in found if folder.name.count(":") == 1 and _is_package(folder)]
    try:
        for package in packages:
            _number(package / "energy_uj")
            _number(package / "max_energy_range_uj")
    except (OSError, ValueError):
        return []
    return packages


def _is_package(folder: Path) -> bool:
    try:
        return (folder / "name").read_text().startswith("package")
    except OSError:
        return False


def _number(path: Path) -> int:
    return int(path.read_text())


def _gpus(uuids: Sequence[str]) -> list[Any]:
    """NVML's handles of the cards; none when one of them tells no energy (before Volta)."""
    if not uuids:
        return []
    try:
        pynvml.nvmlInit()
        gpus = [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]
        for gpu in gpus:
            _gpu_mj(gpu)
    except pynvml.NVMLError:
        return []
    return gpus


def _gpu_mj(gpu: Any) -> float:
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu))
