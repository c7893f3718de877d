"""Starting sessions over HTTP."""

import asyncio
import json
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from bot import protocol
from dispatcher.domain.model import MachineState
from dispatcher.machines.provider import NoCapacity, QuotaReached, Rejected, Throttled
from dispatcher.settings import AgentSettings
from tests.dispatcher.harness import ScriptedProvider, deployment, eventually


def agents(**more) -> dict[str, AgentSettings]:
    return {
        "echo": AgentSettings(bot=Path("bot/agents/echo.py"), **more),
        "other": AgentSettings(bot=Path("bot/agents/voice.py")),
    }


async def test_the_answer_names_the_session_and_its_machine_was_asked_for(tmp_path):
    async with deployment(tmp_path) as running:
        started = await running.start()
        spec = running.provider.specs[f"m-{started['sessionId']}"]
        assert started.keys() == {"sessionId", "sessionToken", "fileUploadUrl"}
        assert spec.bot_file == "bot/agents/echo.py"
        assert (await running.session(started["sessionId"]))["state"] == "starting"


async def test_pipecat_clouds_path_starts_the_named_agent(tmp_path):
    async with deployment(tmp_path, agents=agents()) as running:
        started = await running.start("/v1/public/other/start", transport="webrtc")
        assert (await running.session(started["sessionId"]))["agent"] == "other"


async def test_default_ice_servers_come_on_request(tmp_path):
    async with deployment(tmp_path) as running:
        started = await running.start(enableDefaultIceServers=True)
        assert started["iceConfig"]["iceServers"][0]["urls"] == ["stun:stun.l.google.com:19302"]


async def test_configured_ice_servers_reach_the_client_and_the_bot(tmp_path):
    servers = [{"urls": ["turn:turn.example.com"], "username": "u", "credential": "c"}]

    async with deployment(tmp_path, ice_servers=servers) as running:
        started = await running.start()
        arguments = running.provider.specs[f"m-{started['sessionId']}"].arguments
        assert started["iceConfig"] == {"iceServers": servers}
        assert json.loads(arguments[arguments.index("--ice-servers") + 1]) == servers


async def test_a_small_body_travels_in_the_arguments_and_a_large_one_over_the_channel(tmp_path):
    async with deployment(tmp_path) as running:
        small = (await running.start(body={"name": "Ada"}))["sessionId"]
        arguments = running.provider.specs[f"m-{small}"].arguments
        assert '--body={"name":"Ada"}' in arguments

        body = {"text": "x" * protocol.MAX_ARGUMENT_BODY_BYTES}
        large = (await running.start(body=body))["sessionId"]
        spec = running.provider.specs[f"m-{large}"]
        assert "--session-id" not in spec.arguments
        machine = await running.connect(spec.id)
        assert isinstance(await machine.hello("idle"), protocol.Welcome)
        assign = await machine.receive()
        assert isinstance(assign, protocol.Assign)
        assert (assign.assignment.session_id, assign.assignment.body) == (large, body)


async def test_the_bot_sees_only_the_variables_that_its_agent_names(tmp_path):
    environment = {"OPENAI_API_KEY": "sk-1", "AWS_SECRET_ACCESS_KEY": "never"}

    named = agents(env=("OPENAI_API_KEY", "NOT_SET"))
    async with deployment(tmp_path, agents=named, environment=environment) as running:
        started = await running.start()
        seen = running.provider.specs[f"m-{started['sessionId']}"].whole_environment
        assert seen["OPENAI_API_KEY"] == "sk-1"
        assert seen.keys() == {"OPENAI_API_KEY", "SWITCHBOARD_LOG_LEVEL", protocol.MACHINE_TOKEN_VARIABLE}


@pytest.mark.parametrize(("level", "given"), [({}, "warning"), ({"log_level": "DEBUG"}, "DEBUG")])
async def test_machine_gets_the_level_of_its_agent_before_the_dispatchers(tmp_path, level, given):
    async with deployment(tmp_path, agents=agents(**level), log_level="warning") as running:
        started = await running.start()
        seen = running.provider.specs[f"m-{started['sessionId']}"].whole_environment
        assert seen["SWITCHBOARD_LOG_LEVEL"] == given


