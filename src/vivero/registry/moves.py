"""The record of the champion's moves, kept in MLflow, and the only place where aliases are set.

MLflow has no compare-and-set for aliases, but the name of an experiment is unique in its database:
of all who create `NAME.move.000012`, one succeeds, on whichever machine they are. That experiment
is the claim to the twelfth move and holds it in its tags. The move is then made, written into the
record (a tag of the registered model), and the experiment is hidden (deleted, in MLflow's words).
Who finds a claim that is not hidden finishes its move first; made again, it changes nothing.
"""

import json
import logging
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from mlflow.exceptions import MlflowException
from pydantic import AfterValidator, StringConstraints, ValidationError

from vivero.config.environment import local_artifacts_dir, tracking_uri, user_name
from vivero.errors import PromotionError, TrackingError
from vivero.integrity.records import (
    UNREADABLE,
    VERSION_NUMBER,
    Line,
    Record,
    Sha256,
    describe_mistakes,
    printable,
    shown,
)
from vivero.registry.versions import (
    CHAMPION,
    PREVIOUS,
    find_alias,
    list_versions,
    require_model_name,
)
from vivero.tracking.store import open_client, quoted, refusals

EVENT_TAG = "vivero.event."
EVENT_KEY = re.compile(r"vivero\.event\.[0-9]{1,9}")
MOVE_TAG = "vivero.move"
CLAIMANT_TAG = "vivero.claimant"
MAX_WHY_LETTERS = 2000  # MLflow's database keeps 5000 letters of a tag, with the rest of the event

VersionNumber = Annotated[str, StringConstraints(pattern=rf"^{VERSION_NUMBER}$")]
Reason = Annotated[str, StringConstraints(max_length=MAX_WHY_LETTERS), AfterValidator(printable)]

log = logging.getLogger(__name__)


class Event(Record):
    """One move of the champion, as it is recorded."""

    action: Literal["promote", "rollback"]
    champion: VersionNumber
    former: VersionNumber | None
    by: Line
    why: Reason
    at: Line
    verdict_sha256: Sha256 | None


