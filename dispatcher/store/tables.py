"""The tables. A change here needs a migration in `migrations/versions/`; a test holds the two together.

Replicas of the release before run on while a migration does, so each locks one table, and none takes away
what that release reads: the one after it may.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import event

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    }
)


# Times are unix seconds: the one form that SQLite and PostgreSQL keep and compare alike.
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("agent", sa.String(63), nullable=False),
    sa.Column("transport", sa.String(16), nullable=False),
    sa.Column("body", sa.JSON(none_as_null=True)),
    sa.Column("ice_servers", sa.JSON, nullable=False),
    sa.Column("machine_id", sa.String(63), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("phase", sa.String(16)),
    sa.Column("start_timeout_seconds", sa.Double, nullable=False),
    sa.Column("client_timeout_seconds", sa.Double, nullable=False),
    sa.Column("max_duration_seconds", sa.Double, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("idle_timeout_seconds", sa.Double),
    sa.Column("queue_seconds", sa.Double, nullable=False, server_default="0"),
    sa.Column("admitted_at", sa.Double),
    sa.Column("idle_since", sa.Double),
    # The next deadline, derived from the others whenever they are written: what the reaper searches.
    sa.Column("due_at", sa.Double),
    sa.Column("started_at", sa.Double),
    sa.Column("waiting_at", sa.Double),
    sa.Column("ready_at", sa.Double),
    sa.Column("active_at", sa.Double),
    sa.Column("ended_at", sa.Double),
    sa.Column("reason", sa.String(32)),
    sa.Column("message", sa.Text),
    sa.Column("detail", sa.Text),
    sa.Column("exit_code", sa.Integer),
    sa.Column("timings", sa.JSON, nullable=False),
    sa.Column("first_word_ms", sa.Double),
    sa.Column("turns_ms", sa.JSON, nullable=False),
    sa.Column("traceparent", sa.String(55)),
    sa.Column("retry_at", sa.Double),
    sa.Column("owner", sa.String(63)),
    sa.Column("room", sa.JSON(none_as_null=True)),
    sa.Column("room_state", sa.String(16)),
    # From when on its room has to be deleted, derived from the others whenever they are written.
    sa.Column("room_due_at", sa.Double),
    # Of a session that is over, while its machine is not known to be gone.
    sa.Column("line_until", sa.Double),
    sa.Index(None, "machine_id", unique=True),
    sa.Index(None, "room_due_at"),
    sa.Index(None, "line_until"),
    # What the reaper searches, of those that are not over.
    sa.Index("ix_sessions_live", "machine_id", "started_at", "due_at", "room_state", "ended_at"),
    # Lists and the queue are in this order, of one agent or all, of one state or all.
    sa.Index(None, "created_at", "id"),
    sa.Index(None, "state", "created_at", "id"),
    sa.Index(None, "agent", "created_at", "id"),
    sa.Index(None, "agent", "state", "created_at", "id"),
)

machines = sa.Table(
    "machines",
    metadata,
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("session_id", sa.String(36)),
    sa.Column("provider", sa.String(32), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("gone_at", sa.Double),
    sa.Column("exit_code", sa.Integer),
    sa.Column("versions", sa.JSON, nullable=False),
    sa.Column("placement", sa.String(63)),
    sa.Column("create_by", sa.Double),
    sa.Column("launcher", sa.String(63)),
    # Of machines that were made for the reserve.
    sa.Column("agent", sa.String(63)),
    sa.Column("revision", sa.String(64)),
    sa.Column("seen_at", sa.Double),
    sa.Index(None, "agent", "state"),
    sa.Index("ix_machines_live", "id", "placement", "state", "gone_at"),
    # For replicas of the release before, until the next one.
    sa.Index(None, "state"),
    sa.Index(None, "session_id"),
)

# A session's timeline. Numbers count from 1 within a session: nobody learns how many others there are.
events = sa.Table(
    "events",
    metadata,
    sa.Column("session_id", sa.String(36), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("actor", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("phase", sa.String(16)),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("reason", sa.String(32)),
)

# Which session an Idempotency-Key stands for; `id` is a hash of the key and its caller.
claims = sa.Table(
    "claims",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("session_id", sa.String(36), nullable=False),
    sa.Column("client", sa.JSON, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Index(None, "expires_at"),
)

# Messages to the deployment's back end that are not delivered yet. `rank` orders those of a session.
outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("session_id", sa.String(36), primary_key=True),
    sa.Column("type", sa.String(32), primary_key=True),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", sa.Double, nullable=False),
    sa.Index(None, "due_at"),
)

# What is too large for a notification of the bus between replicas, until all have read it.
messages = sa.Table(
    "messages",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Index(None, "created_at"),
)
# Nobody reads a message after a crash of the server, so none is written to PostgreSQL's log.
_unlogged = sa.DDL("ALTER TABLE messages SET UNLOGGED").execute_if(dialect="postgresql")
event.listen(messages, "after_create", _unlogged)

# Per agent: the sessions that have a slot (admitted and not over, or over and their machines are ending) and
# those that are queued. The transactions that change sessions keep both: a limit costs one row, however many
# sessions there are. The row without a name counts nothing; who enforces a limit of the whole deployment
# locks it.
loads = sa.Table(
    "loads",
    metadata,
    sa.Column("agent", sa.String(63), primary_key=True),
    sa.Column("live", sa.Integer, nullable=False),
    sa.Column("queued", sa.Integer, nullable=False),
)

# Sessions that were asked for, per agent and five minutes: a reserve learns from them, and from nothing else
# about callers. `slot` is its first second since 1970.
arrivals = sa.Table(
    "arrivals",
    metadata,
    sa.Column("agent", sa.String(63), primary_key=True),
    sa.Column("slot", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("calls", sa.Integer, nullable=False),
)

# What a replica holds: its own row says that it lives, the reaper's that it is the one. `count` goes up as
# long as the holder lives.
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("holder", sa.String(63), nullable=False),
    sa.Column("count", sa.BigInteger, nullable=False),
)


def _only_live(table: sa.Table, connection: sa.Connection, **_: object) -> None:
    """Before the table is made: its index of what lives has nothing else in it.

    Said to the dialect in use: to say it to both, as the index is described, would import both.
    """
    for index in table.indexes:
        if (end := _END.get(str(index.name))) is not None:
            index.dialect_options[connection.dialect.name]["where"] = sa.text(f"{end} IS NULL")


_END = {"ix_sessions_live": "ended_at", "ix_machines_live": "gone_at"}
for _table in (sessions, machines):
    event.listen(_table, "before_create", _only_live)
