"""Webhooks to a back end: a real dispatcher, a real server, and Standard Webhooks' own library."""

import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook

from dispatcher import standard_webhooks
from tests.dispatcher.harness import Deployment, ManualClock, deployment, eventually, settings_for
from tests.dispatcher.outbound.receiver import Message, Receiver, receiving

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes: ok").decode()
OTHER = "whsec_" + base64.b64encode(b"another one of thirty-two bytes.").decode()
HERE = ("127.0.0.0/8",)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request) -> dict[str, str]:
    return {} if request.param == "sqlite" else {"database_url": request.getfixturevalue("postgres_url")}


@asynccontextmanager
async def told(directory: Path, url: str, **more: Any) -> AsyncIterator[Deployment]:
    settings = {"webhook_url": url, "webhook_secrets": (SECRET,), "webhook_networks": HERE} | more
    async with deployment(directory, **settings) as running:
        yield running


async def passes(running: Deployment, seconds: float = 1.0) -> None:
    """Time passes, while the dispatcher leads."""
    await running.dispatcher.leadership.keep()
    running.clock.advance(seconds)
    await running.dispatcher.leadership.keep()


async def received(running: Deployment, receiver: Receiver, number: int, step: float = 0.05) -> list[Message]:
    """The messages once there are so many; so many seconds pass between two looks."""

    async def count() -> int:
        await passes(running, step)
        return len(receiver.messages)

    await eventually(count, lambda found: found >= number)
    return receiver.messages


async def emptied(running: Deployment) -> None:
    """Return once nothing is due any more: answers are on record a moment after they came."""

    async def due() -> int:
        return len(await running.dispatcher.store.outbox.due(running.clock.now() + 10**6, 10))

    await eventually(due, lambda found: found == 0)


async def ended_session(running: Deployment) -> str:
    session_id, _ = await running.reported("ready")
    running.clock.advance(2.5)
    await running.http.delete(f"/sessions/{session_id}")
    await running.until(session_id, "ended")
    await running.settle()
    return session_id


async def test_the_back_end_is_told_of_a_session_in_order_and_each_message_is_signed(tmp_path, database):
    async with receiving() as receiver, told(tmp_path, receiver.url, **database) as running:
        session_id = await ended_session(running)
        messages = await received(running, receiver, 3)
        await emptied(running)
    assert [message.type for message in messages] == ["session.started", "session.ready", "session.ended"]
    for message in messages:
        at = datetime.fromtimestamp(int(message.headers["webhook-timestamp"]), UTC)
        expected = Webhook(SECRET).sign(message.headers["webhook-id"], at, message.body.decode())
        assert message.headers["webhook-signature"] == expected
    last = messages[-1].json
    assert last["data"]["sessionId"] == session_id
    assert last["data"]["reason"] == "stopped"
    assert last["data"]["agent"] == "echo"
    assert last["data"]["durationSeconds"] >= 2.5
    assert last["data"]["machineSeconds"] >= last["data"]["durationSeconds"]
    assert last["timestamp"] == last["data"]["endedAt"]
    assert messages[0].json["data"].keys() == {"sessionId", "agent", "transport", "createdAt"}


async def test_a_session_that_fails_is_told_as_failed_with_its_reason(tmp_path):
    async with receiving() as receiver, told(tmp_path, receiver.url) as running:
        session_id, _ = await running.reported("waiting")
        running.provider.die(f"m-{session_id}", 1)
        await running.look(40)
        await running.until(session_id, "failed")
        messages = await received(running, receiver, 2)
    assert [message.type for message in messages] == ["session.started", "session.failed"]
    assert messages[-1].json["data"]["reason"] == "machine_exited"
    assert messages[-1].json["data"]["durationSeconds"] is None, "its bot was never ready"


async def test_a_message_that_is_not_taken_comes_again_with_its_id_before_the_next_ones(tmp_path):
    async with receiving() as receiver, told(tmp_path, receiver.url) as running:
        receiver.statuses = [500, 302]
        receiver.location = receiver.url
        await ended_session(running)
        messages = await received(running, receiver, 5, step=4.0)
        await emptied(running)
        metrics = (await running.http.get("/metrics")).text
    types = [message.type for message in messages]
    assert types == ["session.started"] * 3 + ["session.ready", "session.ended"]
    assert len({message.headers["webhook-id"] for message in messages[:3]}) == 1
    first, second, third = (int(message.headers["webhook-timestamp"]) for message in messages[:3])
    assert second - first >= 5 - 1, "the headers have whole seconds"
    assert third - second >= 300 - 1, "a redirect is not followed: it is a failure"
    assert 'switchboard_webhook_attempts_total{outcome="failed"} 2.0' in metrics
    assert 'switchboard_webhook_attempts_total{outcome="delivered"} 3.0' in metrics


