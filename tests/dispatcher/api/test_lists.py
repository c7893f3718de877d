"""Lists of sessions: this dispatcher's own, and Pipecat Cloud's, held against its OpenAPI document."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS30Validator

from bot import protocol
from dispatcher.machines.provider import Rejected
from dispatcher.settings import AgentSettings
from tests.dispatcher.harness import Deployment, deployment

# The parts of Pipecat Cloud's OpenAPI document that these answers must satisfy, without its prose.
SPEC = json.loads(Path(__file__).with_name("pipecat_cloud.json").read_text())["schemas"]


def agents() -> dict[str, AgentSettings]:
    return {name: AgentSettings(bot=Path("bot/agents/echo.py")) for name in ("echo", "other")}


def check(name: str, answer: Any) -> None:
    OAS30Validator(SPEC[name], format_checker=OAS30Validator.FORMAT_CHECKER).validate(answer)


async def started(running: Deployment, count: int, agent: str = "echo") -> list[str]:
    """The ids of new sessions, newest first; each a second after the one before."""
    ids = []
    for _ in range(count):
        running.clock.advance(1)
        ids.append((await running.start(f"/v1/public/{agent}/start"))["sessionId"])
    return ids[::-1]


async def ended(running: Deployment, session_id: str, ready_after: float) -> None:
    machine = await running.machine_of(session_id)
    await machine.hello("waiting")
    await running.in_phase(session_id, "waiting")
    running.clock.advance(ready_after)
    await machine.send(protocol.Ready(timings=protocol.Timings()))
    await running.until(session_id, "ready")
    await machine.send(protocol.Ended(reason="completed", message="Done."))
    await running.until(session_id, "ended")


async def listed(running: Deployment, query: str = "", path: str = "/v1/sessions") -> list[str]:
    answer = await running.http.get(path + query)
    assert answer.status_code == 200, answer.text
    return [session["sessionId"] for session in answer.json()["sessions"]]


async def test_pages_follow_each_other_whatever_is_started_meanwhile(tmp_path):
    async with deployment(tmp_path) as running:
        ids = await started(running, 5)
        same_time = [(await running.start())["sessionId"] for _ in range(4)]
        expected = sorted([same_time[0], same_time[1], same_time[2], same_time[3], ids[0]], reverse=True)
        expected += ids[1:]
        seen, cursor, page = [], "", {}
        while cursor is not None:
            page = (await running.http.get(f"/v1/sessions?limit=2{cursor and '&cursor=' + cursor}")).json()
            assert len(page["sessions"]) <= 2
            seen += [session["sessionId"] for session in page["sessions"]]
            cursor = page["nextCursor"]
            if len(seen) == 2:
                await started(running, 1)
        assert seen == expected
        alone = await running.session(seen[-1])
        assert alone.pop("queue") is None
        assert page["sessions"][0] == alone


async def test_a_list_is_of_one_agent_and_of_the_states_that_are_asked_for(tmp_path):
    async with deployment(tmp_path, agents=agents()) as running:
        (mine,) = await started(running, 1)
        (others,) = await started(running, 1, "other")
        (over,) = await started(running, 1)
        await ended(running, over, 0)
        assert await listed(running) == [over, others, mine]
        assert await listed(running, "?agent=echo") == [over, mine]
        assert await listed(running, "?agent=nobody") == []
        assert await listed(running, "?state=starting") == [others, mine]
        assert await listed(running, "?state=ended&state=starting&agent=echo") == [over, mine]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?limit=0", "limit: Input should be greater than or equal to 1"),
        ("?limit=101", "limit: Input should be less than or equal to 100"),
        ("?state=asleep", "Input should be 'queued', 'starting', 'ready', 'active', 'ended' or 'failed'"),
        ("?cursor=nonsense", "cursor: allowed is the nextCursor of an earlier answer, not 'nonsense'"),
        ("?cursor=", "cursor: allowed is"),
        ("?cursor=WzEsMl0", "cursor: allowed is"),
        ("?cursor=ß", "cursor: allowed is"),
    ],
)
async def test_bad_questions_are_told_what_is_allowed(tmp_path, query, words):
    async with deployment(tmp_path) as running:
        answer = await running.http.get(f"/v1/sessions{query}")
        assert answer.status_code == 400
        assert words in answer.json()["detail"]


async def test_pipecat_clouds_list_has_its_members_and_its_filters(tmp_path):
    path = "/v1/agents/echo/sessions"

    async with deployment(tmp_path, agents=agents()) as running:
        await started(running, 2, "other")
        (live,) = await started(running, 1)
        (quick,) = await started(running, 1)
        await ended(running, quick, 2)
        (slow,) = await started(running, 1)
        await ended(running, slow, 9)
        answer = (await running.http.get(path)).json()
        check("SessionList", answer)
        assert answer["total_count"] == 3
        assert [session["sessionId"] for session in answer["sessions"]] == [slow, quick, live]
        assert [session["botStartSeconds"] for session in answer["sessions"]] == [9, 2, None]
        statuses = [session["completionStatus"] for session in answer["sessions"]]
        assert statuses == ["HTTP_COMPLETED", "HTTP_COMPLETED", None]
        now = int(running.clock.now())
        for query, expected in (
            ("?status=active", [live]),
            ("?status=ended", [slow, quick]),
            ("?status=ended&limit=1&offset=1", [quick]),
            ("?deploymentId=echo&startType=cold", [slow, quick, live]),
            ("?deploymentId=else", []),
            ("?startType=warm", []),
            ("?startTimeMin=5", [slow]),
            ("?startTimeMax=5", [quick]),
            (f"?startTime={now - 9}", [slow]),
            (f"?endTime={now - 10}", [quick, live]),
        ):
            assert await listed(running, query, path) == expected, query
        counted = (await running.http.get(f"{path}?limit=1")).json()
        assert (counted["total_count"], len(counted["sessions"])) == (3, 1)


async def test_what_is_counted_has_an_end_and_still_every_page_is_reached(tmp_path, monkeypatch):
    monkeypatch.setattr("dispatcher.api.lists.COUNTED_AHEAD", 3)
    path = "/v1/agents/echo/sessions"

    async with deployment(tmp_path) as running:
        ids = await started(running, 9)
        counts, seen, total = [], [], 1
        while len(seen) < total:
            page = (await running.http.get(f"{path}?limit=2&offset={len(seen)}&status=active")).json()
            total = page["total_count"]
            counts.append(total)
            seen += [session["sessionId"] for session in page["sessions"]]
        assert seen == ids
        assert counts == [5, 7, 9, 9, 9]


async def test_pipecat_clouds_record_of_a_session_satisfies_its_document(tmp_path):
    async with deployment(tmp_path, agents=agents()) as running:
        (session_id,) = await started(running, 1)
        path = f"/v1/agents/echo/sessions/{session_id}"
        live = (await running.http.get(path)).json()
        check("SessionResponse", live)
        assert (live["endedAt"], live["completionStatus"]) == (None, None)
        await ended(running, session_id, 3)
        over = (await running.http.get(path)).json()
        check("SessionResponse", over)
        assert (over["botStartSeconds"], over["completionStatus"]) == (3, "HTTP_COMPLETED")
        assert over["updatedAt"] == over["endedAt"] > over["createdAt"]
        running.provider.fault = Rejected("no such image")
        await running.http.post("/start")
        (failed,) = await listed(running, "?state=failed")
        record = (await running.http.get(f"/v1/agents/echo/sessions/{failed}")).json()
        check("SessionResponse", record)
        assert record["completionStatus"] == "HTTP_ERROR"


async def test_starts_stops_and_errors_satisfy_pipecat_clouds_document(tmp_path):
    async with deployment(tmp_path, agents=agents()) as running:
        answer = await running.start(enableDefaultIceServers=True)
        check("StartResponse", answer)
        path = f"/v1/agents/echo/sessions/{answer['sessionId']}"
        check("StopResponse", (await running.http.delete(path)).json())
        for missing in (
            "/v1/agents/nobody/sessions",
            f"/v1/agents/echo/sessions/{uuid.uuid4()}",
            f"/v1/agents/other/sessions/{answer['sessionId']}",
        ):
            refused = await running.http.get(missing)
            assert refused.status_code == 404
            check("ErrorResponse", refused.json())
        refused = await running.http.get("/v1/agents/echo/sessions?status=bad_value")
        assert refused.status_code == 400
        check("ErrorResponse", refused.json())


def test_the_check_against_the_document_can_fail():
    with pytest.raises(Exception, match="is not of type 'integer'"):
        check("SessionResponse", {"botStartSeconds": "2"})
    with pytest.raises(Exception, match="is not a 'date-time'"):
        check("SessionResponse", {"createdAt": "yesterday"})
