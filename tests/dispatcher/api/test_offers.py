"""The development runner's own routes: offers without a start, and what transports there are."""

import asyncio
import base64
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from bot import protocol
from dispatcher.settings import AgentSettings
from tests.dispatcher.api.test_auth import bearer, keyed
from tests.dispatcher.harness import Deployment, ScriptedMachine, deployment, eventually

SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\n"
OFFER = {"sdp": SDP, "type": "offer"}
ANSWER = {"sdp": "v=0\r\n", "type": "answer", "pc_id": "SmallWebRTCConnection#0"}


async def machine_of_the_offer(running: Deployment, before: Collection[str] = ()) -> ScriptedMachine:
    """The machine that was asked for besides those, connected."""
    (new,) = await eventually(
        lambda: asyncio.sleep(0, [name for name in running.provider.specs if name not in before]), bool
    )
    machine = await running.connect(new)
    machine.session_id = machine.id.removeprefix("m-")
    await machine.hello()
    return machine


async def offered(running: Deployment, **fields: Any) -> tuple[dict[str, Any], ScriptedMachine]:
    """The answer to an offer that started a session, and the session's machine."""
    before = list(running.provider.specs)
    calling = asyncio.create_task(running.http.post("/api/offer", json=OFFER | fields))
    machine = await machine_of_the_offer(running, before)
    await machine.answer(ANSWER)
    answer = await calling
    assert answer.status_code == 200, answer.text
    return answer.json(), machine


def body_of(request: protocol.Request) -> dict[str, Any]:
    return json.loads(base64.b64decode(request.body))


@pytest.mark.parametrize("member", ["request_data", "requestData"])
async def test_an_offer_starts_a_session_of_the_default_agent(tmp_path, member):
    async with deployment(tmp_path) as running:
        calling = asyncio.create_task(
            running.http.post("/api/offer", json=OFFER | {member: {"name": "Ada"}, "pc_id": None})
        )
        machine = await machine_of_the_offer(running)
        request = await machine.answer(ANSWER)
        assert (request.method, request.path) == ("POST", "api/offer")
        sent = body_of(request)
        assert (sent["sdp"], sent["type"], sent["pc_id"]) == (SDP, "offer", None)
        assert sent["request_data"] == {"name": "Ada"}
        answer = (await calling).json()
        assert (answer["sdp"], answer["type"]) == ("v=0\r\n", "answer")
        session = await running.session(answer["sessionId"])
        assert (session["agent"], session["transport"]) == ("echo", "webrtc")
        assert answer["sessionId"] == machine.session_id


async def test_candidates_and_the_next_offer_reach_the_session_of_their_connection(tmp_path):
    async with deployment(tmp_path) as running:
        _, other = await offered(running)
        answer, machine = await offered(running)
        assert other.session_id != machine.session_id
        given = {"pc_id": answer["pc_id"], "candidates": [{"candidate": "", "sdp_mid": "0"}]}
        patching = asyncio.create_task(running.http.patch("/api/offer", json=given))
        request = await machine.answer({"status": "success"})
        assert request.method == "PATCH"
        assert body_of(request) == given | {"pc_id": "SmallWebRTCConnection#0"}
        assert (await patching).json() == {"status": "success"}
        again = OFFER | {"pc_id": answer["pc_id"], "restart_pc": True}
        calling = asyncio.create_task(running.http.post("/api/offer", json=again))
        request = await machine.answer(ANSWER)
        sent = body_of(request)
        assert (sent["pc_id"], sent["restart_pc"]) == ("SmallWebRTCConnection#0", True)
        assert (await calling).json()["pc_id"] == answer["pc_id"]
        assert len(running.provider.specs) == 2


async def test_an_offer_for_a_connection_that_is_over_starts_a_session(tmp_path):
    """As the runner does, which makes a new connection for a `pc_id` that it does not know."""

    async with deployment(tmp_path) as running:
        first, _ = await offered(running)
        await running.http.delete(f"/sessions/{first['sessionId']}")
        await running.settle()
        for pc_id in (first["pc_id"], "SmallWebRTCConnection#0"):
            answer, _ = await offered(running, pc_id=pc_id)
            assert answer["sessionId"] != first["sessionId"]


