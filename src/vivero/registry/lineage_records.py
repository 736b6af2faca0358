"""What MLflow remembers of where things came from: versions and runs with their lineage.

The same over sqlite and over HTTP. What others registered without our tags is listed with an
empty lineage; a deleted run is said to be deleted, and one that was purged to be gone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from vivero.config.environment import tracking_uri
from vivero.integrity.records import LineageRecord, read_known, run_id_or_none, shown
from vivero.registry.versions import WEIGHTS_TAG, version_number
from vivero.tracking.store import open_client, quoted, refusals

RUN_TAG_PREFIX = "lineage."
VERSION_TAG_PREFIX = "vivero.lineage."
PAGE = 200
GONE = "gone"


@dataclass(frozen=True)
class VersionRecord:
    """A model version and where it came from.

    Attributes:
        name: Registered model.
        version: Its number, as text.
        aliases: Such as champion.
        made_at: When it was registered, ISO 8601 in UTC.
        verdict: Of the gate; None for versions that others made.
        run_id: Run of its training; None likewise.
        model_id: Its LoggedModel; None likewise.
        lineage: What its tags say, by the names of `Lineage`.
        unreadable: What is wrong with tags that have not their form; None when all have.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    made_at: str
    verdict: str | None
    run_id: str | None
    model_id: str | None
    lineage: dict[str, Any]
    unreadable: str | None = None

    @property
    def uri(self) -> str:
        """models:/NAME/NUMBER."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class RunRecord:
    """A run in MLflow and where it came from.

    Attributes:
        run_id: MLflow's name of it.
        name: What a person reads; None for a run that is gone.
        status: FINISHED and the like, "deleted", or "gone" when it was purged.
        started_at: ISO 8601 in UTC; None for a run that is gone.
        tags: All of its tags.
    """

    run_id: str
    name: str | None
    status: str
    started_at: str | None
    tags: dict[str, str]

    @property
    def lineage(self) -> dict[str, Any]:
        """What its tags say, by the names of `Lineage`."""
        return read_known(LineageRecord, _below(self.tags, RUN_TAG_PREFIX))[0].values()

    @property
    def unreadable(self) -> str | None:
        """What is wrong with tags of the lineage that have not their form; None when all have."""
        return read_known(LineageRecord, _below(self.tags, RUN_TAG_PREFIX))[1]


class LineageRecords:
    """The records of one MLflow."""

    def __init__(self, root: Path) -> None:
        """Connect to the MLflow of this repository.

        Raises:
            TrackingError: When it does not answer.
        """
        self._client: Any = open_client(root)
        self._uri = tracking_uri(root)

    def versions(self) -> list[VersionRecord]:
        """All versions of all registered models, by name and number."""
        with refusals(self._uri):
            aliases = {
                str(item.name): dict(item.aliases)
                for item in _pages(self._client.search_registered_models)
            }
            # Without a filter: the name of another one's model may hold anything.
            found = list(_pages(self._client.search_model_versions))
        records = [_version_record(item, aliases.get(str(item.name), {})) for item in found]
        return sorted(records, key=lambda record: (record.name, int(record.version)))

    def runs_with(self, key: str, value: str) -> list[RunRecord]:
        """Runs whose lineage holds this, deleted ones too, oldest first."""
        return self.runs_tagged(f"{RUN_TAG_PREFIX}{key}", value)

    def runs_tagged(self, tag: str, value: str) -> list[RunRecord]:
        """Runs with this tag, deleted ones too, oldest first.

        Raises:
            TrackingError: When the value cannot be searched for, or MLflow does not answer.
        """
        with refusals(self._uri):
            experiments = [
                item.experiment_id
                for item in _pages(self._client.search_experiments, view_type=ViewType.ALL)
            ]
            runs = _pages(
                self._client.search_runs,
                experiment_ids=experiments,
                filter_string=f"tags.`{tag}` = {quoted(value)}",
                run_view_type=ViewType.ALL,
                order_by=["attributes.start_time ASC"],
            )
            return [_run_record(run) for run in runs]

    def run(self, run_id: str) -> RunRecord:
        """The run of this name; one that was purged has nothing but its name."""
        with refusals(self._uri):
            try:
                return _run_record(self._client.get_run(run_id))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return RunRecord(run_id, None, GONE, None, {})


def _version_record(item: Any, aliases: dict[str, Any]) -> VersionRecord:
    number, tags = version_number(item), dict(item.tags)
    known = _below(tags, VERSION_TAG_PREFIX)
    if WEIGHTS_TAG in tags:
        known["weights_sha256"] = tags[WEIGHTS_TAG]
    lineage, unreadable = read_known(LineageRecord, known)
    verdict = tags.get("vivero.verdict")
    return VersionRecord(
        name=shown(item.name),
        version=number,
        aliases=tuple(sorted(shown(name) for name, held in aliases.items() if str(held) == number)),
        made_at=_instant(item.creation_timestamp),
        verdict=None if verdict is None else shown(verdict),
        run_id=run_id_or_none(item.run_id),
        model_id=run_id_or_none(item.model_id),
        lineage=lineage.values(),
        unreadable=unreadable,
    )


def _below(tags: dict[str, str], prefix: str) -> dict[str, str]:
    return {
        name.removeprefix(prefix): value for name, value in tags.items() if name.startswith(prefix)
    }


def _run_record(run: Any) -> RunRecord:
    info = run.info
    is_deleted = info.lifecycle_stage == "deleted"
    return RunRecord(
        run_id=str(info.run_id),
        name=None if info.run_name is None else shown(info.run_name),
        status="deleted" if is_deleted else shown(info.status),
        started_at=_instant(info.start_time),
        tags=dict(run.data.tags),
    )


def _instant(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")


def _pages(search: Any, **arguments: Any) -> Iterator[Any]:
    """All that a search of MLflow's client finds, page by page."""
    token = None
    while True:
        page = search(max_results=PAGE, page_token=token, **arguments)
        yield from page
        token = page.token
        if not token:
            return
