"""What an A/B test keeps in its database, and how that is opened: sqlite or PostgreSQL.

Uniqueness is the database's: one running test for each model, one exposure, one outcome and one
preference for each unit. Writers on many machines therefore need no lock of ours.
"""

from pathlib import Path

from sqlalchemy import (
    Boolean,
    Column,
    Engine,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    create_engine,
)
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from vivero.config.environment import ab_database_url
from vivero.errors import TrackingError

METADATA = MetaData()

TESTS = Table(
    "ab_tests",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("model", String(256), nullable=False),
    Column("running_for", String(256), unique=True),  # the model; NULL once stopped
    Column("champion", String(32), nullable=False),
    Column("challenger", String(32), nullable=False),
    Column("share", Float, nullable=False),
    Column("level", Float, nullable=False),
    Column("margin", Float, nullable=False),
    Column("decide_by", String(16), nullable=False),
    Column("salt", String(32), nullable=False),
    Column("started_at", String(32), nullable=False),
    Column("started_by", String(64), nullable=False),
    Column("why", String(4000), nullable=False),
    Column("stopped_at", String(32)),
    Column("stopped_by", String(64)),
    Column("verdict", String(4000)),
)


def _of_unit(name: str, *columns: Column[bool] | Column[float]) -> Table:
    return Table(
        name,
        METADATA,
        Column("id", Integer, primary_key=True),  # the order in which they came
        Column("test_id", Integer, ForeignKey("ab_tests.id"), nullable=False),
        Column("unit", String(256), nullable=False),
        *columns,
        Column("at", String(32), nullable=False),
        UniqueConstraint("test_id", "unit"),
    )


EXPOSURES = _of_unit("ab_exposures", Column("is_challenger", Boolean, nullable=False))
OUTCOMES = _of_unit("ab_outcomes", Column("is_good", Boolean, nullable=False))
PREFERENCES = _of_unit("ab_preferences", Column("prefers_challenger", Float, nullable=False))


def open_database(root: Path) -> Engine:
    """The database with its tables.

    Raises:
        TrackingError: When it cannot be opened.
    """
    url = ab_database_url(root).get_secret_value()
    try:
        # No connection is kept: commands are short, and a forked process may share none.
        arguments = {"timeout": 60} if url.startswith("sqlite:") else {}
        engine = create_engine(url, poolclass=NullPool, connect_args=arguments)
        try:
            METADATA.create_all(engine)
        except (OperationalError, ProgrammingError):  # somebody else is making the tables
            METADATA.create_all(engine)
    except SQLAlchemyError as error:
        raise TrackingError(
            f"cannot open the database of A/B tests ({type(error).__name__}); correct or unset "
            f"VIVERO_AB_DATABASE_URL (without it an sqlite file in the repository is used), and "
            f"run the same command again"
        ) from error
    return engine
