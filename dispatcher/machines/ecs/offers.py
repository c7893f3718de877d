"""Kinds of capacity with subnets, in the order in which they are asked for, without what was full lately."""

from __future__ import annotations

from collections.abc import Iterator

from dispatcher.clock import Clock
from dispatcher.machines.ecs.request import ON_DEMAND, Place

Offer = tuple[str, tuple[str, ...]]
"""A kind of capacity, and subnets of which Fargate picks one."""

FULL_SECONDS = 30.0
"""An offer that had no capacity is not asked again for so long: each call is a turn of the rate limit. ECS
does not say when there is capacity again."""


class Offers:
    """The offers of a placement."""

    def __init__(self, place: Place, clock: Clock) -> None:
        self._place = place
        self._clock = clock
        self._full_until: dict[Offer, float] = {}

    def order(self, without: str = "") -> Iterator[Offer]:
        """Yield the offers to ask for; on-demand capacity in all subnets if all were full lately.

        Args:
            without: A subnet in which a task could not be started; the last to be tried.
        """
        offers, now = tuple(self._place.offers(without)), self._clock.monotonic()
        left = [offer for offer in offers if self._full_until.get(offer, now) <= now]
        yield from left or [next(offer for offer in offers if offer[0] == ON_DEMAND)]

    def full(self, offer: Offer) -> None:
        """Remember that an offer has no capacity."""
        now = self._clock.monotonic()
        self._full_until = {one: until for one, until in self._full_until.items() if until > now}
        self._full_until[offer] = now + FULL_SECONDS

    def has_capacity(self, offer: Offer) -> None:
        self._full_until.pop(offer, None)