def new_event(
    action: Literal["promote", "rollback"],
    champion: str,
    former: str | None,
    why: str,
    verdict_sha256: str | None,
) -> Event:
    """A move by this user, now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    reason = "".join(letter if letter.isprintable() else " " for letter in why)[:MAX_WHY_LETTERS]
    return Event(
        action=action,
        champion=champion,
        former=former,
        by=shown(user_name()),
        why=reason,
        at=now,
        verdict_sha256=verdict_sha256,
    )


def history(root: Path, name: str) -> list[Event]:
    """All moves of the champion, oldest first."""
    return list(_recorded(root, name).values())


def take_turn(root: Path, name: str) -> int:
    """Number of the next move, once all before it are finished.

    Whoever was killed in the middle of a move has it finished here; it is forgotten when a person
    moved the champion by hand since, or the version is gone. Look at who is champion after this
    and before `make_move`: a claim to this number then proves that nobody moved it in between.
    """
    client = open_client(root)
    with refusals(tracking_uri(root)):
        number = max(_recorded(root, name), default=0)
        if number:
            _finish_if_open(client, root, name, number)
        number += 1
        while _finish_if_open(client, root, name, number):
            number += 1
    return number


def make_move(root: Path, name: str, number: int, event: Event) -> None:
    """Claim a move, make it, record it.

    Raises:
        PromotionError: When somebody else claimed it; their move is finished, not this one.
    """
    client = open_client(root)
    with refusals(tracking_uri(root)):
        claim_id = _claim(client, root, name, number, event)
    if claim_id is None:
        take_turn(root, name)
        raise PromotionError(
            f"the champion of '{name}' was changed by someone else at the same moment. "
            f"This command changed nothing; look at `vivero models history`, then decide again"
        )
    _carry_out(root, name, number, event, claim_id)


def _finish_if_open(client: Any, root: Path, name: str, number: int) -> bool:
    """Whether there is a claim of this number; one that is open is finished."""
    claim = client.get_experiment_by_name(_claim_name(name, number))
    if claim is not None and claim.lifecycle_stage == "active":
        _finish(client, root, name, number, claim)
    return claim is not None


def _finish(client: Any, root: Path, name: str, number: int, claim: Any) -> None:
    event = _event(claim.tags.get(MOVE_TAG, ""), f"the tag {MOVE_TAG} of experiment {claim.name}")
    found = find_alias(root, name, CHAMPION)
    is_recorded = number in _recorded(root, name)
    exists = event.champion in {version.version for version in list_versions(root, name)}
    is_untouched = (found.version if found else None) in (event.former, event.champion)
    if not is_recorded and exists and is_untouched:
        log.info("finishing an interrupted move: version %s becomes champion", event.champion)
        _carry_out(root, name, number, event, claim.experiment_id)
    else:
        _hide(client, claim.experiment_id)


def _carry_out(root: Path, name: str, number: int, event: Event, claim_id: str) -> None:
    """Make a move that was claimed; made again, it changes nothing.

    Who slept here while another finished this move and made the next must not undo that: after
    the aliases were set, the newest record is looked up, and it wins.
    """
    client = open_client(root)
    with refusals(tracking_uri(root)):
        _set_aliases(client, name, event)
        key = f"{EVENT_TAG}{number:06}"
        client.set_registered_model_tag(name, key, _as_tag(event))
        recorded = _recorded(root, name)
        if max(recorded) != number:
            _set_aliases(client, name, recorded[max(recorded)])
        _hide(client, claim_id)


def _set_aliases(client: Any, name: str, event: Event) -> None:
    if event.former is not None:
        client.set_registered_model_alias(name, PREVIOUS, event.former)
    client.set_registered_model_alias(name, CHAMPION, event.champion)


def _claim(client: Any, root: Path, name: str, number: int, event: Event) -> str | None:
    """Id of the claim; None when another has it."""
    claimant = uuid.uuid4().hex  # a request that HTTP repeated finds its own claim
    tags = {MOVE_TAG: _as_tag(event), CLAIMANT_TAG: claimant}
    claim_name = _claim_name(name, number)
    try:
        made = client.create_experiment(
            claim_name, artifact_location=_unused_location(root), tags=tags
        )
    except MlflowException:
        found = client.get_experiment_by_name(claim_name)
        if found is None:
            raise
        return str(found.experiment_id) if found.tags.get(CLAIMANT_TAG) == claimant else None
    return str(made)


def _hide(client: Any, claim_id: str) -> None:
    """Out of sight in MLflow's pages; its name stays taken."""
    try:
        client.delete_experiment(claim_id)
    except MlflowException:
        if client.get_experiment(claim_id).lifecycle_stage == "active":
            raise


def _claim_name(name: str, number: int) -> str:
    return f"{name}.move.{number:06}"


def _unused_location(root: Path) -> str | None:
    is_served = tracking_uri(root).startswith(("http:", "https:", "databricks"))
    return None if is_served else local_artifacts_dir(root).resolve().as_uri()


def _recorded(root: Path, name: str) -> dict[int, Event]:
    """The record by number; empty when there is no such model."""
    require_model_name(name)
    client = open_client(root)
    with refusals(tracking_uri(root)):
        if not client.search_registered_models(filter_string=f"name = {quoted(name)}"):
            return {}
        tags = client.get_registered_model(name).tags
    keys = sorted(key for key in tags if EVENT_KEY.fullmatch(key))
    return {
        int(key.removeprefix(EVENT_TAG)): _event(tags[key], f"the tag {key} of model '{name}'")
        for key in keys
    }


def _as_tag(event: Event) -> str:
    return json.dumps(event.model_dump(), ensure_ascii=False)


def _event(text: str, place: str) -> Event:
    """A move as MLflow holds it.

    Raises:
        TrackingError: When it is none.
    """
    try:
        return Event.model_validate_json(text)
    except ValidationError as error:
        raise TrackingError(
            f"{UNREADABLE}: {place} is no move of the champion ({describe_mistakes(error)}). "
            f"Nothing was changed; correct or delete it in MLflow, then run the same command again"
        ) from error
