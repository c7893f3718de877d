"""Daily's webhooks, over HTTP."""

import base64
import hmac
import json
import uuid

import pytest

from dispatcher.transports.daily_webhooks import derived_secret
from tests.daily.fake import API_KEY
from tests.daily.harness import room_of, with_daily
from tests.dispatcher.harness import Deployment, deployment

SECRET = base64.b64encode(b"what Daily and we have in common").decode()
OTHER = base64.b64encode(b"a guess").decode()
PATH = "/webhooks/daily"


def event(session_id: str, kind: str = "meeting.ended", **payload) -> bytes:
    return json.dumps(
        {
            "version": "1.0.0",
            "type": kind,
            "id": f"evt-{uuid.uuid4()}",
            "payload": {"room": room_of(session_id), "meeting_id": "m-1", **payload},
            "event_ts": 1700000000.123,
        }
    ).encode()


def signed(
    running: Deployment, body: bytes, *, secret: str = SECRET, timestamp: str = "", after: float = 0
) -> dict[str, str]:
    timestamp = timestamp or f"{running.clock.now() + after:.0f}"
    digest = hmac.new(base64.b64decode(secret), f"{timestamp}.".encode() + body, "sha256").digest()
    return {"X-Webhook-Timestamp": timestamp, "X-Webhook-Signature": base64.b64encode(digest).decode()}


async def tell(running: Deployment, body: bytes, headers: dict[str, str]):
    answer = await running.http.post(PATH, content=body, headers=headers)
    await running.settle()
    return answer


async def events_of(running: Deployment, session_id: str) -> list[str]:
    return [one["event"] for one in await running.timeline(session_id)]


@pytest.mark.parametrize("unit", [1, 1000])
async def test_an_event_is_on_the_sessions_timeline_and_changes_nothing_else(tmp_path, unit):
    async with with_daily(tmp_path, daily_webhook_secret=SECRET) as (running, _):
        session_id = (await running.start("/start?wait=started"))["sessionId"]
        before = await running.session(session_id)
        timestamp = f"{running.clock.now() * unit:.0f}"
        for kind in ("meeting.started", "participant.joined", "participant.left", "meeting.ended"):
            body = event(session_id, kind)
            answer = await tell(running, body, signed(running, body, timestamp=timestamp))
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        told = [one for one in await running.timeline(session_id) if one["event"] == "room-event"]
        assert [one["message"] for one in told] == [
            "Daily says that the meeting began.",
            "Daily says that somebody joined.",
            "Daily says that somebody left.",
            "Daily says that the meeting ended.",
        ]
        assert await running.session(session_id) == before


async def test_the_end_of_a_meeting_makes_the_reaper_ask_about_a_machine_that_is_silent(tmp_path):
    async with with_daily(tmp_path, daily_webhook_secret=SECRET) as (running, _):
        session_id = (await running.start("/start?wait=started"))["sessionId"]
        await running.look(0)  # it was asked about, and runs
        running.provider.die(f"m-{session_id}", 139)
        await running.look(0.1)
        assert (await running.session(session_id))["state"] == "starting", "asked again so soon"
        body = event(session_id)
        await tell(running, body, signed(running, body))
        await running.look(0.1)
        assert (await running.session(session_id))["reason"] == "machine_killed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda running, body: {}, "are needed"),
        (lambda running, body: signed(running, body + b" "), "not that of the webhook's secret"),
        (
            lambda running, body: signed(running, body, secret=base64.b64encode(b"guess").decode()),
            "not that of",
        ),
        (lambda running, body: {**signed(running, body), "X-Webhook-Signature": "é"}, "not that of"),
        (lambda running, body: signed(running, body, timestamp="yesterday"), "not a unix time"),
        (
            lambda running, body: signed(running, body, timestamp=f"{running.clock.now() - 1201:.0f}"),
            "last 1200",
        ),
        (
            lambda running, body: signed(running, body, timestamp=f"{running.clock.now() + 1201:.0f}"),
            "last 1200",
        ),
    ],
)
async def test_what_is_not_dailys_or_not_of_now_is_refused(tmp_path, change, words):
    async with with_daily(tmp_path, daily_webhook_secret=SECRET) as (running, _):
        session_id = (await running.start("/start?wait=started"))["sessionId"]
        body = event(session_id)
        headers = {name: value.encode() for name, value in change(running, body).items()}
        answer = await tell(running, body, headers)
        assert answer.status_code == 401
        assert words in answer.json()["detail"]
        assert SECRET not in answer.text
        assert "room-event" not in await events_of(running, session_id)


