"""Fixtures for tests of the store."""

import pytest
import sqlalchemy as sa

from dispatcher.store.tables import metadata


@pytest.fixture
def memory():
    """A connection to an SQLite database in memory, with the dispatcher's tables and nothing in them."""
    engine = sa.create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new' / 'store.sqlite'}"
    return request.getfixturevalue("postgres_url")
