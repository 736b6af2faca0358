"""An A/B test: the champion and a challenger served by share, and its results.

Who gets which is a function of the test and the unit (a user, a session, an order): asked twice, or
on two machines, the answer is the same. The versions are fixed at the start; the alias `challenger`
says which one serves beside the champion.
"""

import hashlib
import shlex
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sqlalchemy import Engine, Table, insert, select, update
from sqlalchemy.exc import IntegrityError

from vivero.config.environment import tracking_uri, user_name
from vivero.errors import AbTestError
from vivero.evaluation.sequential import (
    Course,
    SequentialTest,
    course,
    difference_scores,
    preference_scores,
)
from vivero.registry.ab_tables import EXPOSURES, OUTCOMES, PREFERENCES, TESTS, open_database
from vivero.registry.versions import CHAMPION, bring_here, find_alias, find_number
from vivero.tracking.store import open_client, refusals

CHALLENGER = "challenger"
Arm = Literal["champion", "challenger"]
Measure = Literal["outcome", "preference"]
HASH_RANGE = 2**64


@dataclass(frozen=True)
class AbTest:
    """A running or stopped test.

    Attributes:
        id: In the database.
        model: Registered model.
        champion: Version that served as champion when it began.
        challenger: Version beside it.
        sequential: Share, level and margin.
        decide_by: What the decision rests on; the other is shown and decides nothing.
        salt: What makes the assignment of this test its own.
        stopped_at: UTC; None while it runs.
        verdict: What was decided when it was stopped; None while it runs.
    """

    id: int
    model: str
    champion: str
    challenger: str
    sequential: SequentialTest
    decide_by: Measure
    salt: str
    stopped_at: str | None
    verdict: str | None

    def version_of(self, arm: Arm) -> str:
        """The version that an arm serves."""
        return self.champion if arm == "champion" else self.challenger


@dataclass(frozen=True)
class Plan:
    """What is fixed before a test begins."""

    model: str
    challenger: str
    sequential: SequentialTest
    decide_by: Measure
    why: str


@dataclass(frozen=True)
class Status:
    """How a test stands.

    Attributes:
        test: Which.
        num_exposed: Units served, by arm.
        num_good: Of those with an outcome, the good ones, by arm.
        num_outcomes: Units with an outcome, by arm.
        outcomes: Course of the difference in good outcomes.
        preferences: Course of the preferences; 0 = neither is preferred.
        champion_now: Version that is champion now; another than the test's invalidates it.
    """

    test: AbTest
    num_exposed: dict[Arm, int]
    num_good: dict[Arm, int]
    num_outcomes: dict[Arm, int]
    outcomes: Course
    preferences: Course
    champion_now: str | None

    @property
    def decision(self) -> str:
        """Of the course that decides."""
        by = self.outcomes if self.test.decide_by == "outcome" else self.preferences
        return by.decision[-1] if by.decision else "continue"


def assign(test: AbTest, unit: str) -> Arm:
    """Who serves a unit: pure, the same at every call, challenger with probability share."""
    is_challenger = _uniform(test.salt, "arm", unit) < test.sequential.share
    return "challenger" if is_challenger else "champion"


def first_of_pair(test: AbTest, unit: str) -> Arm:
    """Whose images a unit sees as the first of two, by a fair coin, so that nobody knows whose."""
    return "challenger" if _uniform(test.salt, "pair", unit) < 0.5 else "champion"


def start(root: Path, plan: Plan) -> AbTest:
    """Begin a test of a version against the champion.

    Raises:
        AbTestError: When there is no champion, it is the challenger, or a test runs already.
        BundleError: When the challenger is not whole and signed.
    """
    champion = find_alias(root, plan.model, CHAMPION)
    challenger = find_number(root, plan.model, plan.challenger)
    if champion is None or champion.version == challenger.version:
        raise AbTestError(
            f"a test needs a champion and another version beside it; champion of '{plan.model}' is "
            f"{'nobody' if champion is None else champion.version} (`vivero models`)"
        )
    bring_here(root, challenger)
    values = {
        "model": plan.model,
        "running_for": plan.model,
        "champion": champion.version,
        "challenger": challenger.version,
        "share": plan.sequential.share,
        "level": plan.sequential.level,
        "margin": plan.sequential.margin,
        "decide_by": plan.decide_by,
        "salt": uuid.uuid4().hex,
        "started_at": _now(),
        "started_by": user_name(),
        "why": plan.why,
    }
    engine = open_database(root)
    try:
        with engine.begin() as connection:
            connection.execute(insert(TESTS).values(values))
    except IntegrityError as error:
        raise AbTestError(
            f"a test of '{plan.model}' runs already; `vivero ab status` shows it, `vivero ab stop` "
            f"ends it"
        ) from error
    client = open_client(root)
    with refusals(tracking_uri(root)):
        client.set_registered_model_alias(plan.model, CHALLENGER, challenger.version)
    return running_test(root, plan.model)


def running_test(root: Path, model: str) -> AbTest:
    """The test of a model that runs now.

    Raises:
        AbTestError: When none does.
    """
    with open_database(root).connect() as connection:
        found = connection.execute(select(TESTS).where(TESTS.c.running_for == model)).first()
    if found is None:
        raise AbTestError(
            f"no test of '{model}' runs; `vivero ab start --challenger VERSION` begins one"
        )
    return _test_of(found)


def last_test(root: Path, model: str) -> AbTest:
    """The test of a model that runs now or, where none does, the one that was begun last.

    Raises:
        AbTestError: When there never was one.
    """
    with open_database(root).connect() as connection:
        of_model = select(TESTS).where(TESTS.c.model == model)
        found = connection.execute(of_model.order_by(TESTS.c.id.desc())).first()
    return running_test(root, model) if found is None else _test_of(found)


