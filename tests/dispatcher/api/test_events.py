"""A session's timeline over HTTP: read, waited for, streamed."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from bot import protocol
from dispatcher.sessions.watcher import PAGE_EVENTS
from dispatcher.store import rows
from tests.dispatcher.harness import Deployment, deployment, eventually
from tests.patience import PATIENCE

STREAM = {"Accept": "text/event-stream"}


class Frames:
    """The frames of a stream, one at a time; comments are frames too."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()

    async def next(self) -> dict[str, Any] | None:
        """The next frame, or None at the end of the stream."""
        frame: dict[str, Any] = {}
        async with asyncio.timeout(PATIENCE):
            async for line in self._lines:
                if not line:
                    return frame
                name, _, value = line.partition(": ")
                frame[name or "comment"] = json.loads(value) if name == "data" else value
        return None

    async def rest(self) -> list[dict[str, Any]]:
        frames = []
        while (frame := await self.next()) is not None:
            frames.append(frame)
        return frames


@contextlib.asynccontextmanager
async def stream(running: Deployment, session_id: str, **headers: str) -> AsyncIterator[Frames]:
    path = f"/v1/sessions/{session_id}/events"
    async with running.http.stream("GET", path, headers=STREAM | headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Frames(answer)


async def play(running: Deployment, session_id: str) -> None:
    """A conversation from its machine's hello to its client's end."""
    machine = await running.machine_of(session_id)
    await machine.hello("loading")
    await machine.send(protocol.Heartbeat(phase="waiting", rss_bytes=1, cpu_seconds=1))
    await machine.send(protocol.Ready(timings=protocol.Timings()))
    await machine.send(protocol.ClientConnected(timings=protocol.Timings()))
    await machine.send(protocol.ClientDisconnected())
    await machine.send(protocol.ClientConnected(timings=protocol.Timings()))
    await running.in_phase(session_id, "active")
    answer = await running.http.delete(f"/sessions/{session_id}")
    assert answer.status_code == 200
    running.provider.die(machine.id, 0)
    await machine.connection.close()
    await running.settle()


async def test_the_timeline_tells_what_happened_and_by_whom(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        await play(running, session_id)
        told = [(event["event"], event["by"], event["state"]) for event in await running.timeline(session_id)]
        assert told == [
            ("queued", "its client", "queued"),
            ("starting", "dispatcher", "starting"),
            ("machine-started", "provider", "starting"),
            ("phase", "machine", "starting"),
            ("phase", "machine", "starting"),
            ("ready", "machine", "ready"),
            ("client-connected", "machine", "ready"),
            ("active", "machine", "active"),
            ("client-disconnected", "machine", "active"),
            ("client-connected", "machine", "active"),
            ("stop-requested", "its client", "active"),
            ("ended", "dispatcher", "ended"),
            ("machine-gone", "provider", "ended"),
        ]
        events = await running.timeline(session_id)
        assert [event["id"] for event in events] == list(range(1, 14))
        assert events[0]["at"] == "2023-11-14T22:13:20.000+00:00"
        assert (events[11]["reason"], events[11]["message"]) == (
            "stopped",
            "The session was stopped by its client.",
        )


async def test_a_session_that_the_reaper_ended_says_so(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        await running.look(31)
        await running.until(session_id, "failed")
        last = next(event for event in await running.timeline(session_id) if event["event"] == "failed")
        assert (last["by"], last["reason"]) == ("reaper", "start_timeout")


async def test_the_path_is_not_one_of_the_bots(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello("ready")
        for prefix in ("", "/v1/public/echo"):
            path = f"{prefix}/sessions/{session_id}/events"
            calling = asyncio.create_task(running.http.get(path))
            assert (await machine.answer({"mine": True})).path == "events"
            assert (await calling).json() == {"mine": True}


async def test_a_stream_follows_a_session_to_its_end(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        async with stream(running, session_id) as frames:
            first = await frames.next()
            assert first is not None
            assert (first["id"], first["event"]) == ("1", "queued")
            assert first["data"]["message"] == "A session of echo over webrtc was asked for."
            await play(running, session_id)
            rest = await frames.rest()
        kinds = [frame["event"] for frame in rest]
        assert [kind for kind in kinds if kind in ("starting", "ready", "active", "ended")] == [
            "starting",
            "ready",
            "active",
            "ended",
        ]
        assert kinds[-1] in ("ended", "machine-gone")
        assert [int(frame["id"]) for frame in rest] == list(range(2, len(rest) + 2))


async def test_a_stream_resumes_after_the_last_event_that_was_seen_and_then_is_over(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        await play(running, session_id)
        async with stream(running, session_id, **{"Last-Event-ID": "11"}) as frames:
            assert [frame["event"] for frame in await frames.rest()] == ["ended", "machine-gone"]
        path = f"/v1/sessions/{session_id}/events"
        nothing = await running.http.get(path, headers=STREAM | {"Last-Event-ID": "13"})
        assert (nothing.status_code, nothing.content) == (204, b"")


async def test_a_silent_stream_says_that_it_is_there(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        async with stream(running, session_id) as frames:
            while (frame := await frames.next()) and frame["event"] != "machine-started":
                pass
            reading = asyncio.create_task(frames.next())

            async def passed() -> bool:
                running.clock.advance(5)
                return reading.done()

            assert await eventually(passed, bool)
            assert await reading == {"comment": "still there"}


async def test_an_exit_ends_the_streams_at_once(tmp_path):
    async with contextlib.AsyncExitStack() as stack:
        async with deployment(tmp_path) as running:
            session_id = (await running.start())["sessionId"]
            http = await stack.enter_async_context(
                httpx.AsyncClient(base_url=running.url, timeout=PATIENCE, trust_env=False)
            )
            path = f"/v1/sessions/{session_id}/events"
            answer = await stack.enter_async_context(http.stream("GET", path, headers=STREAM))
            frames = Frames(answer)
            assert (await frames.next() or {})["event"] == "queued"
        # A stream that was cut would raise here.
        kinds = [frame.get("event") for frame in await frames.rest()]
        assert "ended" not in kinds


async def test_a_poll_is_held_until_something_happens(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        path = f"/v1/sessions/{session_id}/events"
        known = (await running.http.get(path)).json()
        last = known["events"][-1]["id"]
        assert (known["state"], known["over"]) == ("starting", False)
        polling = asyncio.create_task(running.http.get(f"{path}?after={last}&wait=60"))
        machine = await running.machine_of(session_id)
        await machine.hello("loading")
        found = (await polling).json()
        assert [(event["event"], event["phase"]) for event in found["events"]] == [("phase", "loading")]


async def test_a_poll_ends_empty_when_its_time_is_up_and_at_once_when_the_session_is_over(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        path = f"/v1/sessions/{session_id}/events?after=3&wait=20"
        polling = asyncio.create_task(running.http.get(path))

        async def passed() -> bool:
            running.clock.advance(5)
            return polling.done()

        assert await eventually(passed, bool)
        assert (await polling).json()["events"] == []
        await running.http.delete(f"/sessions/{session_id}")
        over = (await running.http.get(f"/v1/sessions/{session_id}/events?after=9000&wait=20")).json()
        assert (over["over"], over["events"]) == (True, [])


@pytest.mark.parametrize(
    ("query", "headers", "words"),
    [
        ("?wait=61", {}, "wait: Input should be less than or equal to 60, not '61'"),
        ("?after=-1", {}, "after: Input should be greater than or equal to 0"),
        ("", {"Last-Event-ID": "x"}, "last-event-id: Input should be a valid integer"),
        ("", {"Last-Event-ID": "99999999999999999999"}, "last-event-id: Input should be less than or equal"),
    ],
)
async def test_bad_questions_are_told_what_is_allowed(tmp_path, query, headers, words):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        answer = await running.http.get(f"/v1/sessions/{session_id}/events{query}", headers=headers)
        assert answer.status_code == 400
        assert words in answer.json()["detail"]


@pytest.mark.parametrize("headers", [{}, STREAM])
async def test_an_unknown_session_has_no_timeline(tmp_path, headers):
    async with deployment(tmp_path) as running:
        for query in ("", "?wait=10"):
            path = f"/v1/sessions/{uuid.uuid4()}/events{query}"
            assert (await running.http.get(path, headers=headers)).status_code == 404


async def test_a_bot_that_flips_its_client_fills_no_timeline_and_its_end_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_EVENTS", 300)

    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello("active")
        for _ in range(200):
            await machine.send(protocol.ClientDisconnected())
            await machine.send(protocol.ClientConnected(timings=protocol.Timings()))
        await machine.send(protocol.Ended(reason="completed", message="Bye."))
        await running.until(session_id, "ended")

        pages, after, over = [], 0, False
        while not over:
            path = f"/v1/sessions/{session_id}/events?after={after}"
            page = (await running.http.get(path)).json()
            over, after = page["over"], page["events"][-1]["id"]
            pages.append(page["events"])
        assert [len(page) for page in pages[:-1]] == [PAGE_EVENTS]
        events = [event for page in pages for event in page]
        assert [event["id"] for event in events] == list(range(1, len(events) + 1))
        (told,) = [event for event in events if event["message"].endswith(rows.LAST_EVENT)]
        assert told["id"] == 300
        repeated = ("client-connected", "client-disconnected", "phase")
        assert next(event["event"] for event in events if event["id"] > 300) == "ended"
        assert not [event for event in events if event["id"] > 300 and event["event"] in repeated]

        async with stream(running, session_id) as frames:
            streamed = [int(frame["id"]) for frame in await frames.rest() if "id" in frame]
        assert streamed == [event["id"] for event in events]
