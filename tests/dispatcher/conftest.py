"""Fixtures for tests of the dispatcher."""

import pytest
import sqlalchemy as sa

from dispatcher.store.migrate import upgrade


@pytest.fixture
def database(postgres_url: str) -> str:
    """The URL of a PostgreSQL database with the dispatcher's tables, and nothing in them."""
    engine = sa.create_engine(postgres_url)
    with engine.connect() as connection:
        upgrade(connection)
    engine.dispose()
    return postgres_url
