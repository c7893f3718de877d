"""The bus over PostgreSQL: LISTEN and NOTIFY, on connections apart from the store's.

Two connections stand and fall together, one that listens and one that speaks. What is published waits in
memory for the second and goes out in batches, one transaction each: NOTIFY takes a lock that all who notify
share until they have committed. While they are down, what is published is lost. Once they stand again, every
subscriber here is told so, and those of the other replicas if anything of ours was lost.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import re
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import sql

from dispatcher.bus import Subscriber
from dispatcher.clock import Clock
from dispatcher.tasks import end_tasks, loop

log = logging.getLogger(__name__)

EVERYBODY = "switchboard"
"""The channel that all replicas listen to; each has one of its own besides."""

NOTIFY_BYTES = 7999
"""The largest payload of a notification (PostgreSQL, NOTIFY: "shorter than 8000 bytes")."""

BATCH_MESSAGES = 500
BATCH_BYTES = 8 * 1024 * 1024
WAITING_MESSAGES = 20_000
WAITING_BYTES = 64 * 1024 * 1024
"""Limit on messages that wait for a database that hangs; a replica of 10,000 machines announces
all of them in 1 MB."""

FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 5.0

CLOSING_SECONDS = 2.0
"""Grace for the last messages when the dispatcher exits: those of channels that it closes."""

CONNECTION: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": 5,
    # A server that vanished without a word is noticed within 25 s, not after Linux's two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
    # A message that a crash of the server loses is lost like any other: no commit waits for the disk.
    "options": "-c synchronous_commit=off",
    # Poolers in front of PostgreSQL do not keep prepared statements.
    "prepare_threshold": None,
}

KEEP = (
    "INSERT INTO messages (id, payload, created_at)"
    " SELECT * FROM unnest(%s::text[], %s::text[], %s::float8[])"
)
FETCH = "SELECT payload FROM messages WHERE id = %s"
NOTIFY = (
    "SELECT pg_notify(channel, payload) FROM unnest(%s::text[], %s::text[]) AS message (channel, payload)"
)

ENVELOPE = re.compile(
    r"(?P<sender>\w+) (?P<number>\d+) (?P<topic>\w+) (#(?P<kept>\w+)|=(?P<payload>.*))", re.DOTALL
)
"""A notification: who says it, what about, and the payload or the id under which `messages` keeps it."""

_RESUMED = "resumed"
"""The topic of the bus's own message: its sender has lost some of those before."""


@dataclass(frozen=True, slots=True)
class _Message:
    topic: str
    payload: str
    to: str | None


