"""The tracker of a real training: a local journal, mirrored to MLflow by a background thread.

The training writes one line and continues; whatever MLflow does, it neither waits nor stops.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vivero.config.environment import tracking_uri
from vivero.errors import TrackingError
from vivero.tracking.energy import EnergyMeter
from vivero.tracking.journal import Entry, Journal
from vivero.tracking.server import is_server, without_credentials
from vivero.tracking.system import SystemSampler
from vivero.tracking.tracker import RunIds, RunSpec, RunStatus, Tracker

if TYPE_CHECKING:
    from vivero.tracking.mirror import Mirror

SEND_EVERY_S = 2.0
RETRY_EVERY_S = 5.0
DRAIN_S = 60.0  # a first start imports MLflow and makes its tables, which may take this long
HURRY_S = 5.0  # for the same when the machine is about to be taken away

log = logging.getLogger(__name__)


def open_tracker(root: Path, spec: RunSpec, gpu_uuids: Sequence[str] = ()) -> Tracker:
    """A tracker that continues the run of spec.run_key, or begins it.

    An MLflow that does not answer is said at once and stops nothing.

    Args:
        root: Top of the repository.
        spec: What to call the run, and where its journal lies.
        gpu_uuids: Graphics cards whose energy is recorded.

    Returns:
        A running tracker; close it.
    """
    uri = tracking_uri(root)
    if is_server(uri):
        from vivero.tracking.store import find_fault  # takes seconds

        fault = find_fault(uri)
        if fault is not None:
            log.warning(
                "%s; the training continues, everything is recorded in %s and sent when MLflow is "
                "back, at the latest by `vivero run` (stage register). %s.%s",
                fault.what, spec.journal_path, fault.advice,
                f" Reported: {fault.cause}" if fault.cause else "",
            )  # fmt: skip
    return MlflowTracker(root, spec, gpu_uuids)


class MlflowTracker:
    """Writes the journal; a daemon thread sends it."""

    def __init__(self, root: Path, spec: RunSpec, gpu_uuids: Sequence[str] = ()) -> None:
        """Open the journal, say whose it is, and start the thread."""
        self._root = root
        self._journal = Journal(spec.journal_path)
        self._journal.append(Entry("run", values=spec.to_values()))
        self._journal.append(Entry("status", key="RUNNING"))
        self._system = SystemSampler()
        self._energy = EnergyMeter(gpu_uuids)
        self._mirror: Mirror | None = None
        self._mirror_made = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._mirror_until_closed, daemon=True)
        self._thread.start()

    @property
    def ids(self) -> RunIds:
        """The names MLflow gave so far."""
        return self._mirror.ids if self._mirror is not None else RunIds()

    def log_metrics(self, values: Mapping[str, float], images_seen: int) -> None:
        """Record numbers, and beside them, now and then, how busy the machine is."""
        numbers = {name: float(value) for name, value in values.items()}
        if busy := self._system.sample_if_due():
            numbers |= busy
            self._note_energy()
        self._journal.append(Entry("metrics", images_seen=images_seen, values=numbers))

    def log_image(self, key: str, path: Path, images_seen: int) -> None:
        """Record an image that was written to path and stays there."""
        self._journal.append(
            Entry("image", images_seen=images_seen, key=key, path=self._recorded_path(path))
        )

    def log_artifact(self, path: Path, folder: str) -> None:
        """Record a file of the run, shown in a folder."""
        self._journal.append(Entry("artifact", key=folder, path=self._recorded_path(path)))

    def sync(self) -> None:
        """Put the journal safely on the disk."""
        self._journal.sync()

    def rewind(self, images_seen: int) -> None:
        """Drop what was recorded after the checkpoint from which training resumes."""
        with self._mirror_made:
            if self._mirror is None:
                num_dropped = self._journal.truncate_after(images_seen)
            else:
                num_dropped = self._mirror.rewind(self._journal, images_seen)
        if num_dropped:
            log.info("%d records after image %d are made again", num_dropped, images_seen)

    def close(self, status: RunStatus) -> None:
        """End the journal, wait a bounded time for MLflow, and say what is left."""
        self._note_energy()
        self._journal.append(Entry("status", key=status))
        self._journal.close()
        self._closing.set()
        self._thread.join(timeout=HURRY_S if status == "KILLED" else DRAIN_S)
        num_left = self._mirror.num_points_left() if self._mirror is not None else None
        if num_left is None or num_left or self._thread.is_alive():
            log.warning(
                "%s stay in %s; they are sent by `vivero run` (stage register) when MLflow at %s "
                "is back",
                "all points" if num_left is None else f"{num_left} points",
                self._journal.path, without_credentials(tracking_uri(self._root)),
            )  # fmt: skip

    def _note_energy(self) -> None:
        """No images_seen: what a training does again after a kill it pays again."""
        self._journal.append(Entry("energy", values=self._energy.since_last()))

    def _recorded_path(self, path: Path) -> str:
        folder = self._journal.path.parent.resolve()
        absolute = path.resolve()
        return str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)

    def _mirror_until_closed(self) -> None:
        from vivero.tracking.mirror import Mirror  # takes seconds: the training does not wait

        with self._mirror_made:
            self._mirror = Mirror(self._root, self._journal.path)
        is_away = False
        while True:
            is_last = self._closing.is_set()
            try:
                self._mirror.send()
            except TrackingError as error:
                if not is_away:
                    log.warning("the training continues without MLflow: %s", error)
                is_away = True
            else:
                if is_away:
                    log.info("MLflow is back; it has everything up to now")
                is_away = False
            if is_last:
                return
            self._closing.wait(RETRY_EVERY_S if is_away else SEND_EVERY_S)
