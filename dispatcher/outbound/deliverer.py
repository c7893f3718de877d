"""Delivery of the outbox: at least once, in order within a session, by one replica at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from sqlalchemy.exc import SQLAlchemyError

from dispatcher.clock import Clock
from dispatcher.domain.outgoing import Outgoing
from dispatcher.outbound.endpoint import CONNECTIONS, Undelivered
from dispatcher.outbound.payload import body_of
from dispatcher.standard_webhooks import headers
from dispatcher.store.store import Store
from dispatcher.tasks import within

log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
ATTEMPT_SECONDS = 15.0
"""Limit on one attempt, as Standard Webhooks advises (15 to 30 s)."""

Outcome = Literal["delivered", "failed", "given_up"]


class Receiver(Protocol):
    """A receiver of messages."""

    async def send(self, body: bytes, headers: dict[str, str]) -> None:
        """Deliver a message. Raises Undelivered."""
        ...


class Deliverer:
    """Sends what is due.

    Args:
        keys: Keys that sign.
        leads: Returns True while this replica is the only one that delivers.
        on_attempt: Told of each attempt.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        receiver: Receiver,
        keys: Sequence[bytes],
        leads: Callable[[], bool],
        on_attempt: Callable[[Outcome], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._receiver = receiver
        self._keys = keys
        self._leads = leads
        self._on_attempt = on_attempt

    async def run(self) -> None:
        """Deliver until cancelled. A message whose attempt is cancelled is sent again by the next leader."""
        while True:
            await self._clock.sleep(EVERY_SECONDS)
            try:
                while self._leads() and await self.deliver() == CONNECTIONS:
                    pass
            except SQLAlchemyError as error:
                log.debug("the outbox cannot be read or written: %s", error)

    async def deliver(self) -> int:
        """Attempt what is due, at most one message of each session, and return how many were attempted."""
        due = await self._store.outbox.due(self._clock.now(), CONNECTIONS)
        attempts = await asyncio.gather(*map(self._attempt, due), return_exceptions=True)
        for result in attempts:
            if isinstance(result, BaseException):
                raise result
        return len(due)

    async def _attempt(self, message: Outgoing) -> None:
        session = await self._store.session(message.session_id)
        if session is None:
            # It was deleted meanwhile, with its messages.
            return
        body = body_of(message, session)
        signed = headers(message.id, int(self._clock.now()), body, self._keys)
        late = Undelivered(f"no answer within {ATTEMPT_SECONDS:g} s")
        try:
            await within(self._clock, ATTEMPT_SECONDS, self._receiver.send(body, signed), late)
        except Undelivered as error:
            await self._failed(message, error)
        else:
            await self._store.outbox.remove(message)
            self._on_attempt("delivered")

    async def _failed(self, message: Outgoing, error: Undelivered) -> None:
        wait = None if error.final else message.wait
        if wait is None:
            log.error("webhook %s is given up after %d attempts: %s", message.id, message.attempts + 1, error)
            await self._store.outbox.remove(message)
            self._on_attempt("given_up")
            return
        log.warning("webhook %s was not taken, and is sent again in %g s: %s", message.id, wait, error)
        await self._store.outbox.postpone(message, self._clock.now() + wait)
        self._on_attempt("failed")
