"""Brings an MLflow run to what its journal says; asked again, it sends only what is missing.

No offset is kept on the disk: what MLflow already has is asked of MLflow, so a killed server, a
lost answer and an emptied store all end in the same run. A point is known by its name and its
images_seen, and the first one sent stays: a training that went back to a checkpoint draws no
step twice. Importing this module imports MLflow.
"""

import logging
import threading
from collections import defaultdict
from pathlib import Path

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from vivero.config.environment import tracking_uri
from vivero.errors import TrackingError
from vivero.tracking.images import existing_images, log_image
from vivero.tracking.journal import Entry, Journal, read_journal, read_journal_from
from vivero.tracking.runs import OpenRun, open_run
from vivero.tracking.store import open_client, refusals
from vivero.tracking.tracker import RunIds, RunSpec

METRICS_PER_CALL = 1000  # the limit of MLflow's API

log = logging.getLogger(__name__)


class Mirror:
    """Sends the entries of one journal to its run in MLflow."""

    def __init__(self, root: Path, journal_path: Path) -> None:
        self.ids = RunIds()
        self._root = root
        self._uri = tracking_uri(root)
        self._journal_path = journal_path
        self._lock = threading.Lock()  # held while the journal is read or cut
        self._begin_bytes = 0  # of what was not yet read
        self._spec: RunSpec | None = None
        self._status: Entry | None = None
        self._client: MlflowClient | None = None
        self._run: OpenRun | None = None
        self._steps: dict[str, set[int]] = defaultdict(set)
        self._images: set[str] = set()

    def rewind(self, journal: Journal, images_seen: int) -> int:
        """Cut the journal while nobody reads it, and look through it anew afterwards."""
        with self._lock:
            num_dropped = journal.truncate_after(images_seen)
            self._begin_bytes = 0
        return num_dropped

    def num_points_left(self) -> int:
        """Points of the journal that were not yet sent."""
        with self._lock:
            entries = list(read_journal(self._journal_path))
        return len(self._missing_metrics(entries))

    def send(self) -> None:
        """Send all that is missing.

        Raises:
            TrackingError: When MLflow refuses or does not answer; the next call begins anew with
                what MLflow has by then.
        """
        try:
            with refusals(self._uri):
                self._send_new_entries()
        except TrackingError:
            self._run = None
            self._begin_bytes = 0
            raise

    def finish(self) -> None:
        """Send all that is missing of a training that has ended, however its journal ends."""
        self.send()
        if self._status is None or self._status.key == "RUNNING":
            last = list(read_journal(self._journal_path))[-1:]
            with refusals(self._uri):
                for entry in last:
                    self._set_status(Entry("status", time_ms=entry.time_ms, key="FINISHED"))

    def _send_new_entries(self) -> None:
        with self._lock:
            entries, self._begin_bytes = read_journal_from(self._journal_path, self._begin_bytes)
        if not entries:
            return
        for entry in entries:
            if entry.kind == "run":
                self._spec = RunSpec.from_values(entry.values, self._journal_path)
        client, run = self._opened(entries[0].time_ms)
        metrics = self._missing_metrics(entries)
        for begin in range(0, len(metrics), METRICS_PER_CALL):
            part = metrics[begin : begin + METRICS_PER_CALL]
            client.log_batch(run.run_id, metrics=part)
            for metric in part:
                self._steps[metric.key].add(metric.step)
        self._send_files(client, run, entries)
        for entry in entries[::-1]:
            if entry.kind == "status":
                self._set_status(entry)
                break

    def _opened(self, started_at_ms: int) -> tuple[MlflowClient, OpenRun]:
        if self._spec is None:
            raise TrackingError(
                f"{self._journal_path} does not say which run it belongs to (no line of kind "
                f"'run'); run `dvc repro train` to make it again"
            )
        if self._client is None:
            self._client = open_client(self._root)
        if self._run is None:
            self._run = open_run(self._client, self._root, self._spec, started_at_ms)
            self.ids = RunIds(self._run.run_id, self._run.model_id)
            self._steps = _recorded_steps(self._client, self._run)
            self._images = existing_images(self._client, self._run.run_id)
        return self._client, self._run

    def _missing_metrics(self, entries: list[Entry]) -> list[Metric]:
        missing: dict[tuple[str, int], Metric] = {}
        for entry in entries:
            if entry.kind == "metrics":
                step = entry.images_seen or 0
                for key, value in entry.values.items():
                    if step not in self._steps[key]:
                        metric = Metric(key, float(value), entry.time_ms, step)
                        missing.setdefault((key, step), metric)
        return list(missing.values())

    def _set_status(self, entry: Entry) -> None:
        if self._client is None or self._run is None:
            return
        self._status = entry
        if entry.key == "RUNNING":
            self._client.update_run(self._run.run_id, status="RUNNING")
        else:
            self._client.set_terminated(self._run.run_id, entry.key, end_time=entry.time_ms)

    def _send_files(self, client: MlflowClient, run: OpenRun, entries: list[Entry]) -> None:
        for entry in entries:
            if entry.kind not in ("image", "artifact"):
                continue
            path = self._located(entry)
            if path is None:
                log.warning(
                    "%s was recorded in %s but is gone; MLflow gets the rest",
                    entry.path, self._journal_path,
                )  # fmt: skip
            elif entry.kind == "artifact":
                client.log_artifact(run.run_id, str(path), entry.key or None)
            else:
                log_image(client, run.run_id, path, entry, self._images)

    def _located(self, entry: Entry) -> Path | None:
        """The file of an entry; a journal that was moved has its images beside or below it."""
        folder = self._journal_path.parent
        recorded = Path(entry.path)
        beside = [folder / recorded, folder / recorded.name, folder / "previews" / recorded.name]
        return next((path for path in beside if path.is_file()), None)


def reconcile(root: Path, journal_path: Path) -> RunIds:
    """Make sure that the run of a journal stands in MLflow with every point, and is ended.

    An emptied server is filled again; what is there is not sent twice.

    Args:
        root: Top of the repository.
        journal_path: Journal of a training that has ended.

    Returns:
        The names of the run and of its model.

    Raises:
        TrackingError: When MLflow cannot be reached, or the journal is missing or damaged.
    """
    if not journal_path.is_file():
        raise TrackingError(
            f"there is no journal at {journal_path}; run `dvc repro train`, which makes it"
        )
    mirror = Mirror(root, journal_path)
    mirror.finish()
    if mirror.ids.run_id is None:
        raise TrackingError(f"{journal_path} is empty; run `dvc repro train` to make it again")
    return mirror.ids


def _recorded_steps(client: MlflowClient, run: OpenRun) -> dict[str, set[int]]:
    steps: dict[str, set[int]] = defaultdict(set)
    for key in run.metric_keys:
        steps[key] = {int(metric.step) for metric in client.get_metric_history(run.run_id, key)}
    return steps