def test_a_message_that_comes_twice_counts_once(tmp_path):
    async def run():
        async with with_daily(tmp_path, daily_webhook_secret=SECRET) as (running, _):
            session_id = (await running.start("/start?wait=started"))["sessionId"]
            body = event(session_id)
            headers = signed(running, body)
            # As it was, or signed anew.
            for attempt in (headers, headers, signed(running, body, after=60)):
                assert (await tell(running, body, attempt)).status_code == 200
            assert (await events_of(running, session_id)).count("room-event") == 1


async def test_a_message_that_daily_retried_for_a_quarter_of_an_hour_is_taken(tmp_path):
    async with with_daily(tmp_path, daily_webhook_secret=SECRET) as (running, _):
        session_id = (await running.start("/start?wait=started"))["sessionId"]
        body = event(session_id)
        assert (await tell(running, body, signed(running, body, after=-900))).status_code == 200
        assert (await events_of(running, session_id)).count("room-event") == 1


@pytest.mark.parametrize("body", [b'{"test":"test"}', b'{ "test": "test" }\n'])
async def test_dailys_test_message_is_answered(tmp_path, body):
    async with with_daily(tmp_path, daily_webhook_secret=SECRET) as (running, _):
        answer = await running.http.post(PATH, content=body)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_events_of_other_rooms_of_the_domain_and_of_sessions_that_are_over_are_answered_and_forgotten(
    tmp_path,
):
    async with with_daily(tmp_path, daily_webhook_secret=SECRET) as (running, _):
        session_id = (await running.start("/start?wait=started"))["sessionId"]
        await running.http.delete(f"/sessions/{session_id}")
        await running.settle()
        before = await events_of(running, session_id)
        others = [
            event(session_id),
            event(str(uuid.uuid4())),
            event(session_id).replace(b"switchboard-", b"standup-"),
            event(session_id, "recording.started"),
            b'{"type": "meeting.ended", "id": "evt-1"}',
        ]
        for body in others:
            assert (await tell(running, body, signed(running, body))).status_code == 200
        assert await events_of(running, session_id) == before


DEEP = b"[" * 60_000
"""Deeper than any parser goes."""

NAMELESS = b'{"type": "meeting.ended", "id": 7, "payload": {}}'


async def test_what_is_not_signed_is_not_parsed(tmp_path):
    async with with_daily(tmp_path, daily_webhook_secret=SECRET) as (running, _):
        assert (await tell(running, DEEP, {})).status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b"null",
        b'"text"',
        b'{"payload": 3}',
        b'{"type": "x", "payload": 3}',
        NAMELESS,
        DEEP,
    ],
)
async def test_message_is_answered_and_ignored_when_signed_and_no_event(tmp_path, body):
    async with with_daily(tmp_path, daily_webhook_secret=SECRET) as (running, _):
        assert (await tell(running, body, signed(running, body))).status_code == 200


async def test_a_message_has_a_limit(tmp_path):
    async with with_daily(tmp_path, daily_webhook_secret=SECRET) as (running, _):
        body = b'{"text": "%s"}' % (b"x" * 70_000)
        assert (await tell(running, body, signed(running, body))).status_code == 413


async def test_secret_follows_from_api_key_when_none_is_set(tmp_path):
    async with with_daily(tmp_path) as (running, _):
        test = await running.http.post(PATH, content=b'{"test":"test"}')
        assert (test.status_code, test.json()) == (200, {"status": "ok"})
        session_id = (await running.start("/start?wait=started"))["sessionId"]
        body = event(session_id)
        assert (await tell(running, body, signed(running, body))).status_code == 401
        headers = signed(running, body, secret=derived_secret(API_KEY))
        assert (await tell(running, body, headers)).status_code == 200
        assert "room-event" in await events_of(running, session_id)


async def test_no_webhooks_are_taken_without_rooms_at_daily(tmp_path):
    async with deployment(tmp_path) as running:
        answer = await running.http.post(PATH, content=b'{"test":"test"}')
        assert answer.status_code == 404
        assert "daily_api_key is not set" in answer.json()["detail"]


async def test_webhooks_need_no_key_and_a_page_of_another_site_cannot_send_them(tmp_path):
    key = {"name": "web", "hash": f"sha256:{'0' * 64}", "scope": "admin"}

    async with with_daily(tmp_path, daily_webhook_secret=SECRET, keys=[key]) as (running, _):
        test = b'{"test":"test"}'
        assert (await running.http.post(PATH, content=test)).status_code == 200
        headers = {"Origin": "https://evil.example"}
        assert (await running.http.post(PATH, content=test, headers=headers)).status_code == 403
