"""The bus between replicas: its messages, its protocol, and the bus inside one process.

A message is delivered at most once. A subscriber that may have missed some is told so, and reads their
subjects from the store again: no decision rests on a message alone.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Protocol


class Subscriber(Protocol):
    """Called on the event loop, in the order in which a sender published; must not wait."""

    def received(self, sender: str, payload: str) -> None:
        """Take a message that another replica published."""
        ...

    def resumed(self) -> None:
        """Take note that messages may have been lost, in either direction. Also called when the bus first
        connects."""
        ...


class Bus(Protocol):
    """One replica's end of the bus."""

    replica: str
    """This replica's name on the bus."""

    @property
    def alone(self) -> bool:
        """True if there can be no other replica, so that publishing is pointless."""
        ...

    @property
    def stands(self) -> bool:
        """True if messages go through, as far as this replica knows."""
        ...

    @property
    def down_since(self) -> float | None:
        """Unix seconds since when messages fail to go through; None while they do go through."""
        ...

    def subscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Subscribe to a topic, a word without spaces; one subscriber per topic."""
        ...

    def publish(self, topic: str, payload: str, to: str | None = None) -> bool:
        """Send to one replica, or to all others. Returns at once and never raises.

        False if the message is lost already; True does not mean that it arrives.
        """
        ...

    async def open(self) -> None:
        """Return once the bus is connected, or the first attempt has failed; later attempts go on."""
        ...

    async def close(self) -> None: ...


class Hub:
    """The meeting point of the replicas of one process."""

    def __init__(self) -> None:
        self.members: dict[str, LocalBus] = {}


class LocalBus:
    """The bus inside a process. It loses nothing.

    Args:
        hub: The hub of the other replicas; without one it has no peers.
    """

    def __init__(self, replica: str | None = None, hub: Hub | None = None) -> None:
        self.replica = replica or new_replica()
        self._hub = hub
        self._subscribers: dict[str, Subscriber] = {}

    @property
    def alone(self) -> bool:
        return self._hub is None

    @property
    def stands(self) -> bool:
        return True

    @property
    def down_since(self) -> float | None:
        return None

    def subscribe(self, topic: str, subscriber: Subscriber) -> None:
        self._subscribers[topic] = subscriber

    def publish(self, topic: str, payload: str, to: str | None = None) -> bool:
        if self._hub is None:
            return to is None
        loop = asyncio.get_running_loop()
        for replica, member in self._hub.members.items():
            if replica != self.replica and to in (None, replica):
                loop.call_soon(member._receive, self.replica, topic, payload)
        return to is None or to in self._hub.members

    async def open(self) -> None:
        if self._hub is not None:
            self._hub.members[self.replica] = self
        for subscriber in self._subscribers.values():
            subscriber.resumed()

    async def close(self) -> None:
        if self._hub is not None:
            self._hub.members.pop(self.replica, None)

    def _receive(self, sender: str, topic: str, payload: str) -> None:
        if subscriber := self._subscribers.get(topic):
            subscriber.received(sender, payload)


def new_replica() -> str:
    """Return a name for this process."""
    return uuid.uuid4().hex
