"""SmallWebRTC over the channel, with a real peer connection on the client's side."""

import asyncio
import base64
import json

import pytest

from bot.protocol import (
    ClientConnected,
    ClientDisconnected,
    Ended,
    Heartbeat,
    Hello,
    Latency,
    Ready,
    Request,
    Response,
    Stop,
)
from tests.bot.client import client
from tests.bot.dispatcher import Dispatcher, assignment, dispatcher, machine
from tests.patience import PATIENCE

CANDIDATE = "candidate:1 1 udp 2130706431 127.0.0.1 9 typ host generation 0 ufrag x network-id 1"


def candidates(pc_id, *given: str) -> dict:
    listed = [{"candidate": text, "sdp_mid": "0", "sdp_mline_index": 0} for text in given]
    return {"pc_id": pc_id, "candidates": listed}


async def send_offer(served: Dispatcher, offer: dict) -> None:
    """Send an offer with the id `offer`, and do not wait for its answer."""
    body = base64.b64encode(json.dumps(offer).encode()).decode()
    await served.send(Request(id="offer", method="POST", path="api/offer", body=body))


async def patch(served: Dispatcher, body) -> tuple[int, dict]:
    return await served.call("PATCH", "api/offer", body)


async def test_a_call_from_the_offer_to_the_hang_up(tmp_path):
    body = {"from": "start"}
    async with (
        dispatcher() as served,
        client() as caller,
        machine(tmp_path, "caller.py", served.url, assignment(body=body)) as run,
    ):
        await served.wait_for(Heartbeat, lambda beat: beat.phase == "waiting")
        await caller.connect(served)
        status, answer = await patch(served, candidates(caller.pc_id, CANDIDATE, ""))
        assert (status, answer) == (200, {"status": "success"})
        await served.wait_for(Ready)
        connected = await served.wait_for(ClientConnected)
        assert await caller.loudness() > 0.1
        first = await served.wait_for(Latency)
        assert first.kind == "first_word"
        assert 0 < first.milliseconds < 10_000
        timings = connected.timings
        assert timings.offer is not None
        assert timings.answer is not None
        assert timings.loaded is not None
        assert timings.loaded < timings.offer < timings.answer < (timings.client or 0)
        await caller.pc.close()
        await served.wait_for(ClientDisconnected)
        ended = await served.wait_for(Ended)
        assert (ended.reason, ended.exit_code) == ("completed", 0)
        assert await run.exit_code() == 0
    assert json.loads((tmp_path / "body.json").read_text()) == body


async def test_an_offer_is_answered_once_the_bot_file_is_imported(tmp_path):
    (tmp_path / "slow").touch()

    async with (
        dispatcher() as served,
        client() as caller,
        machine(tmp_path, "caller.py", served.url, assignment(body={"from": "start"})),
    ):
        await served.wait_for(Hello)
        await send_offer(served, await caller.offer(requestData={"from": "offer"}))
        # A candidate is looked at once the offer before it was negotiated.
        assert (await patch(served, candidates("another", CANDIDATE)))[0] == 404
        (tmp_path / "slow").unlink()
        answer = await served.wait_for(Response, lambda message: message.id == "offer")
        await caller.accept(json.loads(base64.b64decode(answer.body)))
        assert (await patch(served, candidates(caller.pc_id, CANDIDATE)))[0] == 200
        timings = (await served.wait_for(ClientConnected)).timings
        assert (timings.offer or 0) < (timings.loaded or 0) < (timings.answer or 0)
        assert await caller.loudness() > 0.1
    # What the client sends with its offer takes the place of the start request's body.
    assert json.loads((tmp_path / "body.json").read_text()) == {"from": "offer"}


async def test_an_offer_gets_no_answer_when_the_bot_file_fails_after_it(tmp_path):
    (tmp_path / "slow").touch()
    file = tmp_path / "broken.py"
    waits = "import time\nfrom pathlib import Path\nwhile Path('slow').exists():\n    time.sleep(0.01)\n"
    file.write_text(f"{waits}import deepgram_that_is_not_there\n")

    async with (
        dispatcher() as served,
        client() as caller,
        machine(tmp_path, str(file), served.url, assignment()) as run,
    ):
        await served.wait_for(Hello)
        await send_offer(served, await caller.offer())
        # A candidate is looked at once the offer before it was negotiated.
        assert (await patch(served, candidates("another", CANDIDATE)))[0] == 404
        (tmp_path / "slow").unlink()
        ended = await served.wait_for(Ended)
        assert ended.reason == "invalid_bot"
        assert "No module named 'deepgram_that_is_not_there'" in ended.message
        assert await run.exit_code() == 0
        assert not any(isinstance(message, Response) and message.id == "offer" for message in served.heard)


async def test_a_client_whose_answer_was_lost_offers_again(tmp_path):
    async with (
        dispatcher() as served,
        client() as lost,
        client() as caller,
        machine(tmp_path, "caller.py", served.url, assignment()),
    ):
        await served.wait_for(Hello)
        status, first = await served.call("POST", "api/offer", await lost.offer())
        assert status == 200
        await caller.connect(served, restart=True)
        assert caller.pc_id != first["pc_id"]
        await served.wait_for(ClientConnected)
        assert await caller.loudness() > 0.1
        # It is one client's session now.
        status, problem = await served.call("POST", "api/offer", await lost.offer())
        assert (status, problem["code"]) == (409, "session-taken")


