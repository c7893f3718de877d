"""Statements on the driver's own cursor: what goes wrong reads as if SQLAlchemy had run them."""

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from dispatcher.store.rows import Statement
from dispatcher.store.store import Store
from tests.dispatcher.store.test_store import add, limits, pair

notes = sa.Table(
    "notes", sa.MetaData(), sa.Column("id", sa.String(36), primary_key=True), sa.Column("said", sa.JSON)
)
INSERT = Statement(sa.insert(notes))
READ = Statement(sa.select(notes.c.said).where(notes.c.id == sa.bindparam("key")))
REPLACE = Statement(sa.update(notes).where(notes.c.id == sa.bindparam("key")), ["said"])


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    sqlite = f"sqlite:///{tmp_path / 'notes.sqlite'}"
    database = sa.create_engine(
        sqlite if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    )
    with database.begin() as connection:
        notes.create(connection)
    yield database
    database.dispose()


def test_values_travel_in_the_types_of_their_columns(database):
    said = {"deep": [1, None, "ä"]}
    with database.begin() as connection:
        assert INSERT.run(connection, {"id": "1", "said": said}) == 1
        assert READ.rows(connection, {"key": "1"}) == [[said]]
        assert REPLACE.run(connection, {"key": "1", "said": ["new"]}) == 1
        assert REPLACE.run(connection, {"key": "2", "said": ["new"]}) == 0
    with database.connect() as connection:
        assert connection.scalar(sa.select(notes.c.said)) == ["new"]


def test_it_is_undone_with_its_transaction(database):
    with database.begin() as connection:
        INSERT.run(connection, {"id": "1", "said": None})
        connection.rollback()
    with database.connect() as connection:
        assert READ.rows(connection, {"key": "1"}) == []


def test_a_refusal_says_the_statement_and_hides_the_values(database):
    with database.begin() as connection:
        INSERT.run(connection, {"id": "1", "said": None})
    with (
        database.connect() as connection,
        pytest.raises(IntegrityError, match="INSERT INTO notes") as refused,
    ):
        INSERT.run(connection, {"id": "1", "said": "a secret"})
    assert not refused.value.connection_invalidated
    assert "a secret" not in str(refused.value)


async def test_connections_that_died_are_replaced_before_anybody_notices(postgres_url):
    """As after a restart of the server: all that the pool kept are dead."""

    store, others = Store(postgres_url), sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    await store.open()
    session, machine = pair()
    await add(store, session, machine, limits())
    await asyncio.gather(*(store.session(session.id) for _ in range(5)))
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    with others.connect() as connection:
        connection.execute(sa.text(f"{kill} AND pid <> pg_backend_pid()"))
    found = await asyncio.gather(*(store.session(session.id) for _ in range(5)))
    assert [one and one.id for one in found] == [session.id] * 5
    again, its_machine = pair("other")
    assert await add(store, again, its_machine, limits())
    await store.close()
    others.dispose()
