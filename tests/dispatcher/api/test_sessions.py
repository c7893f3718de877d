"""A session over HTTP: its state, its calls, its end."""

import asyncio
import base64
import uuid

import httpx
import pytest

from bot import protocol
from tests.dispatcher.harness import deployment, eventually


async def test_a_session_goes_from_start_to_end(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello("waiting", timings=protocol.Timings(connected=40, imported=500))
        timings = protocol.Timings(connected=40, imported=500, pipeline=700)
        await machine.send(protocol.Ready(timings=timings))
        assert (await running.until(session_id, "ready"))["readyAt"] is not None
        await machine.send(protocol.ClientConnected(timings=timings.model_copy(update={"client": 800})))
        await running.until(session_id, "active")
        await machine.send(protocol.Latency(kind="first_word", milliseconds=120))
        await machine.send(protocol.Latency(kind="turn", milliseconds=900))
        await machine.send(protocol.Latency(kind="turn", milliseconds=800))
        running.clock.advance(60)
        await machine.send(protocol.Ended(reason="completed", message="The bot returned."))
        ended = await running.until(session_id, "ended")
        assert ended["reason"] == "completed"
        assert ended["durationSeconds"] == 60
        assert ended["exitCode"] == 0
        assert ended["timings"] == {"connected": 40, "imported": 500, "pipeline": 700, "client": 800}
        assert ended["latency"] == {"firstWordMs": 120, "turnMs": [900, 800]}
        said = {type(await machine.receive()), type(await machine.receive())}
        assert said == {protocol.Acknowledge, protocol.Stop}


async def test_an_unknown_session_is_not_found(tmp_path):
    async with deployment(tmp_path) as running:
        path = f"/sessions/{uuid.uuid4()}"
        for answer in (
            await running.http.get(path),
            await running.http.delete(path),
            await running.http.post(f"{path}/api/offer", json={}),
        ):
            assert answer.status_code == 404
            assert "There is no session" in answer.json()["info"]


async def test_a_session_is_found_under_its_own_agent_only(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        call = await running.http.get(f"/v1/public/other/sessions/{session_id}/status")
        stop = await running.http.delete(f"/v1/agents/other/sessions/{session_id}")
        assert (call.status_code, stop.status_code) == (404, 404)
        assert (await running.session(session_id))["state"] == "starting"


@pytest.mark.parametrize("prefix", ["", "/v1/public/echo"])
async def test_a_call_is_held_until_the_machine_connects_and_carries_everything(tmp_path, prefix):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        calling = asyncio.create_task(
            running.http.patch(
                f"{prefix}/sessions/{session_id}/api/offer?a=1&b=2",
                content=b"\x00binary",
                headers={"X-Trace": "t1", "Cookie": "secret=1"},
            )
        )
        machine = await running.machine_of(session_id)
        await machine.hello()
        request = await machine.answer({"ok": True}, status=201)
        answer = await calling
        assert (answer.status_code, answer.json()) == (201, {"ok": True})
        assert (request.method, request.path, request.query) == ("PATCH", "api/offer", "a=1&b=2")
        assert request.body == "AGJpbmFyeQ=="
        names = {name for name, _ in request.headers}
        assert "x-trace" in names
        assert not names & {"cookie", "authorization", "host"}


@pytest.mark.parametrize("path", ["", "api/offer/", "a//b/"])
async def test_a_slash_at_the_end_of_a_call_is_the_bots(tmp_path, path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello()
        calling = asyncio.create_task(running.http.get(f"/sessions/{session_id}/{path}"))
        assert (await machine.answer({})).path == path
        assert (await calling).status_code == 200


@pytest.mark.parametrize("path", ["/v1/sessions/", "/v1/agents/", "/healthz/", "/start/", "/sessions/"])
async def test_a_slash_too_many_is_a_problem(tmp_path, path):
    async with deployment(tmp_path) as running:
        answer = await running.http.get(path)
        assert (answer.status_code, answer.json()["status"]) == (404, 404)
        assert answer.headers["content-type"] == "application/problem+json"


async def test_an_answer_may_come_over_the_next_connection(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello()
        calling = asyncio.create_task(running.http.get(f"/sessions/{session_id}/status"))
        request = await machine.receive()
        assert isinstance(request, protocol.Request)
        await machine.connection.close()
        machine = await running.machine_of(session_id)
        await machine.hello("ready")
        await machine.send(protocol.Response(id=request.id, status=204))
        assert (await calling).status_code == 204


async def test_a_held_call_ends_with_the_reason_when_the_bot_fails(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        offer = {"sdp": "v=0", "type": "offer"}
        path = f"/sessions/{session_id}/api/offer"
        calling = asyncio.create_task(running.http.post(path, json=offer))
        machine = await running.machine_of(session_id)
        await machine.hello("loading")
        message = "The bot file bot.py could not be imported: No module named 'nope'."
        await machine.send(
            protocol.Ended(reason="invalid_bot", message=message, detail="Traceback…", exit_code=1)
        )
        answer = await calling
        assert answer.status_code == 502
        assert (answer.json()["code"], answer.json()["info"]) == ("invalid_bot", message)
        failed = await running.session(session_id)
        assert (failed["state"], failed["detail"], failed["exitCode"]) == ("failed", "Traceback…", 1)
        late = await running.http.post(path, json=offer)
        assert (late.status_code, late.json()) == (502, answer.json())


async def test_a_held_call_to_a_session_that_is_stopped_is_told_so(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello("ready")
        calling = asyncio.create_task(running.http.get(f"/sessions/{session_id}/status"))
        assert isinstance(await machine.receive(), protocol.Request)
        assert (await running.http.delete(f"/sessions/{session_id}")).status_code == 200
        answer = await calling
        assert (answer.status_code, answer.json()["code"]) == (410, "session_over")


async def test_a_bot_that_does_not_answer_is_given_up_on(tmp_path):
    async with deployment(tmp_path, call_timeout_seconds=20) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello("ready")
        await running.until(session_id, "ready")
        calling = asyncio.create_task(running.http.get(f"/sessions/{session_id}/slow"))
        assert isinstance(await machine.receive(), protocol.Request)

        async def answered():
            running.clock.advance(1)
            return calling.done()

        await eventually(answered, bool)
        answer = await calling
        assert (answer.status_code, answer.json()["code"]) == (504, "timeout")


async def test_a_call_that_was_held_is_given_up_on_after_the_bot_was_ready(tmp_path):
    async with deployment(tmp_path, call_timeout_seconds=20) as running:
        session_id = (await running.start())["sessionId"]
        calling = asyncio.create_task(running.http.get(f"/sessions/{session_id}/never"))
        machine = await running.machine_of(session_id)
        await machine.hello("waiting")
        assert isinstance(await machine.receive(), protocol.Request)
        await machine.send(protocol.Ready(timings=protocol.Timings()))
        await running.until(session_id, "ready")

        async def answered():
            running.clock.advance(1)
            return calling.done()

        await eventually(answered, bool)
        assert (await calling).status_code == 504


async def test_a_held_call_is_served_while_the_dispatcher_drains(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        calling = asyncio.create_task(running.http.get(f"/sessions/{session_id}/status"))
        machine = await running.machine_of(session_id)
        await machine.hello()
        request = await machine.receive()
        assert isinstance(request, protocol.Request)
        running.dispatcher.drain()
        for method, path in (("POST", "/start"), ("GET", "/readyz")):
            answer = await running.http.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (503, "draining")
        await machine.send(protocol.Response(id=request.id, status=200, body="e30="))
        assert (await calling).status_code == 200


async def test_a_held_call_is_sent_away_when_the_dispatcher_exits(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        calling = asyncio.create_task(running.http.get(f"/sessions/{session_id}/status"))
        machine = await running.machine_of(session_id)
        await machine.hello()
        assert isinstance(await machine.receive(), protocol.Request)
        running.dispatcher.service.refuse()
        answer = await calling
        assert (answer.status_code, answer.json()["code"]) == (503, "draining")
        assert answer.headers["retry-after"] == "2"
        for method, path in (("POST", "/start"), ("GET", "/readyz")):
            assert (await running.http.request(method, path)).json()["code"] == "draining"
        assert (await running.session(session_id))["state"] == "starting", "live sessions are untouched"


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 101},
        {"status": 0},
        {"status": 99999},
        {"status": 200, "headers": (("x", "a\r\nSet-Cookie: b"),)},
        {"status": 200, "headers": (("bad name", "a"),)},
        {"status": 200, "headers": (("x-many", "1"),) * 101},
        {"status": 200, "body": "not base64!"},
        *({"status": status, "body": "e30="} for status in (204, 205, 304)),
    ],
)
async def test_an_answer_that_is_no_http_is_the_bots_fault_in_words(tmp_path, answer):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        calling = asyncio.create_task(running.http.get(f"/sessions/{session_id}/status"))
        machine = await running.machine_of(session_id)
        await machine.hello()
        request = await machine.receive()
        assert isinstance(request, protocol.Request)
        await machine.send(protocol.Response(id=request.id, **answer))
        refused = await calling
        assert (refused.status_code, refused.json()["code"]) == (502, "bad_answer")


PASSED_ON = {
    "content-encoding": "identity",
    "content-disposition": "inline",
    "cache-control": "no-store",
    "etag": '"1"',
    "x-turn": "3",
}
KEPT_BACK = (
    *("Set-Cookie", "Strict-Transport-Security", "NEL", "Report-To", "Clear-Site-Data", "Alt-Svc"),
    *("Service-Worker-Allowed", "X-Accel-Redirect", "X-Sendfile", "Fly-Replay", "Link"),
    *("Access-Control-Allow-Origin", "Content-Security-Policy"),
)


async def test_only_headers_of_the_list_pass_from_a_bot_to_its_client(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello()
        calling = asyncio.create_task(running.http.get(f"/sessions/{session_id}/status"))
        said = PASSED_ON | dict.fromkeys((*KEPT_BACK, "Date", "Server"), "the bot's")
        await machine.answer({}, 200, **said)
        answer = await calling
        assert answer.status_code == 200
        assert {name: answer.headers.get(name) for name in PASSED_ON} == PASSED_ON
        assert not [name for name in KEPT_BACK if name in answer.headers]
        assert "the bot's" not in answer.headers.values()


@pytest.mark.parametrize(
    ("location", "reaches"),
    [
        ("{base}/next", True),
        ("next?a=1", True),
        ("https://elsewhere.example/next", False),
        ("//elsewhere.example/next", False),
        ("/next", False),
        ("../../start", False),
    ],
)
async def test_redirect_of_a_bot_reaches_its_client_where_it_stays_in_the_session(
    tmp_path, location, reaches
):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello()
        path = f"/sessions/{session_id}"
        to = location.format(base=str(running.http.base_url.join(path)))
        calling = asyncio.create_task(running.http.get(f"{path}/here", follow_redirects=False))
        await machine.answer({}, 307, location=to)
        assert (await calling).headers.get("location") == (to if reaches else None)


async def test_headers_that_connection_names_do_not_reach_the_bot(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello()
        headers = {"Connection": "keep-alive, X-Hop", "X-Hop": "1", "X-End": "2"}
        path = f"/sessions/{session_id}/status"
        calling = asyncio.create_task(running.http.get(path, headers=headers))
        request = await machine.answer({})
        assert (await calling).status_code == 200
        names = {name for name, _ in request.headers}
        assert "x-end" in names
        assert not names & {"x-hop", "connection", "keep-alive"}


async def test_stopping_tells_the_bot_and_ends_the_machine(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello("active")
        for _ in range(2):
            answer = await running.http.delete(f"/v1/agents/echo/sessions/{session_id}")
            assert answer.json() == {"status": "terminated", "session_id": session_id}
        assert isinstance(await machine.receive(), protocol.Stop)
        running.provider.die(machine.id, 0)
        await machine.connection.close()
        await running.settle()
        stopped = await running.session(session_id)
        assert (stopped["state"], stopped["reason"]) == ("ended", "stopped")


async def test_a_bot_that_does_not_stop_is_ended_by_the_provider(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello("active")
        await running.http.delete(f"/sessions/{session_id}")

        async def running_machines():
            running.clock.advance(1)
            return running.provider.running

        assert await eventually(running_machines, lambda found: not found) == []


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/sessions/some", {"GET", "DELETE"}),
        ("POST", "/v1/agents/echo/sessions/some", {"GET", "DELETE"}),
        ("DELETE", "/start", {"POST"}),
    ],
)
async def test_a_method_that_is_not_served_is_told_which_are(tmp_path, method, path, allowed):
    async with deployment(tmp_path) as running:
        answer = await running.http.request(method, path)
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == allowed
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "size", "limit"),
    [
        ("files", 1_900_000, None),
        ("files", 50 * 1024 * 1024 + 65_537, "52494336"),
        ("other", 1_900_000, "1048576"),
    ],
)
async def test_an_upload_may_be_larger_than_other_calls(tmp_path, path, size, limit):
    async with deployment(tmp_path) as running:
        started = await running.start()
        session_id = started["sessionId"]
        assert started["fileUploadUrl"] == f"/sessions/{session_id}/files"
        machine = await running.machine_of(session_id)
        await machine.hello("ready")
        url = f"/sessions/{session_id}/{path}"
        calling = asyncio.create_task(running.http.post(url, content=b"x" * size))
        if limit is None:
            request = await machine.answer({"name": "x"})
            assert (request.path, len(base64.b64decode(request.body))) == ("files", size)
        answer = await calling
        assert answer.status_code == (413 if limit else 200)
        assert limit is None or f"larger than {limit} bytes" in answer.json()["detail"]


async def acknowledge(machine, request: protocol.Request, size: int, status: int = 202) -> None:
    await machine.send(protocol.Response(id=request.id, status=status, size=size))


async def test_large_upload_goes_in_pieces_each_after_the_answer_to_the_one_before(tmp_path):
    contents = bytes(range(256)) * 12_000  # not quite three pieces

    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello("ready")
        url = f"/sessions/{session_id}/files"
        calling = asyncio.create_task(running.http.post(url, content=contents))
        taken = b""
        while True:
            request = await machine.receive()
            assert isinstance(request, protocol.Request)
            assert request.piece is not None
            assert (request.method, request.path, request.piece.offset) == ("PUT", "files", len(taken))
            body = base64.b64decode(request.body)
            assert 0 < len(body) <= protocol.PIECE_BYTES
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await machine.connection.recv()
            taken += body
            if request.piece.is_last:
                break
            await acknowledge(machine, request, len(taken))
        await acknowledge(machine, request, len(taken), status=200)
        assert (await calling).status_code == 200
        assert taken == contents


@pytest.mark.parametrize(
    ("size", "status", "said"), [(None, 404, "larger than 2097152 bytes"), (0, 429, None)]
)
async def test_large_upload_ends_with_the_first_piece_that_is_not_taken(tmp_path, size, status, said):
    """A machine of before knows of no pieces, and answers as to any other call."""

    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello("ready")
        url = f"/sessions/{session_id}/files"
        calling = asyncio.create_task(running.http.post(url, content=b"x" * 5_000_000))
        request = await machine.receive()
        assert isinstance(request, protocol.Request)
        await machine.send(protocol.Response(id=request.id, status=status, size=size))
        answer = await calling
        assert answer.status_code == (413 if said else status)
        assert said is None or said in answer.json()["detail"]


def piece(request: protocol.Request, body: bytes, size: int | None) -> protocol.Response:
    encoded = base64.b64encode(body).decode()
    headers = (("content-type", "text/plain"),)
    return protocol.Response(id=request.id, status=200, headers=headers, body=encoded, size=size)


@pytest.mark.parametrize("pieces", [True, False])
async def test_download_is_passed_on_in_pieces_or_whole(tmp_path, pieces):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello("ready")
        calling = asyncio.create_task(running.http.get(f"/sessions/{session_id}/files/a.txt"))
        for start in (0, 3, 6) if pieces else (0,):
            request = await machine.receive()
            assert isinstance(request, protocol.Request)
            assert request.start == start
            if pieces:
                await machine.send(piece(request, b"abcdefgh"[start : start + 3], 8))
            else:
                await machine.send(piece(request, b"abcdefgh", None))
        answer = await calling
        assert (answer.status_code, answer.content) == (200, b"abcdefgh")
        assert (answer.headers["content-length"], answer.headers["content-type"]) == ("8", "text/plain")


async def test_download_that_changes_on_its_way_breaks_off(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello("ready")
        calling = asyncio.create_task(running.http.get(f"/sessions/{session_id}/files/a.txt"))
        for start, size in ((0, 8), (3, 9)):
            request = await machine.receive()
            assert isinstance(request, protocol.Request)
            await machine.send(piece(request, b"abcdefgh"[start : start + 3], size))
        with pytest.raises(httpx.RemoteProtocolError):
            await calling