@pytest.mark.parametrize("pc_id", ["", "SmallWebRTCConnection#0", "00000000-0000-4000-8000-000000000000/x"])
async def test_candidates_of_no_connection_are_refused(tmp_path, pc_id):
    async with deployment(tmp_path) as running:
        answer = await running.http.patch("/api/offer", json={"pc_id": pc_id, "candidates": []})
        assert (answer.status_code, running.provider.specs) == (404, {})


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "body"),
        (b"[]", 400, "body"),
        (b'{"type": "offer"}', 400, "sdp: Field required"),
        (b'{"sdp": "hello", "type": "offer"}', 400, "sdp: "),
        (b'{"sdp": "v=0\\r\\n", "type": "answer"}', 400, "type: "),
        (b'{"sdp": "v=0\\r\\n", "type": "offer", "pc_id": 1}', 400, "pc_id: "),
        (b'{"sdp": "v=0\\r\\n", "type": "offer", "x": NaN}', 400, "body: it cannot be passed on as JSON"),
        (b'{"sdp": "v=0\\r\\n%s", "type": "offer"}' % (b"x" * 1024 * 1024), 413, "larger than"),
    ],
)
async def test_a_malformed_offer_starts_nothing(tmp_path, body, status, words):
    async with deployment(tmp_path) as running:
        answer = await running.http.post("/api/offer", content=body)
        assert (answer.status_code, running.provider.specs) == (status, {})
        assert words in answer.json()["detail"]


async def test_a_session_whose_bot_refuses_the_offer_is_ended(tmp_path):
    async with deployment(tmp_path) as running:
        calling = asyncio.create_task(running.http.post("/api/offer", json=OFFER))
        machine = await machine_of_the_offer(running)
        request = await machine.receive()
        assert isinstance(request, protocol.Request)
        problem = dict.fromkeys(("title", "detail", "error", "info"), "sdp: no media")
        problem |= {"status": 400, "code": "bad-request"}
        await machine.send(
            protocol.Response(
                id=request.id,
                status=400,
                headers=(("content-type", "application/problem+json"),),
                body=base64.b64encode(json.dumps(problem).encode()).decode(),
            )
        )
        assert (await calling).status_code == 400
        await running.settle()
        assert (await running.session(machine.session_id or ""))["state"] == "ended"
        assert running.provider.running == []


async def test_a_session_whose_bot_answers_with_no_answer_is_ended(tmp_path):
    async with deployment(tmp_path) as running:
        calling = asyncio.create_task(running.http.post("/api/offer", json=OFFER))
        machine = await machine_of_the_offer(running)
        await machine.answer({"sdp": "v=0"})
        answer = await calling
        assert (answer.status_code, answer.json()["code"]) == (502, "bad_answer")
        await running.settle()
        assert running.provider.running == []


async def test_a_session_whose_client_hangs_up_before_its_answer_is_ended(tmp_path):
    async with deployment(tmp_path) as running:
        calling = asyncio.create_task(running.http.post("/api/offer", json=OFFER))
        machine = await machine_of_the_offer(running)
        assert isinstance(await machine.receive(), protocol.Request)
        calling.cancel()
        await running.until(machine.session_id or "", "ended")
        await running.settle()
        assert running.provider.running == []


async def test_an_offer_at_capacity_is_refused(tmp_path):
    agents = {"echo": AgentSettings(bot=Path("echo.py"), max_sessions=1)}
    async with deployment(tmp_path, agents=agents) as running:
        await offered(running)
        answer = await running.http.post("/api/offer", json=OFFER)
        assert (answer.status_code, answer.json()["code"]) == (429, "PCC-AGENT-AT-CAPACITY")


async def test_with_keys_an_offer_is_a_start_and_its_connection_the_keys_own(tmp_path):
    async with keyed(tmp_path) as running:
        for who, status in ((None, 401), ("reader", 403)):
            headers = bearer(who) if who else {}
            answer = await running.http.post("/api/offer", json=OFFER, headers=headers)
            assert (answer.status_code, running.provider.specs) == (status, {})
        posting = running.http.post("/api/offer", json=OFFER, headers=bearer("backend"))
        calling = asyncio.create_task(posting)
        machine = await machine_of_the_offer(running)
        await machine.answer(ANSWER)
        answer = (await calling).json()
        given = {"pc_id": answer["pc_id"], "candidates": []}
        for who, status in (("page", 404), ("reader", 403)):
            refused = await running.http.patch("/api/offer", json=given, headers=bearer(who))
            assert refused.status_code == status
        patching = asyncio.create_task(
            running.http.patch("/api/offer", json=given, headers=bearer("backend"))
        )
        await machine.answer({"status": "success"})
        assert (await patching).status_code == 200


async def test_the_status_has_the_default_agents_transports(tmp_path):
    async with deployment(tmp_path) as running:
        answer = await running.http.get("/status")
        assert answer.json() == {"status": "ready", "transports": ["webrtc"]}
    async with keyed(tmp_path, default_agent="other") as running:
        assert (await running.http.get("/status")).status_code == 401
        answer = await running.http.get("/status", headers=bearer("backend"))
        assert answer.json() == {"status": "ready", "transports": []}
