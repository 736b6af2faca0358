"""Values from outside, checked where they enter: hashes, names, lines and records of origin.

A file, a registry or another machine may hold anything. What is not of its form is refused as an
unreadable record before it is shown or put into a path, a filter, an address or a command.
Pure: values in, values out; the caller reads the file or asks the server.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

UNREADABLE = "unreadable record"
MAX_LINE_CHARACTERS = 500
MAX_SHOWN_CHARACTERS = 200
MAX_FIELDS = 64  # of one record
MAX_RECORD_BYTES = 1_000_000  # of the JSON file that holds one
MAX_INTEGER = 2**63 - 1
MODEL_NAME = r"[A-Za-z0-9_.-]{1,250}"
VERSION_NUMBER = r"[1-9][0-9]{0,9}"
ALIAS = r"[A-Za-z0-9_.-]{1,250}"
SHA256 = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
OBJECT_NAME = re.compile(r"[0-9a-f]{1,64}(?:\.dir)?")  # of an object in DVC's cache


def printable(text: str) -> str:
    """The text, if it is one line without control characters; else a ValueError."""
    if not text.isprintable():
        raise ValueError("must be one line without control characters")
    return text


Line = Annotated[str, StringConstraints(max_length=MAX_LINE_CHARACTERS), AfterValidator(printable)]
LongLine = Annotated[str, StringConstraints(max_length=8000), AfterValidator(printable)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
CommitHash = Annotated[str, StringConstraints(pattern=rf"^(?:{COMMIT.pattern})$")]
DataDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}(?:\.dir)?$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]
Integer = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Real = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class Record(BaseModel):
    """A record from outside: what this version does not know is left out, nothing changes later."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def values(self) -> dict[str, Any]:
        """The fields that the record had, by name."""
        return self.model_dump(exclude_unset=True)


class LineageRecord(Record):
    """What something was made from, by the names of `tracking.lineage.Lineage`."""

    data_digest: DataDigest | None = None
    code_commit: CommitHash | None = None
    is_dirty: bool | None = None
    dvc_lock_sha256: Sha256 | None = None
    params_sha256: Sha256 | None = None
    requirements_sha256: Sha256 | None = None
    seed: Integer | None = None
    weights_sha256: Sha256 | None = None
    initial_model: Line | None = None
    initial_weights_sha256: Sha256 | None = None
    not_bit_exact: Annotated[list[Line], Field(max_length=MAX_FIELDS)] | LongLine | None = None


class BatchRecord(Record):
    """How a batch of images was made: samples.json without its images."""

    weights_sha256: Sha256 | None = None
    lineage: LineageRecord = LineageRecord()
    seed: Integer | None = None
    sampler: Line | None = None
    num_steps: Integer | None = None
    guidance: Real | None = None
    guidance_interval: Annotated[list[Real], Field(max_length=2)] | None = None
    adaptive_threshold: Real | None = None


class EntryRecord(Record):
    """What is recorded of one image of a batch."""

    index: Integer | None = None
    label: Integer | None = None
    class_name: Line | None = None
    image_seed: Integer | None = None
    file: FileName | None = None
    pixels_sha256: Sha256 | None = None


class ImageRecord(BatchRecord, EntryRecord):
    """The record that an image file carries: how its batch was made, and its own entry."""


R = TypeVar("R", bound=Record)


def read_record(kind: type[R], values: object) -> R:
    """A record whose every known field has its form.

    Raises:
        ValueError: When one has not; it names the fields and says what was expected.
    """
    if not isinstance(values, Mapping) or len(values) > MAX_FIELDS:
        raise ValueError(f"{UNREADABLE}: expected at most {MAX_FIELDS} fields by name")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{UNREADABLE}: {describe_mistakes(error)}") from error


def read_known(kind: type[R], values: Mapping[str, object]) -> tuple[R, str | None]:
    """A record without the fields that have not their form, and what is wrong with those."""
    try:
        return kind.model_validate(values), None
    except ValidationError as error:
        bad = {str(mistake["loc"][0]) for mistake in error.errors() if mistake["loc"]}
        good = {name: value for name, value in values.items() if name not in bad}
        return kind.model_validate(good), f"{UNREADABLE}: {describe_mistakes(error)}"


def run_id_or_none(value: object) -> str | None:
    """The id of a run or a model in MLflow; None for anything that is none."""
    return value if isinstance(value, str) and RUN_ID.fullmatch(value) else None


def describe_mistakes(error: ValidationError) -> str:
    """The fields that have not their form, what was expected and what was found, in one line."""
    return "; ".join(
        f"{shown('.'.join(map(str, mistake['loc'])))}: {mistake['msg']}; "
        f"got {shown(mistake['input'], 60)!r}"
        for mistake in error.errors()[:5]
    )


def shown(value: object, max_characters: int = MAX_SHOWN_CHARACTERS) -> str:
    """Any value as one bounded line: what could steer a terminal becomes a question mark."""
    text = str(value)
    cut = text if len(text) <= max_characters else f"{text[: max_characters - 3]}..."
    return "".join(c if c.isprintable() else "?" for c in cut)
