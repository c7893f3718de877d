"""Migrations, on SQLite and on PostgreSQL: from every revision, with data, and while others use it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event

from dispatcher.domain.listing import Filter
from dispatcher.domain.model import SessionState
from dispatcher.store import migrate
from dispatcher.store.database import Database
from dispatcher.store.migrate import NEWEST, SCRIPTS, NotMigrated, upgrade
from dispatcher.store.tables import metadata
from tests.dispatcher.harness import eventually
from tests.dispatcher.store.stores import opened
from tests.patience import PATIENCE

REVISIONS = [script.revision for script in ScriptDirectory(str(SCRIPTS)).walk_revisions()][::-1]

LOCKS_OUT_WRITERS = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")


def engine_of(url: str) -> sa.Engine:
    if "sqlite" in url:
        Path(url.removeprefix("sqlite:///")).parent.mkdir()
    return sa.create_engine(url)


def described(connection: sa.Connection) -> dict[str, Any]:
    """Every table, as the database itself describes it."""
    inspector, tables = sa.inspect(connection), {}
    kept: dict[str | None, str] = {}
    if connection.dialect.name == "postgresql":
        query = "SELECT relname, relpersistence FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        kept = {row.relname: row.relpersistence for row in connection.execute(sa.text(query))}
    for name in inspector.get_table_names():
        columns = {
            column["name"]: column | {"type": repr(column["type"])} for column in inspector.get_columns(name)
        }
        # Conditions are expressions, of which no two are equal: their texts are.
        indexes = {
            index["name"]: index
            | {
                "dialect_options": {
                    key: str(value) for key, value in index.get("dialect_options", {}).items()
                }
            }
            for index in inspector.get_indexes(name)
        }
        persistence = [kept.get(relation) for relation in (name, *indexes)]
        tables[name] = (columns, inspector.get_pk_constraint(name), indexes, persistence)
    return tables


def test_the_migrations_and_a_new_database_make_exactly_the_tables(url):
    engine = engine_of(url)
    with engine.connect() as connection:
        upgrade(connection, "0001")
        upgrade(connection)
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        migrated, version = described(connection), connection.scalar(sa.text("SELECT * FROM alembic_version"))
        for table in migrated:
            connection.execute(sa.text(f"DROP TABLE {table}"))
        upgrade(connection)
        assert described(connection) == migrated
        assert connection.scalar(sa.text("SELECT * FROM alembic_version")) == version == NEWEST
    engine.dispose()
    assert REVISIONS[-1] == NEWEST


async def ping(url: str) -> None:
    async with opened(url) as store:
        await store.ping()


async def test_a_database_of_a_later_release_is_refused_and_left_as_it_is(url):
    await ping(url)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(NotMigrated, match=r"9999.*a later release .* restore a backup"):
        await ping(url)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT * FROM alembic_version")) == "9999"
    engine.dispose()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("DELETE FROM alembic_version", "it has the tables .*sessions.*, and no revision in alembic_version"),
        ("DROP TABLE alembic_version", "it has the tables .*sessions.*, and no revision in alembic_version"),
        ("ALTER TABLE sessions DROP COLUMN body", f"its revision is {NEWEST}, and it has no sessions.body"),
        ("DROP TABLE claims", f"its revision is {NEWEST}, and it has no claims:"),
    ],
)
async def test_a_database_that_no_release_has_made_is_refused_by_name(url, change, words):
    await ping(url)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text(change))
        before = described(connection)
    with pytest.raises(NotMigrated, match=f"{words}.* restore a backup"):
        await ping(url)
    with engine.connect() as connection:
        assert described(connection) == before
    engine.dispose()


async def test_a_migration_may_take_longer_than_other_statements(postgres_url):
    def patience(connection: sa.Connection) -> str:
        return connection.scalar(sa.text("SHOW statement_timeout"))

    def locks(connection: sa.Connection) -> int:
        ours = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        query = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND {ours}"
        return connection.scalar(sa.text(query))

    database, during = Database(postgres_url), []
    try:
        await database.migrate(lambda connection: during.append((patience(connection), locks(connection))))
        assert during == [("0", 1)]
        assert await database.read(patience) == "10s"
        assert await database.write(patience) == "10s"
        await eventually(lambda: database.read(locks), lambda found: not found)
    finally:
        await database.close()


@pytest.mark.parametrize("revision", REVISIONS)
async def test_what_is_in_a_database_is_there_after_its_migration(url, revision):
    engine = engine_of(url)
    known = {"agent": "echo", "transport": "webrtc", "body": {"name": "ü"}, "ice_servers": [], "timings": {}}
    known |= {"start_timeout_seconds": 30.0, "client_timeout_seconds": 60.0, "max_duration_seconds": 7200.0}
    known |= {"turns_ms": [], "created_at": 1000.0, "admitted_at": 1000.0}
    with engine.connect() as connection:
        upgrade(connection, revision)
        tables = sa.MetaData()
        tables.reflect(connection)

        def insert(table: str, **values: Any) -> None:
            columns = tables.tables[table].c
            values = {name: value for name, value in values.items() if name in columns}
            connection.execute(sa.insert(tables.tables[table]).values(values))

        for name, state, started_at, ended_at, machine in (
            ("live", "active", 1001.0, None, "started"),
            ("starts", "starting", None, None, "requested"),
            ("over", "ended", 1001.0, 1500.0, "gone"),
        ):
            times = {"started_at": started_at, "ended_at": ended_at}
            insert("sessions", id=name, machine_id=f"m-{name}", state=state, **times, **known)
            kept = {
                "provider": "process",
                "placement": "process",
                "created_at": 1000.0,
                "gone_at": ended_at,
                "versions": {},
            }
            insert("machines", id=f"m-{name}", session_id=name, state=machine, **kept)
        connection.commit()
    engine.dispose()

    async with opened(url) as store:
        listed = await store.list_sessions(Filter(), None, 10)
        assert {session.id: session.state for session in listed} == {
            "live": SessionState.active,
            "starts": SessionState.starting,
            "over": SessionState.ended,
        }
        live = await store.session("live")
        assert live is not None
        assert (live.body, live.started_at, live.ended_at) == ({"name": "ü"}, 1001.0, None)
        # Old releases wrote no deadlines: the reaper looks at what lives, and finds them.
        assert {machine.id for machine, _ in await store.due_machines(1e9)} == {"m-live", "m-starts"}
        assert (await store.live_machines()).started == ["m-live"]
        machine = await store.machine("m-live")
        assert machine is not None
        assert machine.placement == "process"


def test_replicas_of_the_release_before_run_on_while_the_database_is_migrated(postgres_url):
    """A migration locks one table at a time; it waits for readers only where it adds a column."""
    engine = sa.create_engine(postgres_url)
    locked: list[set[str]] = []

    def note(connection: sa.Connection) -> None:
        cursor = connection.connection.cursor()
        cursor.execute(
            "SELECT relname FROM pg_locks JOIN pg_class ON relation = pg_class.oid"
            " WHERE pid = pg_backend_pid() AND relkind = 'r' AND relnamespace = 'public'::regnamespace"
            " AND mode = ANY(%s)",
            [list(LOCKS_OUT_WRITERS)],
        )
        locked.append({name for (name,) in cursor.fetchall()})

    with engine.connect() as connection, engine.connect() as reader:
        upgrade(connection, "0012")
        for table in sa.inspect(connection).get_table_names():
            reader.execute(sa.text(f"SELECT count(*) FROM {table}"))
        connection.execute(sa.text("SET lock_timeout = '2s'"))
        connection.commit()
        event.listen(engine, "commit", note)
        upgrade(connection, "0014")
        reader.rollback()
        upgrade(connection)
        assert connection.scalar(sa.text("SELECT * FROM alembic_version")) == NEWEST
    engine.dispose()
    assert {"machines"} in locked
    assert max(map(len, locked)) == 1


@contextmanager
def held_by_a_vacuum(engine: sa.Engine) -> Iterator[sa.Connection]:
    """An older database, whose sessions somebody holds as an urgent vacuum does, until the block is left."""
    with engine.connect() as connection:
        upgrade(connection, "0013")
    with engine.connect() as vacuum:
        vacuum.execute(sa.text("LOCK TABLE sessions IN SHARE UPDATE EXCLUSIVE MODE"))
        yield vacuum


def test_a_migration_that_waits_for_a_vacuum_keeps_nobody_from_writing(postgres_url, caplog):
    engine, gone = sa.create_engine(postgres_url), threading.Event()
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'ShareLock'"

    def migration() -> str:
        with engine.connect() as connection:
            connection.execute(sa.text("SET statement_timeout = 0"))
            connection.commit()
            upgrade(connection, sleep=lambda _seconds: gone.wait(PATIENCE))
            return connection.scalar(sa.text("SELECT * FROM alembic_version"))

    with ThreadPoolExecutor(1) as threads:
        with held_by_a_vacuum(engine) as vacuum, engine.connect() as replica:
            migrating = threads.submit(migration)
            while not migrating.done() and not vacuum.scalar(sa.text(waiting)):
                pass
            try:
                replica.execute(sa.text("SET statement_timeout = '10s'"))
                replica.execute(sa.text("UPDATE sessions SET phase = 'ready' WHERE id = 'somebody'"))
                replica.commit()
            finally:
                vacuum.rollback()
                gone.set()
        assert migrating.result(PATIENCE) == NEWEST
    engine.dispose()
    assert "attempt 1 of 60, CREATE INDEX ix_sessions_live ON sessions" in caplog.text


def test_a_table_that_stays_locked_is_told_with_what_needs_it(postgres_url, monkeypatch):
    monkeypatch.setattr(migrate, "LOCK_SECONDS", 0.1)
    monkeypatch.setattr(migrate, "LOCK_ATTEMPTS", 3)
    engine, pauses = sa.create_engine(postgres_url), []
    with held_by_a_vacuum(engine), engine.connect() as connection:
        with pytest.raises(NotMigrated, match=r"locked .* attempt 3 of 3, CREATE INDEX ix_sessions_live"):
            upgrade(connection, sleep=pauses.append)
        assert pauses == [migrate.LOCK_PAUSE_SECONDS] * 2
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT * FROM alembic_version")) == "0013"
        upgrade(connection)
        assert connection.scalar(sa.text("SELECT * FROM alembic_version")) == NEWEST
    engine.dispose()