def stop(root: Path, test: AbTest, verdict: str) -> None:
    """End a test; its record stays. The champion is not moved: that is for `vivero promote`."""
    with open_database(root).begin() as connection:
        values = {
            "running_for": None, "stopped_at": _now(), "stopped_by": user_name(), "verdict": verdict
        }  # fmt: skip
        connection.execute(
            update(TESTS).where(TESTS.c.id == test.id, TESTS.c.stopped_at.is_(None)).values(values)
        )
    client = open_client(root)
    with refusals(tracking_uri(root)):
        client.delete_registered_model_alias(test.model, CHALLENGER)


def record_exposure(root: Path, test: AbTest, unit: str) -> Arm:
    """Write down that a unit was served by its arm; once, however often it is served."""
    arm = assign(test, unit)
    _record(open_database(root), EXPOSURES, test, unit, {"is_challenger": arm == "challenger"})
    return arm


def record_outcome(root: Path, test: AbTest, unit: str, is_good: bool) -> None:
    """Record the result of a unit; recorded again, it changes nothing.

    Raises:
        AbTestError: When it was never served, or something else is recorded.
    """
    engine = open_database(root)
    with engine.connect() as connection:
        served = connection.execute(
            select(EXPOSURES.c.id).where(EXPOSURES.c.test_id == test.id, EXPOSURES.c.unit == unit)
        ).first()
    if served is None:
        raise AbTestError(
            f"unit '{unit}' was never served in this test, so nothing can have come of it; "
            f"`vivero ab sample {shlex.quote(unit)} --out FOLDER` serves it"
        )
    _record(engine, OUTCOMES, test, unit, {"is_good": is_good})


def record_preference(
    root: Path, test: AbTest, unit: str, preferred: Literal["first", "second", "tie"]
) -> None:
    """Write down which of two a unit preferred; said again, it changes nothing.

    Raises:
        AbTestError: When something else is recorded.
    """
    first_is_challenger = first_of_pair(test, unit) == "challenger"
    prefers = 0.5 if preferred == "tie" else float((preferred == "first") == first_is_challenger)
    _record(open_database(root), PREFERENCES, test, unit, {"prefers_challenger": prefers})


def status(root: Path, test: AbTest) -> Status:
    """How a test stands, with all that was recorded until now."""
    with open_database(root).connect() as connection:
        exposed = connection.execute(
            select(EXPOSURES.c.is_challenger).where(EXPOSURES.c.test_id == test.id)
        ).scalars()
        arms = np.array(list(exposed), dtype=np.bool_)
        joined = OUTCOMES.join(
            EXPOSURES,
            (EXPOSURES.c.test_id == OUTCOMES.c.test_id) & (EXPOSURES.c.unit == OUTCOMES.c.unit),
        )
        rows = connection.execute(
            select(EXPOSURES.c.is_challenger, OUTCOMES.c.is_good)
            .select_from(joined)
            .where(OUTCOMES.c.test_id == test.id)
            .order_by(OUTCOMES.c.id)
        ).all()
        preferred = connection.execute(
            select(PREFERENCES.c.prefers_challenger)
            .where(PREFERENCES.c.test_id == test.id)
            .order_by(PREFERENCES.c.id)
        ).scalars()
        preferences = preference_scores(np.array(list(preferred), dtype=np.float64))
    is_challenger = np.array([row[0] for row in rows], dtype=np.bool_)
    is_good = np.array([row[1] for row in rows], dtype=np.bool_)
    asked = test.sequential
    scores = difference_scores(is_challenger, is_good, asked.share)
    champion = find_alias(root, test.model, CHAMPION)
    return Status(
        test=test,
        num_exposed=_by_arm(arms, np.ones_like(arms)),
        num_good=_by_arm(is_challenger, is_good),
        num_outcomes=_by_arm(is_challenger, np.ones_like(is_good)),
        outcomes=course(scores, asked.reach, asked),
        preferences=course(preferences, 1.0, asked),
        champion_now=None if champion is None else champion.version,
    )


def _by_arm(is_challenger: Any, counted: Any) -> dict[Arm, int]:
    return {
        "champion": int((counted & ~is_challenger).sum()),
        "challenger": int((counted & is_challenger).sum()),
    }


def _record(engine: Engine, table: Table, test: AbTest, unit: str, values: dict[str, Any]) -> None:
    """Insert once; the first word counts."""
    if test.stopped_at is not None:
        raise AbTestError(f"the test was stopped at {test.stopped_at}; nothing was recorded")
    row = {"test_id": test.id, "unit": unit, **values, "at": _now()}
    try:
        with engine.begin() as connection:
            connection.execute(insert(table).values(row))
    except IntegrityError as error:
        with engine.connect() as connection:
            found = connection.execute(
                select(table).where(table.c.test_id == test.id, table.c.unit == unit)
            ).first()
        if found is None:
            raise
        said = {key: getattr(found, key) for key in values}
        if said != values:
            raise AbTestError(
                f"unit '{unit}' is recorded as {said} at {found.at}, now came {values}; the first "
                f"counts, nothing was changed"
            ) from error


def _uniform(salt: str, purpose: str, unit: str) -> float:
    digest = hashlib.sha256(f"{salt}\0{purpose}\0{unit}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / HASH_RANGE


def _test_of(row: Any) -> AbTest:
    return AbTest(
        id=row.id,
        model=row.model,
        champion=row.champion,
        challenger=row.challenger,
        sequential=SequentialTest(row.share, row.level, row.margin),
        decide_by=row.decide_by,
        salt=row.salt,
        stopped_at=row.stopped_at,
        verdict=row.verdict,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