@pytest.mark.parametrize(
    ("path", "content", "status", "words"),
    [
        (
            "/start",
            b'{"transport": "daily"}',
            400,
            "transport 'daily' is not offered by echo; allowed: webrtc",
        ),
        ("/start", b'{"createDailyRoom": true}', 400, "transport 'daily' is not offered"),
        ("/start", b'{"enableDefaultIceServers": 1}', 400, "should be a valid boolean, not 1"),
        ("/start", b"{", 400, "Invalid JSON"),
        (
            "/start",
            b'{"createDailyRoom": "perhaps"}',
            400,
            "createDailyRoom: Input should be a valid boolean",
        ),
        ("/start", b'{"body": NaN}', 400, "NaN"),
        ("/start", b'{"body": {"deep": [-Infinity]}}', 400, "Infinity"),
        ("/start", b"[]", 400, "the request's body"),
        ("/start", b"null", 400, "the request's body: Input should be an object, not null"),
        ("/start?wait=long", b"{}", 400, "wait: Input should be 'none', 'started' or 'ready', not 'long'"),
        ("/v1/public/nobody/start", b"{}", 404, "There is no agent 'nobody'; allowed: echo."),
        ("/nowhere", b"", 404, "Not Found"),
    ],
)
async def test_bad_requests_are_told_what_is_allowed(tmp_path, path, content, status, words):
    async with deployment(tmp_path) as running:
        answer = await running.http.post(path, content=content)
        body = answer.json()
        assert answer.status_code == body["status"] == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert words in body["detail"]
        assert body["error"] == body["info"] == body["detail"]
        assert body["code"] == str(status)
        assert not running.provider.specs


@pytest.mark.parametrize("limit", [None, 1024 * 1024])
async def test_a_request_over_the_limit_is_refused_by_the_limits_name(tmp_path, limit):
    given = {} if limit is None else {"max_start_body_bytes": limit}
    allowed = limit or 65536

    async with deployment(tmp_path, **given) as running:
        declared = await running.http.post("/start", content=b"x" * (allowed + 1))

        async def chunks():
            for _ in range(allowed // 4096 + 1):
                yield b"x" * 4096

        undeclared = await running.http.post("/start", content=chunks())
        for answer in (declared, undeclared):
            assert answer.status_code == 413
            assert f"larger than {allowed} bytes" in answer.json()["detail"]
            assert "switchboard:maxStartBodyBytes" in answer.json()["detail"]
        just = b'{"body": {"text": "%s"}}'
        just %= b"x" * (allowed - len(just) + 2)
        assert len(just) == allowed
        session_id = (await running.http.post("/start", content=just)).json()["sessionId"]
        found = await running.dispatcher.service.get(session_id)
        assert len(found.body["text"]) > allowed - 100


async def test_nested_too_deep_is_no_request(tmp_path):
    async with deployment(tmp_path) as running:
        for depth in (300, 30_000):
            answer = await running.http.post(
                "/start", content=b'{"body": ' + b"[" * depth + b"]" * depth + b"}"
            )
            assert answer.status_code == 400
            assert "recursion limit exceeded" in answer.json()["detail"]
        assert not running.provider.specs


async def test_what_a_caller_gave_is_forgotten_when_its_session_ends(tmp_path):
    key = {"Idempotency-Key": "call-1"}
    async with deployment(tmp_path) as running:
        request = {"body": {"secret": "tell nobody"}}
        first = await running.http.post("/start", json=request, headers=key)
        session_id = first.json()["sessionId"]
        get = running.dispatcher.service.get
        assert (await get(session_id)).body == request["body"]
        await running.http.delete(f"/sessions/{session_id}")
        session = await get(session_id)
        assert (session.over, session.body, session.ice_servers) == (True, None, [])
        # The key stands for the same request all the same.
        again = await running.http.post("/start", json=request, headers=key)
        assert (again.status_code, again.json()) == (200, first.json())
        other = await running.http.post("/start", json={"body": {}}, headers=key)
        assert other.json()["code"] == "idempotency_key_reused"


async def test_an_empty_request_starts_the_default_agent(tmp_path):
    async with deployment(tmp_path, agents=agents(), default_agent="other") as running:
        answer = await running.http.post("/start")
        assert (await running.session(answer.json()["sessionId"]))["agent"] == "other"


async def test_capacity_is_never_exceeded_and_an_end_frees_it(tmp_path):
    async with deployment(tmp_path, agents=agents(max_sessions=3)) as running:
        answers = await asyncio.gather(*(running.http.post("/start") for _ in range(12)))
        started = [answer.json()["sessionId"] for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert (len(started), len(refused)) == (3, 9)
        assert refused[0].json()["code"] == "PCC-AGENT-AT-CAPACITY"
        assert int(refused[0].headers["retry-after"]) > 0
        # Another agent has lines of its own.
        assert (await running.http.post("/v1/public/other/start")).status_code == 200
        await running.http.delete(f"/sessions/{started[0]}")
        assert (await running.http.post("/start")).status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "code", "retry_after"),
    [
        (NoCapacity("zone is full"), 503, "no_capacity", "5"),
        (QuotaReached("6 vCPU"), 503, "quota_reached", "5"),
        (Throttled("rate exceeded", 60), 503, "throttled", "60"),
        (Throttled("rate exceeded", 61.2), 503, "throttled", "62"),
        (Rejected("no such image"), 502, "rejected", None),
    ],
)
async def test_a_machine_that_cannot_be_had_is_a_clear_answer_and_a_failed_session(
    tmp_path, fault, status, code, retry_after
):
    async with deployment(tmp_path) as running:
        running.provider.fault = fault
        answer = await running.http.post("/start")
        assert answer.status_code == status
        assert answer.json()["code"] == code
        assert answer.headers.get("retry-after") == retry_after
        assert not await running.dispatcher.store.live_sessions()
        await running.dispatcher.background.settle()
        assert not (await running.dispatcher.store.live_machines()).ids
        assert running.provider.stopped == [], "there was nothing to stop"


