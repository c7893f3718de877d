"""Makes the tables, or runs the migrations in `migrations/versions/`, in the process that needs the store.

A new database gets the tables as they are now, and one that is up to date nothing: Alembic is imported where
there is something to migrate. It takes 0.3 s of the processor, as much as a fifth of the rest of a start.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from dispatcher.store.tables import metadata

log = logging.getLogger(__name__)

SCRIPTS = Path(__file__).with_name("migrations")

NEWEST = "0018"
"""The last revision in `migrations/versions/`. It makes what is in `tables`; a test compares the two."""

_REVISIONS = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Alembic's own table, as it makes it."""


LOCK_SECONDS = 2.0
"""Limit on a migration's wait for PostgreSQL's lock on a table. Behind a lock that is waited for, all writes
of that table wait as well, and those of replicas that run give up after `engines.STATEMENT_SECONDS`. A vacuum
that is not urgent makes way for who has waited for `deadlock_timeout` (1 s)."""

LOCK_PAUSE_SECONDS = 8.0
"""Before it asks for the lock again: what had to wait is done by then."""

LOCK_ATTEMPTS = 60
"""Ten minutes in all, and then who started the dispatcher hears of it. An urgent vacuum may take longer."""

LOCK_NOT_AVAILABLE = "55P03"
"""PostgreSQL's lock_not_available: `lock_timeout` is over."""


_REMEDY = "no release has made this database: name another one, or restore a backup"


class NotMigrated(Exception):
    """The database is none that this release or one before it has made, or a table stays locked."""


def upgrade(
    connection: sa.Connection, revision: str = NEWEST, *, sleep: Callable[[float], object] = time.sleep
) -> None:
    """Bring the connected database to a revision; nobody else may do so meanwhile.

    Args:
        sleep: Waits for that many seconds, before a lock that was not to be had is asked for again.

    Raises:
        NotMigrated: its own revision is not known, its tables are not what its revision says, or others held
            a table for ten minutes.
    """
    tables = sa.inspect(connection).get_table_names()
    if not tables and revision == NEWEST:
        metadata.create_all(connection, checkfirst=False)
        _REVISIONS.create(connection)
        connection.execute(sa.insert(_REVISIONS).values(version_num=NEWEST))
        connection.commit()
        return
    current = connection.scalars(sa.select(_REVISIONS)).all() if _REVISIONS.name in tables else []
    if not current and (known := [name for name in metadata.tables if name in tables]):
        raise NotMigrated(
            f"it has the tables {', '.join(known)}, and no revision in {_REVISIONS.name}: {_REMEDY}"
        )
    # Alembic begins a transaction of its own.
    connection.rollback()
    if current != [revision]:
        if connection.dialect.name == "postgresql":
            _migrate_unlocked(connection, revision, sleep)
        else:
            _migrate(connection, revision)
    if revision == NEWEST:
        _compare(connection)


def _compare(connection: sa.Connection) -> None:
    """Look whether the tables are there with all columns: a revision is only what somebody wrote down."""
    found = sa.inspect(connection).get_multi_columns()
    connection.rollback()
    for table in metadata.sorted_tables:
        there = {column["name"] for column in found.get((None, table.name), ())}
        if missing := [column.name for column in table.columns if column.name not in there]:
            what = f"{table.name}.{missing[0]}" if there else table.name
            raise NotMigrated(f"its revision is {NEWEST}, and it has no {what}: {_REMEDY}")


def _migrate_unlocked(connection: sa.Connection, revision: str, sleep: Callable[[float], object]) -> None:
    """Migrate without keeping others from a table that somebody holds; what is done by then stays done."""
    connection.execute(sa.text(f"SET lock_timeout = '{1000 * LOCK_SECONDS:.0f}ms'"))
    connection.commit()
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            _migrate(connection, revision)
        except OperationalError as error:
            connection.rollback()
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            statement = " ".join((error.statement or "").split())
            held = (
                f"the migration needs a table that another session of the database has locked (see pg_locks):"
                f" attempt {attempt} of {LOCK_ATTEMPTS}, {statement}"
            )
            if attempt == LOCK_ATTEMPTS:
                raise NotMigrated(held) from error
            log.warning("%s", held)
            sleep(LOCK_PAUSE_SECONDS)
        else:
            return


def _migrate(connection: sa.Connection, revision: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        remedy = "a later release has migrated this database: run that one, or restore a backup from before"
        raise NotMigrated(f"{error}: {remedy}") from error