async def test_a_connection_is_renegotiated_and_restarted_in_the_middle_of_a_call(tmp_path):
    async with (
        dispatcher() as served,
        client() as caller,
        client() as again,
        machine(tmp_path, "greeter.py", served.url, assignment()),
    ):
        await served.wait_for(Hello)
        await caller.connect(served)
        assert await caller.loudness() > 0.1
        # Pipecat's output waits for ever on audio that a restart throws away.
        await caller.quiet()
        pc_id = caller.pc_id
        await caller.connect(served)
        assert caller.pc_id == pc_id
        again.pc_id = pc_id
        await again.connect(served, restart=True)
        assert await again.loudness() > 0.1
        assert not any(isinstance(message, (Ended, ClientDisconnected)) for message in served.heard)
        await served.send(Stop(message="enough"))
        await served.wait_for(Ended)


async def test_a_client_that_hung_up_may_come_back_while_its_bot_waits(tmp_path):
    async with (
        dispatcher() as served,
        client() as caller,
        client() as again,
        machine(tmp_path, "patient.py", served.url, assignment()),
    ):
        await served.wait_for(Hello)
        await caller.connect(served)
        assert await caller.loudness() > 0.1
        await caller.quiet()
        await caller.pc.close()
        await served.wait_for(ClientDisconnected)
        before = len(served.heard)
        again.pc_id = caller.pc_id
        await again.connect(served)
        await served.wait_for(ClientConnected, after=before)
        assert await again.loudness() > 0.1


@pytest.mark.parametrize("bot_file", ["greeter.py", "fails_late.py"])
async def test_the_client_learns_at_once_that_the_bot_has_gone(tmp_path, bot_file):
    async with (
        dispatcher() as served,
        client() as caller,
        machine(tmp_path, bot_file, served.url, assignment()) as run,
    ):
        await served.wait_for(Hello)
        await caller.connect(served)
        async with asyncio.timeout(PATIENCE):
            while caller.channel.readyState != "open":
                await asyncio.sleep(0.01)
        if bot_file == "greeter.py":
            await served.wait_for(ClientConnected)
            await served.send(Stop(message="enough"))
        else:
            (tmp_path / "fail").touch()
        ended = await served.wait_for(Ended)
        assert ended.reason == ("stopped" if bot_file == "greeter.py" else "bot_error")
        async with asyncio.timeout(PATIENCE):
            await caller.left.wait()
        assert await run.exit_code() == 0


async def test_malformed_calls_are_refused_by_field(tmp_path):
    async with (
        dispatcher() as served,
        client() as caller,
        machine(tmp_path, "greeter.py", served.url, assignment()),
    ):
        await served.wait_for(Hello)
        good = await caller.offer()
        for body, field in [
            (b"{", "body"),
            (b"[]", "body"),
            ({**good, "sdp": None}, "sdp"),
            ({"type": "offer"}, "sdp"),
            ({**good, "type": "answer"}, "type"),
            ({**good, "sdp": ""}, "sdp"),
            ({**good, "sdp": "v=0\r\nnonsense"}, "sdp"),
            ({**good, "sdp": "v=0\r\nm=audio x y z\r\n"}, "sdp"),
            ({**good, "sdp": good["sdp"].replace("a=ice-ufrag", "a=nothing")}, "sdp"),
            ({**good, "pc_id": 7}, "pc_id"),
        ]:
            status, problem = await served.call("POST", "api/offer", body)
            assert (status, problem["status"]) == (400, 400), (body, problem)
            assert problem["code"] == "bad-request"
            assert problem["detail"].startswith(f"{field}: "), (body, problem)
        assert (await patch(served, candidates("nobody")))[0] == 404
        # None of that has spoilt the session.
        await caller.connect(served)
        for body, field in [
            ({"candidates": []}, "pc_id"),
            (candidates(caller.pc_id, CANDIDATE, "candidate:1 1 udp"), "candidates.1.candidate"),
            (candidates(caller.pc_id, CANDIDATE.replace(" 1 ", " x ")), "candidates.0.candidate"),
            ({"pc_id": caller.pc_id, "candidates": [{"candidate": CANDIDATE}]}, "candidates.0.sdp_mid"),
            ({"pc_id": caller.pc_id, "candidates": [{}]}, "candidates.0.candidate"),
        ]:
            status, problem = await patch(served, body)
            assert status == 400, (body, problem)
            assert problem["detail"].startswith(f"{field}: "), (body, problem)
        assert (await patch(served, candidates("nobody")))[0] == 404
        status, problem = await served.call("POST", "api/offer", {**good, "pc_id": "nobody"})
        assert (status, problem["code"]) == (404, "unknown-connection")
        status, problem = await served.call("DELETE", "api/offer")
        assert (status, problem["code"]) == (405, "method-not-allowed")
        assert await caller.loudness() > 0.1
        types = {
            dict(message.headers)["content-type"]
            for message in served.heard
            if isinstance(message, Response) and message.status >= 400
        }
        assert types == {"application/problem+json"}


async def test_the_bots_routes_are_there_before_its_client(tmp_path):
    async with (
        dispatcher() as served,
        machine(tmp_path, "routes.py", served.url, assignment()),
    ):
        await served.wait_for(Hello)
        status, problem = await served.call("GET", "no/such")
        assert (status, problem) == (404, {"detail": "Not Found"})
        await served.wait_for(Heartbeat, lambda beat: beat.phase == "waiting")


async def test_a_session_in_a_room_has_no_offers(tmp_path):
    async with (
        dispatcher() as served,
        client() as caller,
        machine(tmp_path, "tidy.py", served.url, assignment("daily")),
    ):
        await served.wait_for(Hello)
        status, problem = await served.call("POST", "api/offer", await caller.offer())
        assert (status, problem["code"]) == (409, "no-offers")