async def test_start_is_refused_without_a_session_when_the_machines_api_is_too_slow(tmp_path, caplog):
    async with deployment(tmp_path) as running:
        running.provider.fault = Throttled("rate exceeded", 60)
        assert (await running.http.post("/start")).status_code == 503
        running.provider.fault = None
        for _ in range(10):
            answer = await running.http.post("/start?wait=none", headers={"Idempotency-Key": "the-same"})
            assert (answer.status_code, answer.json()["code"]) == (503, "throttled")
            assert answer.headers["retry-after"] == "60"
        listed = (await running.http.get("/v1/sessions")).json()["sessions"]
        assert (len(listed), running.provider.asked) == (1, 1), "only the first was written and asked for"
        said = (await running.http.get("/metrics")).text
        counted = 'switchboard_starts_total{agent="echo",outcome="throttled",transport="webrtc"} 11.0'
        assert counted in said
        # A caller who accepts to wait does; others may once it is at most 5 s.
        assert await running.start("/start?wait=none&queue=60")
        running.clock.advance(55)
        headers = {"Idempotency-Key": "the-same"}
        assert (await running.http.post("/start?wait=none", headers=headers)).status_code == 200
    told = [one.getMessage() for one in caplog.records if "throttled" in one.getMessage()]
    assert len(told) == 1, told


async def test_an_agent_says_how_long_its_starts_may_wait_for_a_machines_api(tmp_path):
    async with deployment(tmp_path, agents=agents(max_start_delay_seconds=20)) as running:
        running.provider.fault = Throttled("rate exceeded", 60)
        await running.http.post("/start")
        running.provider.fault = None
        running.clock.advance(39)
        assert (await running.http.post("/start?wait=none")).status_code == 503
        running.clock.advance(1)
        assert (await running.http.post("/start?wait=none")).status_code == 200


async def test_who_repeats_a_start_that_failed_is_not_told_to_repeat_it_again(tmp_path):
    """Its key stands for the failed session, at any replica: only a new key can help."""

    headers = {"Idempotency-Key": "the-same"}
    async with deployment(tmp_path) as running:
        running.provider.fault = Throttled("rate exceeded", 60)
        first = await running.http.post("/start", headers=headers)
        assert (first.status_code, first.headers["retry-after"]) == (503, "60")
        now = running.clock.now()
    async with deployment(tmp_path) as running:
        running.clock.advance(now + 20 - running.clock.now())
        again = await running.http.post("/start", headers=headers)
        assert (again.status_code, again.json()["code"]) == (502, "throttled")
        assert "retry-after" not in again.headers
        assert "new Idempotency-Key" in again.json()["detail"]


async def test_the_next_placement_gives_the_machine_and_its_row_says_where_it_is(tmp_path):
    second = ScriptedProvider()
    async with deployment(tmp_path, second=second) as running:
        running.provider.fault = NoCapacity("zone is full")
        session_id = (await running.start())["sessionId"]
        machine = await running.dispatcher.store.machine(f"m-{session_id}")
        assert machine is not None
        assert machine.placement == "second"
        assert second.running == [machine.id]
        await running.http.delete(f"/sessions/{session_id}")
        await running.dispatcher.background.settle()
        assert second.running == []
        gone = await running.dispatcher.store.machine(machine.id)
        assert gone is not None
        assert (gone.state, gone.exit_code) == (MachineState.gone, 143)
        assert running.provider.stopped == [], "it was never there"


async def test_the_row_says_where_a_machine_will_be_asked_for_before_anybody_is(tmp_path):
    seen = []

    class Looks(ScriptedProvider):
        async def create(self, spec):
            machine = await running.dispatcher.store.machine(spec.id)
            seen.append(machine.placement if machine else None)
            return await super().create(spec)

    first = Looks()
    first.fault = NoCapacity("zone is full")
    async with deployment(tmp_path, provider=first, second=Looks()) as running:
        await running.start()
    assert seen == ["scripted", "second"]


