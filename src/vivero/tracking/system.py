"""How busy the machine is, as metrics of the run.

MLflow's own monitor writes straight to the server from a thread of its own: what it measures
during an outage is lost, and its steps count samples instead of images. So the figures go
through the journal like all others, measured when the training reports.
"""

import time

import psutil

INTERVAL_S = 10.0
BYTES_PER_MB = 2**20


class SystemSampler:
    """Measures this machine and process, at most once per interval."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        """Start measuring; the first sample is due after one interval."""
        self._interval_s = interval_s
        self._process = psutil.Process()
        self._sampled_at = time.monotonic()
        psutil.cpu_percent()  # the first call starts the measurement and returns 0
        self._process.cpu_percent()

    def sample_if_due(self) -> dict[str, float]:
        """The figures since the last sample; empty while the interval has not passed."""
        now = time.monotonic()
        if now - self._sampled_at < self._interval_s:
            return {}
        self._sampled_at = now
        memory = psutil.virtual_memory()
        return {
            "system/cpu_percent": psutil.cpu_percent(),
            "system/process_cpu_percent": self._process.cpu_percent(),
            "system/memory_percent": memory.percent,
            "system/memory_available_mb": memory.available / BYTES_PER_MB,
            "system/memory_rss_mb": self._process.memory_info().rss / BYTES_PER_MB,
        }
