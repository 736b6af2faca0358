"""What a retraining was asked for: the file of GitHub's event, validated field by field.

Nothing of an event is put into a shell command: workflows hand over no payload at all, this module
reads the file that GitHub itself leaves on the runner (GITHUB_EVENT_PATH).
"""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from infra.github.branches import checked_key
from infra.github.records import RecordError, read_object
from vivero.errors import ConfigError
from vivero.integrity.records import printable

DISPATCH_TYPE = "vivero-drift"
HOSTED = "ubuntu-24.04"
MAX_EVENT_BYTES = 10_000_000
# As long as the sentence of a drift report in which every test alarms, twice over.
Line = Annotated[
    str, StringConstraints(max_length=500, pattern=r"^[^`<>]*$"), AfterValidator(printable)
]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$")]


class Inputs(BaseModel):
    """Of a start by hand. runner: a label of a self-hosted machine, or the hosted one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runner: Label = HOSTED
    force: bool = False
    reason: Line = "by hand"


class Alarm(BaseModel):
    """What the monitor sends (artifacts/monitor/decision.json): it names causes, never commands.

    idempotency_key: stands for one alarm, however often it is sent; it becomes part of a branch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    trigger: bool
    reasons: Annotated[list[Line], Field(min_length=1, max_length=20)]
    idempotency_key: Annotated[str, AfterValidator(checked_key)]
    num_new: Annotated[int, Field(ge=0)]


class Request(BaseModel):
    """Why, on which machine, and how.

    has_new_data: bring new images in first. alarm_key: of the alarm that asks; empty = none does.
    """

    model_config = ConfigDict(frozen=True)

    reason: str
    runner: Label = HOSTED
    force: bool = False
    has_new_data: bool = False
    alarm_key: str = ""

    @property
    def labels(self) -> list[str]:
        """The value of runs-on; a label that is not the hosted one matches our machines only."""
        return [HOSTED] if self.runner == HOSTED else ["self-hosted", self.runner]


def read_request(event_name: str, event: dict[str, Any], default_runner: str) -> Request:
    """The request in an event.

    Raises:
        ConfigError: When it is of a kind that never trains, or a field is not what it may be.
    """
    try:
        return _read(event_name, event, default_runner or HOSTED)
    except ValidationError as error:
        raise ConfigError(f"the event '{event_name}' is refused: {mistakes(error)}") from error


def mistakes(error: ValidationError) -> str:
    """The fields that are not of their form, and why, in one line."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())


def _read(event_name: str, event: dict[str, Any], default_runner: str) -> Request:
    if event_name == "workflow_dispatch":
        inputs = event.get("inputs") or {}
        if not isinstance(inputs, dict):
            raise ConfigError(f"the event '{event_name}' is refused: its inputs are no object")
        given = {name: value for name, value in inputs.items() if value != ""}
        return Request(**Inputs.model_validate({"runner": default_runner, **given}).model_dump())
    if event_name == "repository_dispatch":
        return _alarm(event, default_runner)
    if event_name in ("schedule", "push"):
        return Request(reason=event_name, runner=default_runner)
    raise ConfigError(
        f"an event of the kind '{event_name}' never trains; only schedule, push, "
        f"workflow_dispatch and repository_dispatch do"
    )


def _alarm(event: dict[str, Any], default_runner: str) -> Request:
    if event.get("action") != DISPATCH_TYPE:
        raise ConfigError(f"a repository_dispatch must be of type '{DISPATCH_TYPE}'")
    alarm = Alarm.model_validate(event.get("client_payload"))
    if not alarm.trigger:
        raise ConfigError("the monitor's decision is not to train; it should not have been sent")
    return Request(
        reason="; ".join(alarm.reasons),
        runner=default_runner,
        has_new_data=True,
        alarm_key=alarm.idempotency_key,
    )


def request_of_this_run() -> Request:
    """From the variables that GitHub sets; off GitHub a request by hand with nothing special."""
    path = os.environ.get("GITHUB_EVENT_PATH")
    try:
        event = read_object(Path(path), MAX_EVENT_BYTES) if path else {}
    except (OSError, RecordError) as error:
        raise ConfigError(f"GITHUB_EVENT_PATH holds no event: {error}") from error
    name = os.environ.get("GITHUB_EVENT_NAME", "workflow_dispatch")
    return read_request(name, event, os.environ.get("VIVERO_RUNNER", ""))
