"""The Daily domain behind the API key, compared with the settings: its name, its id, its HIPAA mode.

With another domain's id, rooms and tokens are still made, but every token is refused: only a join would show
it. The domain is requested at the start, and again until Daily has answered and all is right. A dispatcher
starts without the answer, since sessions over other transports do not need it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from dispatcher.clock import Clock
from dispatcher.transports.daily.client import DailyApi
from dispatcher.transports.errors import NoAnswer, Refused, TooManyCalls

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Limit on one request. A start waits for the first: orchestrators give a dispatcher some 30 s to
be ready."""

PAUSES = (5.0, 15.0, 60.0, 300.0)
"""Pauses after a request that failed, or found a fault: somebody may correct it at Daily."""


def mismatch(found: Mapping[str, Any], domain: str, domain_id: str | None) -> str:
    """Return what is wrong with the settings, given the answer of `GET /v1/`; empty if nothing is."""
    name, id, config = found.get("domain_name"), found.get("domain_id"), found.get("config")
    if name != domain:
        return (
            f"daily_domain (daily.domain) is '{domain}', and the API key is that of the domain '{name}'; "
            "allowed: that domain, or a key of the other one"
        )
    if domain_id is not None and id != domain_id:
        return (
            f"daily_domain_id (daily.domainId) is '{domain_id}', and domain '{name}' has the id '{id}': "
            "Daily would refuse every join; allowed: that id, or none"
        )
    if isinstance(config, Mapping) and config.get("hipaa"):
        return (
            f"daily_domain (daily.domain) '{domain}' is a HIPAA domain, which refuses rooms with a chosen "
            "name, and rooms of sessions are found again by their names; allowed: a domain without HIPAA"
        )
    return ""


class DailyDomain:
    """The domain, as far as it is known."""

    def __init__(self, api: DailyApi, domain: str, domain_id: str | None, clock: Clock) -> None:
        self._api = api
        self._domain = domain
        self._domain_id = domain_id
        self._clock = clock
        self._is_right = False
        self.wrong = ""
        """The fault, in words that begin with the setting's name; empty if none is known."""

    async def look(self) -> None:
        """Ask Daily once.

        Raises:
            NoAnswer, TooManyCalls: nothing was learnt.
        """
        try:
            found = await self._api.domain(self._clock.now() + LOOK_SECONDS)
        except Refused as refusal:
            self.wrong = f"daily_api_key (dailyApiKey): {refusal}"
            return
        self.wrong = mismatch(found, self._domain, self._domain_id)
        self._is_right = not self.wrong

    async def run(self) -> None:
        """Ask until all is right, or cancelled."""
        attempt, told = 0, ""
        while not self._is_right:
            try:
                await self.look()
            except (NoAnswer, TooManyCalls) as error:
                log.warning("the Daily domain is not checked yet: %s", error)
            if self.wrong != told:
                told = self.wrong
                log.error("sessions over daily are refused: %s", told)
            if not self._is_right:
                await self._clock.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
                attempt += 1
