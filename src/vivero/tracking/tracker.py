"""The role `Tracker`: what a training tells the outside while it runs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class DatasetInput:
    """The data set that a run was trained on, as MLflow shows it.

    Attributes:
        name: Name of the data set, such as "fashion_mnist".
        digest: Of data/; the md5 that data.dvc holds, where there is one; at most 36 letters.
        source: Where it came from, in words or as an address without credentials.
    """

    name: str
    digest: str
    source: str


@dataclass(frozen=True)
class RunSpec:
    """What makes a run findable and readable.

    Attributes:
        experiment: Name of the MLflow experiment.
        run_key: What identifies the run over restarts: the training fingerprint.
        run_name: What a person reads.
        journal_path: The local record; images lie best in the same folder or below.
        params: Flat settings, name to value as text.
        tags: Lineage and the like, name to value as text.
        dataset: What it was trained on.
        parent_run_key: The run_key of the run that this one belongs to, if any.
        model_name: Name of the model that the run makes; None when it makes none.
    """

    experiment: str
    run_key: str
    run_name: str
    journal_path: Path
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    dataset: DatasetInput | None = None
    parent_run_key: str | None = None
    model_name: str | None = None

    def to_values(self) -> dict[str, Any]:
        """All but the journal's own path, as the journal keeps it."""
        values = asdict(self)
        del values["journal_path"]
        return values

    @classmethod
    def from_values(cls, values: Mapping[str, Any], journal_path: Path) -> Self:
        """The spec that `to_values` wrote into the journal at journal_path."""
        dataset = values.get("dataset")
        fields = {**values, "dataset": DatasetInput(**dataset) if dataset else None}
        return cls(journal_path=journal_path, **fields)


@dataclass(frozen=True)
class RunIds:
    """The names MLflow gave; None while MLflow has not been reached."""

    run_id: str | None = None
    model_id: str | None = None


class Tracker(Protocol):
    """Takes what a training reports; never makes it wait, never stops it."""

    @property
    def ids(self) -> RunIds:
        """The names MLflow gave so far."""

    def log_metrics(self, values: Mapping[str, float], images_seen: int) -> None:
        """Record numbers at a moment of the training; a name once per moment."""

    def log_image(self, key: str, path: Path, images_seen: int) -> None:
        """Record an image that was written to path and stays there."""

    def log_artifact(self, path: Path, folder: str) -> None:
        """Record a file of the run, shown in a folder."""

    def sync(self) -> None:
        """Put the record safely on the disk; called beside every checkpoint."""

    def rewind(self, images_seen: int) -> None:
        """Drop what was recorded after the checkpoint from which training resumes."""

    def close(self, status: RunStatus) -> None:
        """End the record; called once."""


@dataclass(frozen=True)
class MetricPoint:
    """A number at a moment of the training."""

    key: str
    value: float
    images_seen: int


class MemoryTracker:
    """A tracker that tells nobody: everything stays in lists."""

    def __init__(self) -> None:
        self.points: list[MetricPoint] = []
        self.images: list[tuple[str, Path, int]] = []
        self.artifacts: list[tuple[Path, str]] = []
        self.num_syncs = 0
        self.status: RunStatus | None = None

    @property
    def ids(self) -> RunIds:
        """No names: nothing left this process."""
        return RunIds()

    def log_metrics(self, values: Mapping[str, float], images_seen: int) -> None:
        """Keep the numbers in `points`."""
        self.points += [MetricPoint(key, float(v), images_seen) for key, v in values.items()]

    def log_image(self, key: str, path: Path, images_seen: int) -> None:
        """Keep the image's name and path in `images`."""
        self.images.append((key, path, images_seen))

    def log_artifact(self, path: Path, folder: str) -> None:
        """Keep the path in `artifacts`."""
        self.artifacts.append((path, folder))

    def sync(self) -> None:
        """Count the call in `num_syncs`."""
        self.num_syncs += 1

    def rewind(self, images_seen: int) -> None:
        """Drop later points and images."""
        self.points = [point for point in self.points if point.images_seen <= images_seen]
        self.images = [image for image in self.images if image[2] <= images_seen]

    def close(self, status: RunStatus) -> None:
        """Keep the status."""
        self.status = status

    def series(self, key: str) -> list[tuple[int, float]]:
        """The points of one metric as (images_seen, value), in the order of recording."""
        return [(point.images_seen, point.value) for point in self.points if point.key == key]
