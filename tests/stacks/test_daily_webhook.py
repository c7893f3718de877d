"""Daily's webhook of a stack, against the fake of Daily's API and a real dispatcher that answers its test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from dispatcher.transports.daily.webhooks import derived_secret
from stacks import daily_webhook
from stacks.config import parse
from stacks.daily_webhook import register
from stacks.errors import ConfigError, WebhookError
from tests.daily.fake import API_KEY, FakeDaily, app
from tests.daily.harness import room_of, with_daily
from tests.dispatcher.harness import Deployment, ManualClock
from tests.served import served
from tests.stacks.local.test_program import REPOSITORY

SECRET = derived_secret(API_KEY)


async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
    async with httpx.AsyncClient(timeout=5) as http:
        try:
            return (await http.post(url, content=body, headers=headers)).status_code
        except httpx.TransportError:
            return 0


@contextlib.asynccontextmanager
async def at_daily(tmp_path: Path) -> AsyncIterator[tuple[Deployment, FakeDaily, str]]:
    """A dispatcher, and the fake that it uses, served."""
    clock = ManualClock()
    daily = FakeDaily(clock, post=post)
    async with with_daily(tmp_path, daily, clock) as (running, _):
        with served(app(daily)) as url:
            yield running, daily, f"{url}/v1"


async def set_up(running: Deployment, api: str, secret: str = SECRET, key: str = API_KEY) -> tuple[str, bool]:
    return await asyncio.to_thread(register, running.url, secret, key, api)


@pytest.mark.parametrize("test", [b'{"test":"test"}', b'{"something":"else"}'])
async def test_webhook_is_created_once_and_its_events_are_taken(tmp_path: Path, test: bytes) -> None:
    async with at_daily(tmp_path) as (running, daily, api):
        daily.webhooks.test = test
        created = await set_up(running, api)
        daily.webhooks.all[created[0]]["state"] = "FAILED"
        assert await set_up(running, api) == (created[0], False)
        (hook,) = daily.webhooks.all.values()
        assert (hook["state"], hook["retryType"]) == ("ACTIVE", "exponential")
        session_id = (await running.start("/start?wait=started"))["sessionId"]
        payload = {"room": room_of(session_id)}
        event = {"type": "participant.left", "id": str(uuid.uuid4()), "payload": payload}
        assert await daily.webhooks.tell(event) == [200]
        await running.settle()
        assert "room-event" in [one["event"] for one in await running.timeline(session_id)]


async def test_webhook_is_refused_without_a_card(tmp_path: Path) -> None:
    async with at_daily(tmp_path) as (running, daily, api):
        daily.card = False
        with pytest.raises(WebhookError, match=r"403: forbidden-error.*credit card"):
            await set_up(running, api)


async def test_webhook_is_refused_when_dispatcher_has_another_secret(tmp_path: Path) -> None:
    async with at_daily(tmp_path) as (running, daily, api):
        daily.webhooks.test = b'{"new":"test"}'
        with pytest.raises(WebhookError, match=rf"{running.url}/webhooks/daily and be answered with 200"):
            await set_up(running, api, secret=derived_secret("another"))
        assert daily.webhooks.all == {}


async def test_refusal_has_no_key_in_it(tmp_path: Path) -> None:
    async with at_daily(tmp_path) as (running, _, api):
        with pytest.raises(WebhookError, match="401") as raised:
            await set_up(running, api, key="another-key")
        assert "another-key" not in str(raised.value)


class Stack:
    """In the place of a driver: what one run of it says."""

    def __init__(self, url: str, transports: list[str]) -> None:
        self._url = url
        self._transports = transports

    def decrypted_config(self) -> Any:
        agents = {"echo": {"bot": "bot/agents/echo.py", "transports": self._transports}}
        values = {"cloud": "local", "agents": json.dumps(agents), "daily": '{"domain": "acme"}'}
        if "daily" not in self._transports:
            del values["daily"]
        return parse(
            {f"switchboard:{key}": value for key, value in values.items()},
            project="switchboard",
            checkout=REPOSITORY,
            stack="prod",
        )

    def up(self) -> dict[str, Any]:
        return {"url": SimpleNamespace(value=f"{self._url}/#key=pk_1")}


@pytest.mark.parametrize(
    ("url", "transports", "words"),
    [
        ("http://127.0.0.1:7860", ["daily"], "which Daily cannot reach"),
        ("https://localhost", ["daily"], "which Daily cannot reach"),
        ("https://voice.example", ["webrtc"], "offers the transport 'daily'"),
    ],
)
def test_webhook_is_refused_when_stack_can_have_none(monkeypatch, url, transports, words) -> None:
    monkeypatch.setenv("DAILY_API_KEY", API_KEY)
    with pytest.raises(ConfigError, match=words):
        daily_webhook.run(Stack(url, transports), lambda _: None)  # type: ignore[arg-type]
