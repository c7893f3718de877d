"""Runs the migrations in `migrations/versions/`, in the process that needs the store."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

SCRIPTS = Path(__file__).with_name("migrations")


def configuration() -> Config:
    """Alembic's configuration, without a file of its own."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(connection: sa.Connection, revision: str = "head") -> None:
    """Migrate the connected database to a revision; by default the newest."""
    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
