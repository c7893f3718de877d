"""A dispatcher under test whose agent meets its clients in rooms of a fake Daily."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from dispatcher.settings import AgentSettings
from tests.daily.fake import API_KEY, DOMAIN, DOMAIN_ID, FakeDaily, InPlaceOfTheNetwork
from tests.dispatcher.harness import Deployment, ManualClock, deployment

KEYS = {"daily_api_key": API_KEY, "daily_domain": DOMAIN, "daily_domain_id": DOMAIN_ID}


def agents(**more: Any) -> dict[str, AgentSettings]:
    return {"echo": AgentSettings(bot=Path("bot/agents/echo.py"), transports=("daily", "webrtc"), **more)}


@contextlib.asynccontextmanager
async def with_daily(
    directory: Path, daily: FakeDaily | None = None, clock: ManualClock | None = None, **more: Any
) -> AsyncIterator[tuple[Deployment, FakeDaily]]:
    """As `deployment`, with the fake that it uses."""
    clock = clock or ManualClock()
    daily = daily or FakeDaily(clock)
    settings = {"agents": agents(), **KEYS, **more}
    async with deployment(directory, clock=clock, daily=InPlaceOfTheNetwork(daily), **settings) as running:
        yield running, daily


def room_of(session_id: str) -> str:
    return f"switchboard-{session_id}"


async def until_rooms_are_looked_after(running: Deployment, after: float = 0.0) -> None:
    """Let so much time pass, and the rooms of sessions that are over be deleted."""
    await running.look(after)
    await running.dispatcher.rooms.look()
