"""The bus between replicas: its messages, its protocol, and the bus of replicas that share a process.

A message is delivered at most once. A subscriber that may have missed some is told so, and reads again what
they were about: nothing is true only because a message said it.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Protocol


class Subscriber(Protocol):
    """Called on the event loop, in the order in which a sender published; must not wait."""

    def received(self, sender: str, payload: str) -> None:
        """Another replica published this."""
        ...

    def resumed(self) -> None:
        """Messages may have been lost, in either direction. Also called once the bus stands at first."""
        ...


class Bus(Protocol):
    """One replica's end of the bus."""

    replica: str
    """This replica's name on it."""

    @property
    def alone(self) -> bool:
        """True if there can be no other replica, so that nothing need be published."""
        ...

    @property
    def stands(self) -> bool:
        """True if messages go through, as far as this replica knows."""
        ...

    @property
    def down_since(self) -> float | None:
        """When messages ceased to go through, in unix seconds; None while they do."""
        ...

    def subscribe(self, topic: str, subscriber: Subscriber) -> None:
        """Hear what is published under a topic; a word without spaces, one subscriber each."""
        ...

    def publish(self, topic: str, payload: str, to: str | None = None) -> bool:
        """Tell one replica, or all others. Returns at once, and never raises.

        False if the message is lost already; True says nothing of its arrival.
        """
        ...

    async def open(self) -> None:
        """Return once the bus stands, or its first attempt to stand has failed; it goes on trying."""
        ...

    async def close(self) -> None: ...


class Hub:
    """Where the replicas of one process meet."""

    def __init__(self) -> None:
        self.members: dict[str, LocalBus] = {}


class LocalBus:
    """The bus inside a process. It loses nothing.

    Args:
        hub: Where it meets the others; without one it is alone.
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
    """A name for this process."""
    return uuid.uuid4().hex
