"""Moving the alias `champion`: compare-and-set after a check, with a way back and a record.

A move is claimed before it is made (`moves.py`): of people who promote at once, also from several
machines, one wins and the others are told. The next one to look finishes what a kill interrupted:
the aliases always name whole, signed versions, and no move is missing in the record or there twice.
What was done, by whom and why is kept with the registered model.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from vivero.config.schema import PromoteConfig
from vivero.errors import DataError, PromotionError
from vivero.registry.check_model import check_in_clean_process
from vivero.registry.moves import Event, history, make_move, new_event, take_turn
from vivero.registry.verdict_page import LETS_PASS
from vivero.registry.verdict_record import (
    VerdictRecord,
    registered_verdict,
    require_present_champion,
)
from vivero.registry.versions import (
    CHAMPION,
    PREVIOUS,
    ModelVersion,
    bring_here,
    find_alias,
    find_version,
)
from vivero.tracking.store import store_lock

ANY_CHAMPION = "any"


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


def promote(root: Path, request: Request, config: PromoteConfig) -> Event | None:
    """Make a version the champion, if it works and the champion is who it is thought to be.

    Returns:
        What was recorded; None when the version is champion already.

    Raises:
        PromotionError: When the champion is another, or the version does not make images.
        BundleError: When the version is not signed or was altered.
        TrackingError: When there is no such version, or MLflow does not answer.
    """
    with store_lock(root):
        take_turn(root, request.name)
        version = find_version(root, f"models:/{request.name}/{request.version}")
        if CHAMPION in version.aliases:
            return None
        _expected_champion(root, request)
    folder = bring_here(root, version)
    check_in_clean_process(folder / "bundle", config.num_check_images, config.check_timeout_s)
    with store_lock(root):
        number = take_turn(root, request.name)
        former = _expected_champion(root, request)
        if former == version.version:
            return None
        event = new_event("promote", version.version, former, request.why, request.verdict_sha256)
        make_move(root, request.name, number, event)
    return event


def promote_by_hand(
    root: Path, request: Request, config: PromoteConfig, force: bool
) -> Event | None:
    """`promote` for a person: a version without a valid verdict that lets it pass needs force.

    The verdict is the signed one among the version's files; what the registry's tags say is shown
    in lists and decides nothing.

    Raises:
        PromotionError: Also when the gate's verdict on the version was hold or reject, was made
            against another champion, or is not among the signed files.
        DataError: When the verdict is not about this version, or contradicts itself.
    """
    version = find_version(root, f"models:/{request.name}/{request.version}")
    if force:
        why = f"{request.why} (forced; the verdict was {_verdict_in_words(root, version)})"
        return promote(root, replace(request, why=why), config)
    if CHAMPION in version.aliases:
        return promote(root, request, config)  # completes an interrupted move
    verdict = _verdict_that_lets_pass(root, version)
    if request.expected_champion == ANY_CHAMPION:
        request = replace(request, expected_champion=verdict.champion)
    return promote(root, request, config)


def _verdict_in_words(root: Path, version: ModelVersion) -> str:
    try:
        verdict = registered_verdict(root, version)
    except DataError:
        return "not valid"
    return "none" if verdict is None else f"'{verdict.verdict}'"


def _verdict_that_lets_pass(root: Path, version: ModelVersion) -> VerdictRecord:
    verdict = registered_verdict(root, version)
    end = "The champion is unchanged; --force promotes it all the same, and is recorded"
    what = f"version {version.version} of '{version.name}'"
    if verdict is None:
        raise PromotionError(
            f"{what} was not judged: it has no verdict among its signed files. Run `vivero judge` "
            f"and `vivero register` where its artifacts/ are. {end}"
        )
    if verdict.verdict not in LETS_PASS:
        raise PromotionError(
            f"the gate's verdict on {what} was '{verdict.verdict}': "
            f"{'; '.join(verdict.open_reasons)}. {end}"
        )
    again = f"run `vivero judge` and `vivero register` where its artifacts/ are. {end}"
    require_present_champion(root, version.name, verdict, again)
    return verdict


def rollback(
    root: Path, name: str, why: str, expected_champion: str = ANY_CHAMPION
) -> Event | None:
    """Give the alias back to the previous champion; the present one becomes `previous`.

    Args:
        root: Top of the repository.
        name: Registered model.
        why: Reason for the record.
        expected_champion: Version that is to be taken back; "any" = whichever is champion, and
            then a second rollback undoes the first.

    Returns:
        What was recorded; None when the last move was this very rollback, so that a command that
        is sent twice takes one version back.

    Raises:
        PromotionError: When there is no champion or no previous one, the champion is another, or
            somebody was quicker.
        BundleError: When the previous one's files are not whole and signed.
    """
    with store_lock(root):
        number = take_turn(root, name)
        champion, previous = find_alias(root, name, CHAMPION), find_alias(root, name, PREVIOUS)
        last = history(root, name)[-1:]
        if champion and [("rollback", expected_champion, champion.version)] == [
            (event.action, event.former, event.champion) for event in last
        ]:
            return None
        _require_champion(name, expected_champion, champion, "look at `vivero models history`")
        if champion is None or previous is None:
            missing = "champion" if champion is None else "previous champion"
            raise PromotionError(
                f"model '{name}' has no {missing}, so there is nothing to go back to; "
                f"`vivero models` lists versions, `vivero promote VERSION` chooses one"
            )
        bring_here(root, previous)  # its files must be whole and signed
        event = new_event("rollback", previous.version, champion.version, why, None)
        make_move(root, name, number, event)
    return event


def withdrawal(root: Path, name: str, version: str) -> Event | None:
    """The rollback that took a version out of use; None when it was not, or came back since."""
    events = [event for event in history(root, name) if version in (event.champion, event.former)]
    last = events[-1] if events else None
    is_withdrawn = last is not None and last.action == "rollback" and last.former == version
    return last if is_withdrawn else None


def _expected_champion(root: Path, request: Request) -> str | None:
    champion = find_alias(root, request.name, CHAMPION)
    advice = "judge the candidate against the new champion (`vivero judge`) and try again"
    return _require_champion(request.name, request.expected_champion, champion, advice)


def _require_champion(
    name: str, expected: str | None, champion: ModelVersion | None, advice: str
) -> str | None:
    number = None if champion is None else champion.version
    if expected not in (ANY_CHAMPION, number):
        raise PromotionError(
            f"expected {_named(expected)} to be champion of '{name}', found {_named(number)}: "
            f"a mistake, or someone else changed the champion. Nothing was changed; {advice}"
        )
    return number


def _named(number: str | None) -> str:
    return "nobody" if number is None else f"version {number}"
