"""Webhooks to the deployment's own back end, as the settings name it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import SecretStr

from dispatcher.clock import Clock
from dispatcher.outbound.deliverer import Deliverer, Outcome
from dispatcher.outbound.endpoint import Endpoint, Network
from dispatcher.standard_webhooks import key_of
from dispatcher.store.store import Store


class Webhooks:
    """The endpoint, and what delivers to it.

    Args:
        leads: Returns True while this replica is the only one that delivers.
        on_attempt: Told of each attempt.
    """

    def __init__(
        self,
        url: str,
        secrets: Sequence[SecretStr],
        networks: Sequence[Network],
        *,
        store: Store,
        clock: Clock,
        leads: Callable[[], bool],
        on_attempt: Callable[[Outcome], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._endpoint = Endpoint(url, networks)
        self._deliverer = Deliverer(
            store=store,
            clock=clock,
            receiver=self._endpoint,
            keys=[key_of(secret.get_secret_value()) for secret in secrets],
            leads=leads,
            on_attempt=on_attempt,
        )

    async def run(self) -> None:
        """Deliver until cancelled."""
        await self._deliverer.run()

    async def replay(self, since: float, until: float) -> int:
        """Send the messages of all sessions again that were created in this time; gives how many."""
        return await self._store.outbox.replay(since, until, self._clock.now())

    async def close(self) -> None:
        await self._endpoint.close()
