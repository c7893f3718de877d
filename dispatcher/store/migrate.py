"""Makes the tables, or runs the migrations in `migrations/versions/`, in the process that needs the store.

A new database gets the tables as they are now, and one that is up to date nothing: Alembic is imported where
there is something to migrate. It takes 0.3 s of the processor, as much as a fifth of the rest of a start.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from dispatcher.store.tables import metadata

SCRIPTS = Path(__file__).with_name("migrations")

NEWEST = "0012"
"""The last revision in `migrations/versions/`. It makes what is in `tables`; a test compares the two."""

_REVISIONS = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Alembic's own table, as it makes it."""


class NotMigrated(Exception):
    """The database's revision is none of ours: a later release has migrated it."""


def upgrade(connection: sa.Connection, revision: str = NEWEST) -> None:
    """Bring the connected database to a revision; nobody else may do so meanwhile.

    Raises:
        NotMigrated: its own revision is not known.
    """
    tables = sa.inspect(connection).get_table_names()
    if not tables and revision == NEWEST:
        metadata.create_all(connection, checkfirst=False)
        _REVISIONS.create(connection)
        connection.execute(sa.insert(_REVISIONS).values(version_num=NEWEST))
        connection.commit()
        return
    current = connection.scalars(sa.select(_REVISIONS)).all() if _REVISIONS.name in tables else []
    # Alembic begins a transaction of its own.
    connection.rollback()
    if current != [revision]:
        _migrate(connection, revision)


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
        raise NotMigrated(str(error)) from error
