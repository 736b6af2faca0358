"""Moving the alias `champion`: compare-and-set after a check, with a way back and a record.

A move is written down before it is made (MOVE_TAG), and the next one to look finishes what a kill
interrupted: the aliases always name whole versions, and no move is missing in the record. What was
done, by whom and why is kept with the registered model.

MLflow has no compare-and-set of its own: a lock file excludes other processes of this repository;
people who promote from several machines at once need `--expect-champion` and patience.
"""

import json
import logging
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from vivero.config.environment import tracking_uri, user_name
from vivero.config.schema import PromoteConfig
from vivero.errors import PromotionError
from vivero.registry.check_model import check_in_clean_process
from vivero.registry.versions import CHAMPION, PREVIOUS, bring_here, find_alias, find_version
from vivero.tracking.store import open_client, refusals, store_lock

EVENT_TAG = "vivero.event."
MOVE_TAG = "vivero.move"
ANY_CHAMPION = "any"
MAX_WHY_LETTERS = 4000  # MLflow's database keeps 5000 letters of a tag

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """A wish to move the champion.

    Attributes:
        name: Registered model.
        version: The version that is to be champion.
        expected_champion: Version that must be champion now; None = none; "any" = whichever.
        why: Reason for the record.
        verdict_sha256: Hash of the verdict that allowed it; None when a person decided.
    """

    name: str
    version: str
    expected_champion: str | None
    why: str
    verdict_sha256: str | None = None


@dataclass(frozen=True)
class Event:
    """One move of the champion, as it is recorded."""

    action: Literal["promote", "rollback"]
    champion: str
    former: str | None
    by: str
    why: str
    at: str
    verdict_sha256: str | None


def promote(root: Path, request: Request, config: PromoteConfig) -> Event | None:
    """Make a version the champion, if it works and the champion is who it is thought to be.

    Returns:
        What was recorded; None when the version is champion already.

    Raises:
        PromotionError: When the champion is another, or the version does not make images.
        TrackingError: When there is no such version, or MLflow does not answer.
    """
    with store_lock(root):
        _finish_interrupted_move(root, request.name)
        version = find_version(root, f"models:/{request.name}/{request.version}")
        if CHAMPION in version.aliases:
            return None
        _require_champion(root, request)
    folder = bring_here(root, version)
    check_in_clean_process(folder / "bundle", config.num_check_images, config.check_timeout_s)
    with store_lock(root):
        former = _require_champion(root, request)
        event = _event("promote", version.version, former, request.why, request.verdict_sha256)
        _move(root, request.name, event)
    return event


def promote_by_hand(
    root: Path, request: Request, config: PromoteConfig, force: bool
) -> Event | None:
    """`promote` for a person: a version that the gate refused needs force.

    Raises:
        PromotionError: Also when the gate's verdict on the version was hold or reject.
    """
    version = find_version(root, f"models:/{request.name}/{request.version}")
    verdict = version.tags.get("vivero.verdict", "unknown")
    if verdict not in ("first", "promote") and not force:
        raise PromotionError(
            f"the gate's verdict on version {request.version} of '{request.name}' was '{verdict}': "
            f"{version.tags.get('vivero.reasons', 'no reasons recorded')}. The champion is "
            f"unchanged; --force promotes it all the same, and is recorded"
        )
    forced = f" (forced; the verdict was '{verdict}')" if force else ""
    return promote(root, replace(request, why=request.why + forced), config)


def rollback(root: Path, name: str, why: str) -> Event:
    """Give the alias back to the previous champion; the present one becomes `previous`.

    Raises:
        PromotionError: When there is no champion or no previous one.
    """
    with store_lock(root):
        _finish_interrupted_move(root, name)
        champion, previous = find_alias(root, name, CHAMPION), find_alias(root, name, PREVIOUS)
        if champion is None or previous is None:
            missing = "champion" if champion is None else "previous champion"
            raise PromotionError(
                f"model '{name}' has no {missing}, so there is nothing to go back to; "
                f"`vivero models` lists versions, `vivero promote VERSION` chooses one"
            )
        event = _event("rollback", previous.version, champion.version, why, None)
        _move(root, name, event)
    return event


def history(root: Path, name: str) -> list[Event]:
    """All moves of the champion, oldest first."""
    tags = _tags(root, name)
    keys = sorted(key for key in tags if key.startswith(EVENT_TAG))
    return [Event(**json.loads(tags[key])) for key in keys]


def withdrawal(root: Path, name: str, version: str) -> Event | None:
    """The rollback that took a version out of use; None when it was not, or came back since."""
    events = [event for event in history(root, name) if version in (event.champion, event.former)]
    last = events[-1] if events else None
    is_withdrawn = last is not None and last.action == "rollback" and last.former == version
    return last if is_withdrawn else None


def _tags(root: Path, name: str) -> dict[str, str]:
    """Tags of the registered model; none when there is no such model."""
    client = open_client(root)
    with refusals(tracking_uri(root)):
        if not client.search_registered_models(filter_string=f"name = '{name}'"):
            return {}
        return dict(client.get_registered_model(name).tags)


def _require_champion(root: Path, request: Request) -> str | None:
    champion = find_alias(root, request.name, CHAMPION)
    number = None if champion is None else champion.version
    if request.expected_champion not in (ANY_CHAMPION, number):
        raise PromotionError(
            f"expected {_named(request.expected_champion)} to be champion of '{request.name}', "
            f"found {_named(number)}: somebody was quicker. Nothing was changed; judge the "
            f"candidate against the new champion (`vivero judge`) and try again"
        )
    return number


def _named(number: str | None) -> str:
    return "nobody" if number is None else f"version {number}"


def _event(
    action: Literal["promote", "rollback"],
    champion: str,
    former: str | None,
    why: str,
    verdict_sha256: str | None,
) -> Event:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Event(action, champion, former, user_name(), why[:MAX_WHY_LETTERS], now, verdict_sha256)


def _move(root: Path, name: str, event: Event) -> None:
    """Write the move down, then make it."""
    number = len(history(root, name)) + 1
    client = open_client(root)
    with refusals(tracking_uri(root)):
        move = json.dumps({"number": number, "event": asdict(event)})
        client.set_registered_model_tag(name, MOVE_TAG, move)
    _make_move(root, name, number, event)


def _make_move(root: Path, name: str, number: int, event: Event) -> None:
    """Make a move that was written down; made again, it changes nothing."""
    client = open_client(root)
    with refusals(tracking_uri(root)):
        if event.former is not None:
            client.set_registered_model_alias(name, PREVIOUS, event.former)
        client.set_registered_model_alias(name, CHAMPION, event.champion)
        client.set_registered_model_tag(name, f"{EVENT_TAG}{number:06}", json.dumps(asdict(event)))
        client.delete_registered_model_tag(name, MOVE_TAG)


def _finish_interrupted_move(root: Path, name: str) -> None:
    """Finish a move that a kill interrupted, unless the champion was moved by hand since."""
    written = _tags(root, name).get(MOVE_TAG)
    if written is None:
        return
    move = json.loads(written)
    event = Event(**move["event"])
    champion = find_alias(root, name, CHAMPION)
    if (champion.version if champion else None) in (event.former, event.champion):
        log.info("finishing an interrupted move: version %s becomes champion", event.champion)
        _make_move(root, name, move["number"], event)
    else:
        client = open_client(root)
        with refusals(tracking_uri(root)):
            client.delete_registered_model_tag(name, MOVE_TAG)