async def test_an_endpoint_that_is_gone_gets_no_second_attempt_and_a_replay_sends_it(tmp_path, database):
    async with receiving() as receiver, told(tmp_path, receiver.url, **database) as running:
        receiver.statuses = [410, 410, 410]
        await ended_session(running)
        await received(running, receiver, 3)
        await emptied(running)
        lost = [message.headers["webhook-id"] for message in receiver.messages]
        until = datetime.fromtimestamp(running.clock.now() + 60, UTC).isoformat()
        since = datetime.fromtimestamp(running.clock.now() - 3600, UTC).isoformat()
        answer = await running.http.post("/v1/webhooks/replay", params={"since": since, "until": until})
        assert answer.json() == {"messages": 3}
        await received(running, receiver, 6)
        assert [message.headers["webhook-id"] for message in receiver.messages[3:]] == lost
        refused = await running.http.post("/v1/webhooks/replay", params={"since": until, "until": since})
        assert refused.status_code == 400
        assert "until" in refused.json()["detail"]


async def test_messages_survive_a_dispatcher_and_are_sent_by_the_next(tmp_path):
    clock = ManualClock()
    async with receiving() as receiver:
        async with told(tmp_path, receiver.url, clock=clock) as running:
            receiver.statuses = [503] * 100
            session_id = await ended_session(running)
            await received(running, receiver, 1)
        receiver.statuses, receiver.messages = [], []
        async with told(tmp_path, receiver.url, clock=clock) as running:
            await passes(running, 6)
            messages = await received(running, receiver, 3)
    assert [message.json["data"]["sessionId"] for message in messages] == [session_id] * 3


async def test_an_endpoint_inside_the_network_is_never_called(tmp_path, caplog):
    async with receiving() as receiver, told(tmp_path, receiver.url, webhook_networks=()) as running:
        await ended_session(running)

        async def warned() -> bool:
            await passes(running, 0.05)
            return "not public" in caplog.text

        await eventually(warned, bool)
        assert receiver.messages == []
    assert "127.0.0.1" in caplog.text
    assert "tenant" not in caplog.text, "a query may hold a secret"


async def test_without_an_endpoint_nothing_is_kept_and_a_replay_is_refused(tmp_path):
    async with deployment(tmp_path) as running:
        await ended_session(running)
        assert await running.dispatcher.store.outbox.due(running.clock.now() + 10**6, 10) == []
        answer = await running.http.post(
            "/v1/webhooks/replay", params={"since": "2023-01-01T00:00:00Z", "until": "2024-01-01T00:00:00Z"}
        )
        assert answer.status_code == 404


def test_standard_webhooks_own_library_accepts_either_of_two_secrets():
    body, keys = b'{"type":"session.ready"}', [standard_webhooks.key_of(one) for one in (SECRET, OTHER)]
    headers = standard_webhooks.headers("msg_1", int(time.time()), body, keys)
    for secret in (SECRET, OTHER):
        assert Webhook(secret).verify(body, headers) == {"type": "session.ready"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"webhook_url": "https://example.com/h"}, "webhook_secrets is missing"),
        ({"webhook_secrets": (SECRET,)}, "webhook_url is missing"),
        ({"webhook_url": "ftp://example.com", "webhook_secrets": (SECRET,)}, "webhook_url"),
        ({"webhook_url": "https://me:pw@example.com", "webhook_secrets": (SECRET,)}, "webhook_url"),
        ({"webhook_url": "https://example.com", "webhook_secrets": ("whsec_short",)}, "24 to 64"),
        ({"webhook_url": "https://example.com", "webhook_secrets": ("a" * 40,)}, "whsec_"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(tmp_path, given, named):
    with pytest.raises(ValidationError) as refused:
        settings_for(tmp_path, 7860, **given)
    assert named in str(refused.value)
    assert "a" * 40 not in str(refused.value), "a secret is never shown"