class PostgresBus:
    """The bus between dispatchers that share a PostgreSQL database.

    Args:
        url: SQLAlchemy's URL of the database.
    """

    def __init__(self, url: str | sa.URL, replica: str, clock: Clock) -> None:
        self.replica = replica
        self._arguments = _arguments(url)
        self._clock = clock
        self._subscribers: dict[str, Subscriber] = {}
        self._waiting: deque[_Message] = deque()
        self._waiting_bytes = 0
        self._more = asyncio.Event()
        self._sent = asyncio.Event()
        self._numbers = itertools.count()
        self._stands = False
        self._lost = 0
        self._down_since: float | None = None
        self._tried = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    @property
    def alone(self) -> bool:
        return False

    @property
    def stands(self) -> bool:
        return self._stands

    @property
    def down_since(self) -> float | None:
        return self._down_since

    def subscribe(self, topic: str, subscriber: Subscriber) -> None:
        self._subscribers[topic] = subscriber

    def publish(self, topic: str, payload: str, to: str | None = None) -> bool:
        size = len(payload)
        full = len(self._waiting) >= WAITING_MESSAGES or self._waiting_bytes + size > WAITING_BYTES
        if not self._stands or full:
            if full and self._lost == 0:
                log.warning("the database takes no messages; what is published to other replicas is lost")
            self._lost += 1
            return False
        self._waiting.append(_Message(topic, payload, to))
        self._waiting_bytes += size
        self._more.set()
        return True

    async def open(self) -> None:
        self._running = loop(self._run())
        await self._tried.wait()

    async def close(self) -> None:
        """Give what waits a moment to go out, and disconnect."""
        if self._running is None:
            return
        if self._stands:
            try:
                async with asyncio.timeout(CLOSING_SECONDS):
                    while self._waiting:
                        self._sent.clear()
                        await self._sent.wait()
            except TimeoutError:
                log.warning("%d messages to other replicas are lost at the exit", len(self._waiting))
        await end_tasks(self._running)

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with await self._connect() as listening, await self._connect() as speaking:
                    for channel in (EVERYBODY, _channel_of(self.replica)):
                        await listening.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                    failures = 0
                    self._up()
                    await self._converse(listening, speaking)
            except (psycopg.Error, OSError) as error:
                self._down(str(error).strip())
            except Exception:
                log.exception("the bus failed; it is opened again")
                self._down("an error of its own")
            await self._clock.sleep(_backoff(failures))
            failures += 1

    async def _connect(self) -> psycopg.AsyncConnection:
        return await psycopg.AsyncConnection.connect(**self._arguments)

    async def _converse(self, listening: psycopg.AsyncConnection, speaking: psycopg.AsyncConnection) -> None:
        """Listen and speak until one of the two fails, with its error."""
        tasks = [
            asyncio.create_task(self._listen(listening, speaking)),
            asyncio.create_task(self._speak(speaking)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._stands = False
            await end_tasks(*tasks)

    async def _listen(self, listening: psycopg.AsyncConnection, speaking: psycopg.AsyncConnection) -> None:
        async for notification in listening.notifies():
            found = ENVELOPE.fullmatch(notification.payload)
            if found is None:
                log.warning("a notification on %s is not of the bus", notification.channel)
                continue
            sender, topic, kept_as, payload = found["sender"], found["topic"], found["kept"], found["payload"]
            if notification.channel == EVERYBODY and sender == self.replica:
                continue
            if kept_as is not None:
                # One after the other: a later message must not overtake it.
                row = await (await speaking.execute(FETCH, [kept_as])).fetchone()
                if row is None:
                    log.warning("a message of replica %s was deleted before it was read", sender)
                    self._resume()
                    continue
                payload = row[0]
            self._deliver(sender, topic, payload)

    def _deliver(self, sender: str, topic: str, payload: str) -> None:
        if topic == _RESUMED:
            self._resume()
        elif subscriber := self._subscribers.get(topic):
            try:
                subscriber.received(sender, payload)
            except Exception:
                log.exception("a message of replica %s about %s could not be dealt with", sender, topic)

    async def _speak(self, speaking: psycopg.AsyncConnection) -> None:
        while True:
            if self._lost and not self._waiting:
                self._recover()
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            batch = self._batch()
            try:
                await self._send(speaking, batch)
            finally:
                # Sent or lost: a batch that failed may have arrived, so it is not sent again.
                for message in batch:
                    self._waiting.popleft()
                    self._waiting_bytes -= len(message.payload)
                self._sent.set()

    def _batch(self) -> list[_Message]:
        batch, size = [], 0
        for message in itertools.islice(self._waiting, BATCH_MESSAGES):
            size += len(message.payload)
            if batch and size > BATCH_BYTES:
                break
            batch.append(message)
        return batch

    async def _send(self, speaking: psycopg.AsyncConnection, batch: Sequence[_Message]) -> None:
        kept: list[tuple[str, str, float]] = []
        channels, payloads = [], []
        for message in batch:
            # Numbered, because equal notifications of a transaction are delivered as one.
            head = f"{self.replica} {next(self._numbers)} {message.topic} "
            payload = f"{head}={message.payload}"
            if len(payload.encode()) > NOTIFY_BYTES:
                kept.append((uuid.uuid4().hex, message.payload, self._clock.now()))
                payload = f"{head}#{kept[-1][0]}"
            channels.append(EVERYBODY if message.to is None else _channel_of(message.to))
            payloads.append(payload)
        try:
            if kept:
                await speaking.execute(KEEP, [list(column) for column in zip(*kept, strict=True)])
            await speaking.execute(NOTIFY, [channels, payloads])
        except BaseException:
            self._lost += len(batch)
            raise

    def _up(self) -> None:
        if self._down_since is not None:
            log.info("the bus stands again after %.1f s", self._clock.monotonic() - self._down_since)
            self._down_since = None
        self._stands = True
        self._tried.set()
        self._recover()

    def _recover(self) -> None:
        """Messages go through again: tell the others that some of ours did not, and everybody here."""
        lost, self._lost = self._lost, 0
        if lost:
            log.info("%d messages to other replicas were lost", lost)
            self.publish(_RESUMED, "")
        self._resume()

    def _down(self, why: str) -> None:
        self._stands = False
        if self._down_since is None:
            self._down_since = self._clock.monotonic()
            log.warning("the bus is down, and what replicas tell one another is lost: %s", why)
        self._lost += len(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._tried.set()

    def _resume(self) -> None:
        for topic, subscriber in self._subscribers.items():
            try:
                subscriber.resumed()
            except Exception:
                log.exception("subscriber of %s: could not resume", topic)


def _channel_of(replica: str) -> str:
    return f"{EVERYBODY}_{replica}"


def _backoff(failures: int) -> float:
    """Seconds until the next attempt; spread, so that the replicas do not come back as one."""
    longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(failures, 16))
    return longest * random.uniform(0.5, 1)  # noqa: S311 - no secret


def _arguments(url: str | sa.URL) -> dict[str, Any]:
    """Return the arguments that SQLAlchemy would call psycopg with."""
    parsed = sa.make_url(url)
    _, named = parsed.get_dialect()().create_connect_args(parsed)
    return {**CONNECTION, **named}