async def test_with_no_machine_anywhere_the_detail_has_the_words_of_each_placement(tmp_path):
    second = ScriptedProvider()
    second.fault = QuotaReached("6 of 6 vCPU")
    async with deployment(tmp_path, second=second) as running:
        running.provider.fault = NoCapacity("the zone is full")
        started = await running.http.post("/start?wait=none")
        failed = await running.until(started.json()["sessionId"], "failed")
        assert failed["reason"] == "no_capacity"
        assert failed["detail"] == "scripted: the zone is full; second: 6 of 6 vCPU"


async def test_a_machines_api_that_never_answers_is_told_before_the_start_timeout(tmp_path):
    async with deployment(tmp_path, agents=agents(start_timeout_seconds=10)) as running:
        running.provider.gate = asyncio.Event()
        session_id = (await running.http.post("/start?wait=none")).json()["sessionId"]
        await eventually(lambda: asyncio.sleep(0, running.provider.asked), lambda asked: asked == 1)
        running.clock.advance(9.5)
        failed = await running.until(session_id, "failed")
        assert failed["reason"] == "unreachable"
        assert "scripted: no answer within 9 s" in failed["detail"]


async def test_waiting_for_nothing_answers_before_the_machine_is_there(tmp_path):
    async with deployment(tmp_path) as running:
        running.provider.gate = asyncio.Event()
        answer = await running.http.post("/start?wait=none")
        session = await running.session(answer.json()["sessionId"])
        assert session["startedAt"] is None
        running.provider.gate.set()


@pytest.mark.parametrize("wait", ["started", "ready"])
async def test_who_waits_for_a_session_that_is_stopped_meanwhile_gets_none(tmp_path, wait):
    async with deployment(tmp_path) as running:
        running.provider.gate = asyncio.Event()
        starting = asyncio.create_task(running.http.post(f"/start?wait={wait}"))
        listed = await eventually(
            lambda: running.http.get("/v1/sessions"), lambda got: got.json()["sessions"]
        )
        session_id = listed.json()["sessions"][0]["sessionId"]
        await running.http.delete(f"/sessions/{session_id}")
        answer = await starting
        assert (answer.status_code, answer.json()["code"]) == (410, "session_over")
        assert "stopped" in answer.json()["detail"]
        running.provider.gate.set()


async def test_a_session_that_is_stopped_while_its_machine_is_created_leaves_no_machine(tmp_path):
    async with deployment(tmp_path) as running:
        running.provider.gate = asyncio.Event()
        session_id = (await running.http.post("/start?wait=none")).json()["sessionId"]
        await running.http.delete(f"/sessions/{session_id}")
        running.provider.gate.set()
        await running.dispatcher.background.settle()
        assert list(running.provider.specs) == [f"m-{session_id}"]
        assert running.provider.running == []


async def test_a_body_that_begins_like_an_option_arrives(tmp_path):
    async with deployment(tmp_path) as running:
        started = await running.start(body=-1e22)
        assert "--body=-1e+22" in running.provider.specs[f"m-{started['sessionId']}"].arguments


async def test_a_fault_that_nobody_thought_of_fails_the_session_at_once(tmp_path):
    async with deployment(tmp_path) as running:
        running.provider.fault = ZeroDivisionError("a bug")
        answer = await running.http.post("/start")
        assert (answer.status_code, answer.json()["code"]) == (502, "internal_error")
        assert await running.dispatcher.store.live_sessions() == []


async def test_a_store_that_fails_is_503_with_a_retry(tmp_path, monkeypatch):
    async def fail(*_):
        raise OperationalError("SELECT", {}, Exception("unable to open database file"))

    async with deployment(tmp_path) as running:
        store = running.dispatcher.store
        monkeypatch.setattr(store.writes, "add", fail)
        for name in ("session", "ping"):
            monkeypatch.setattr(store, name, fail)
        for method, path in (("POST", "/start"), ("GET", "/sessions/x"), ("GET", "/readyz")):
            answer = await running.http.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (503, "store_down")
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("settings", "url"),
    [({}, "http://127.0.0.1:"), ({"machine_url": "https://machines.example/"}, "https://machines.example")],
)
async def test_machines_are_told_where_they_find_a_dispatcher(tmp_path, settings, url):
    async with deployment(tmp_path, **settings) as running:
        session_id = (await running.start())["sessionId"]
        arguments = running.provider.specs[f"m-{session_id}"].arguments
        told = arguments[arguments.index("--dispatcher") + 1]
        assert told.startswith(url)
        assert not told.endswith("/")
