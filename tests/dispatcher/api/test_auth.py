"""Authentication over HTTP: keys, tokens, hosts and origins."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bot.protocol import CHANNEL_PATH, MACHINE_TOKEN_VARIABLE
from dispatcher.keys import KeyScope, KeySettings, hash_of, new_key
from dispatcher.settings import AgentSettings
from tests.dispatcher.harness import START_OF_TIME, Deployment, deployment


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:9000"}, 200),
        ({"Host": "[::1]:9000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, 200),
        ({"Host": "localhost:9000", "Origin": "http://localhost:5173"}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({"Origin": "https://127.0.0.1:8443"}, 200),
        ({"Origin": "http://[::1]:5173"}, 200),
        ({"Host": "evil.example", "Origin": "http://localhost:5173"}, 403),
        ({"Origin": "http://localhost.evil.example:5173"}, 403),
        ({"Origin": "http://127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://localhost@evil.example"}, 403),
        ({"Origin": "http://evil.example@localhost"}, 403),
        ({"Origin": "file://localhost"}, 403),
        ({"Origin": "http://192.168.1.20:5173"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:5173.evil.example"}, 403),
        ({"Origin": "http://localhost:99999"}, 403),
        ({"Host": "localhost:5173.evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "a[b]c"}, 403),
        ({"Origin": "http://["}, 403),
        ([("Host", "a:1"), ("Origin", "http://a:1"), ("Origin", "http://evil.example")], 403),
    ],
)
async def test_only_our_own_names_and_our_own_pages_may_call(open_dispatcher, headers, status):
    before = len(open_dispatcher.provider.specs)
    for path in ("/start", "/sessions/x/api/offer"):
        answer = await open_dispatcher.http.post(path, headers=headers)
        assert (answer.status_code == 403) == (status == 403)
    assert (len(open_dispatcher.provider.specs) > before) == (status == 200)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "host.docker.internal:7860"}, 200),
        ({"Host": "a-tunnel.example", "Origin": "https://a-tunnel.example"}, 200),
        ({"Host": "another.a-tunnel.example"}, 403),
        ({"Origin": "http://192.168.1.20:5173"}, 200),
        ({"Host": "a-tunnel.example", "Origin": "http://192.168.1.20:5173"}, 200),
        ({"Origin": "http://192.168.1.20:5174"}, 403),
        ({"Origin": "http://a-tunnel.example"}, 403),
    ],
)
async def test_named_hosts_and_origins_may_call_without_a_key(tmp_path, headers, status):
    named = {
        "allowed_hosts": ("host.docker.internal", "a-tunnel.example"),
        "allowed_origins": ("http://192.168.1.20:5173",),
    }
    async with deployment(tmp_path, **named) as running:
        answer = await running.http.post("/start", headers=headers)
        assert answer.status_code == status
        assert bool(running.provider.specs) == (status == 200)


async def test_with_keys_pages_of_this_machine_need_a_keys_origins(tmp_path):
    async with keyed(tmp_path) as running:
        headers = {"Origin": "http://localhost:5173", **bearer("page")}
        assert (await running.http.post("/start", headers=headers)).status_code == 403


async def test_a_named_host_is_one_for_pages_with_a_key_too(tmp_path):
    async with keyed(tmp_path, allowed_hosts=("voice.example",)) as running:
        for host, status in (("voice.example", 200), ("evil.example", 403)):
            headers = {"Host": host, "Origin": f"https://{host}", **bearer("page")}
            assert (await running.http.post("/start", headers=headers)).status_code == status


async def test_a_request_has_one_host(tmp_path):
    async with deployment(tmp_path) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(running.url).port)
        # No client library sends this.
        lines = ["POST /start HTTP/1.1", "Host: localhost:1", "Host: evil.example", "Connection: close"]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"Host: allowed is one, not 2." in answer
        assert not running.provider.specs


@pytest.mark.parametrize(
    "host", ["voice.example.com", "machines.internal:7860", "10.1.2.3:7860", "pod-1:7860"]
)
async def test_behind_a_load_balancer_programs_call_under_any_name(tmp_path, host):
    urls = {"public_url": "https://voice.example.com", "machine_url": "http://machines.internal:7860"}
    async with keyed(tmp_path, host="10.1.2.3", **urls) as running:
        assert (await running.http.get("/healthz", headers={"Host": host})).status_code == 200
        metrics = await running.http.get("/metrics", headers={"Host": host, **bearer("reader")})
        assert metrics.status_code == 200
        # A machine is let in as far as its hello.
        here = {"host": "127.0.0.1", "port": httpx.URL(running.url).port}
        async with connect(f"ws://{host}{CHANNEL_PATH}", **here, proxy=None):
            pass


async def test_without_keys_machines_call_under_the_name_that_they_were_told(tmp_path):
    async with deployment(tmp_path, machine_url="http://machines.internal:7860") as running:
        for host, status in (("machines.internal:7860", 200), ("10.1.2.3:7860", 403)):
            assert (await running.http.get("/healthz", headers={"Host": host})).status_code == status


async def test_behind_a_load_balancer_pages_call_under_our_names_alone(tmp_path):
    async with keyed(tmp_path, host="10.1.2.3", public_url="https://voice.example.com") as running:
        for host, status in (("voice.example.com", 200), ("evil.example", 403)):
            headers = {"Host": host, "Origin": f"https://{host}", **bearer("page")}
            answer = await running.http.get("/v1/agents", headers=headers)
            assert answer.status_code == status


async def test_another_page_cannot_open_a_channel(tmp_path):
    async with deployment(tmp_path) as running:
        url = running.url.replace("http", "ws") + CHANNEL_PATH
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url, additional_headers={"Origin": "https://evil.example"}, proxy=None):
                pass
        assert refused.value.response.status_code == 403


@pytest.fixture(scope="module")
async def open_dispatcher(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    """A dispatcher without keys, for tests that compare what was started before and after."""
    agents = {"echo": AgentSettings(bot=Path("bot/agents/echo.py"), max_sessions=1000)}
    async with deployment(tmp_path_factory.mktemp("open"), agents=agents) as running:
        yield running


SECRETS = {name: new_key(public=name == "page") for name in ("page", "backend", "reader", "root")}
SITE, OTHER_SITE = "https://app.example.com", "https://other.example.com"


def entry(name: str, scope: KeyScope, key: str | None = None, **more: Any) -> KeySettings:
    """The settings' entry of a key, by default of that in `SECRETS`."""
    return KeySettings(name=name, hash=hash_of(key or SECRETS[name]), scope=scope, **more)


KEYS = (
    entry("page", "start", origins=(SITE,)),
    entry("backend", "start", agents=("echo",)),
    entry("reader", "read"),
    entry("root", "admin"),
)


def agents() -> dict[str, AgentSettings]:
    return {name: AgentSettings(bot=Path("bot/agents/echo.py")) for name in ("echo", "other")}


def keyed(tmp_path: Path, *keys: KeySettings, **more: Any):
    """A dispatcher with two agents and these keys."""
    return deployment(tmp_path, agents=agents(), keys=keys or KEYS, **more)


@pytest.fixture(scope="module")
async def keyed_dispatcher(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    """A dispatcher with keys, for tests that start nothing there."""
    async with keyed(tmp_path_factory.mktemp("keyed")) as running:
        yield running


def bearer(name_or_key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRETS.get(name_or_key, name_or_key)}"}


async def start(running: Deployment, who: str, agent: str = "echo", **headers: str) -> dict[str, Any]:
    answer = await running.http.post(f"/v1/public/{agent}/start", headers=bearer(who) | headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_of_two_keys_none_is_taken(tmp_path):
    async with keyed(tmp_path) as running:
        headers = [*bearer("root").items(), *bearer("wrong").items()]
        answer = await running.http.post("/start", headers=headers)
        assert answer.status_code == 400
        assert "Authorization: allowed is one, not 2" in answer.json()["detail"]


@pytest.mark.parametrize(
    "given",
    [
        None,
        "Bearer",
        "Bearer wrong",
        f"Basic {SECRETS['root']}",
        f"Bearer {SECRETS['root']}x",
        f"Bearer {SECRETS['root'][3:]}",
        f"Bearer {hash_of(SECRETS['root'])}",
        "Bearer \xe9",
        "Bearer a.b.c",
    ],
    # The keys are new in every process.
    ids=["none", "empty", "wrong", "basic", "longer", "beginning cut off", "its hash", "latin-1", "no token"],
)
async def test_with_keys_a_call_without_one_is_refused(keyed_dispatcher, given):
    headers = {"Authorization": given.encode("latin-1")} if given else {}
    calls = [("POST", "/start"), ("GET", "/sessions/x"), ("GET", "/v1/agents"), ("GET", "/no/route")]
    for method, path in (*calls, ("POST", "/sessions/x/api/offer"), ("OPTIONS", "/sessions/x/y")):
        answer = await keyed_dispatcher.http.request(method, path, headers=headers)
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["code"] == "401"
        assert not any(secret in answer.text for secret in SECRETS.values())
    assert not keyed_dispatcher.provider.specs


async def test_with_keys_health_needs_none(tmp_path):
    async with keyed(tmp_path) as running:
        for path in ("/healthz", "/readyz"):
            assert (await running.http.get(path)).json() == {"status": "ok"}
            head = await running.http.head(path)
            assert (head.status_code, head.content) == (200, b"")


async def test_both_keys_of_a_name_open_until_the_old_one_expires(tmp_path):
    old, new = new_key(public=False), new_key(public=False)
    turn = datetime.fromtimestamp(START_OF_TIME + 60, UTC)

    both = (entry("backend", "start", old, expires_at=turn), entry("backend", "start", new))
    async with keyed(tmp_path, *both) as running:
        session = (await start(running, old))["sessionId"]
        assert (await running.http.get(f"/sessions/{session}", headers=bearer(new))).status_code == 200
        running.clock.advance(59.9)
        assert (await running.http.get(f"/sessions/{session}", headers=bearer(old))).status_code == 200
        running.clock.advance(0.1)
        expired = await running.http.get(f"/sessions/{session}", headers=bearer(old))
        assert (expired.status_code, expired.json()["detail"]) == (401, "The key 'backend' has expired.")
        assert expired.json()["code"] == "key_expired"
        assert (await running.http.get(f"/sessions/{session}", headers=bearer(new))).status_code == 200


async def test_a_key_is_good_for_its_agents_alone(tmp_path):
    async with keyed(tmp_path, default_agent="other") as running:
        for path in ("/v1/public/other/start", "/start"):
            refused = await running.http.post(path, headers=bearer("backend"))
            assert refused.status_code == 403
            assert (
                refused.json()["detail"] == "The key 'backend' is not valid for agent other; allowed: echo."
            )
        assert not running.provider.specs
        await start(running, "backend", "echo")
        listed = (await running.http.get("/v1/agents", headers=bearer("backend"))).json()
        assert [agent["name"] for agent in listed["agents"]] == ["echo"]
        assert listed["defaultAgent"] is None
        listed = (await running.http.get("/v1/agents", headers=bearer("reader"))).json()
        assert [agent["name"] for agent in listed["agents"]] == ["echo", "other"]


async def test_lists_have_the_sessions_of_the_keys_agents_alone(tmp_path):
    limited = new_key(public=False)

    async with keyed(tmp_path, *KEYS, entry("limited", "read", limited, agents=("echo",))) as running:
        echo = [(await start(running, "root", "echo"))["sessionId"] for _ in range(3)]
        other = [(await start(running, "root", "other"))["sessionId"] for _ in range(3)]

        async def listed(who: str, query: str = "") -> set[str]:
            answer = await running.http.get(f"/v1/sessions{query}", headers=bearer(who))
            return {session["sessionId"] for session in answer.json()["sessions"]}

        assert await listed("reader") == {*echo, *other}
        assert await listed(limited) == set(echo)
        assert len(await listed(limited, "?limit=2")) == 2, "the page is filled with what may be seen"
        assert await listed(limited, "?agent=other") == set()
        for path, status in (("echo", 200), ("other", 403)):
            answer = await running.http.get(f"/v1/agents/{path}/sessions", headers=bearer(limited))
            assert answer.status_code == status
        for session, status in ((echo[0], 200), (other[0], 404)):
            for path in (f"/sessions/{session}", f"/v1/sessions/{session}/events"):
                assert (await running.http.get(path, headers=bearer(limited))).status_code == status


ALL = {"list": 200, "show": 200, "follow": 200, "call": 410, "stop": 200, "start": 200}


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ("root", ALL),
        ("reader", ALL | {"call": 403, "stop": 403, "start": 403}),
        ("page", ALL | {"list": 403}),
        ("backend", {"list": 403, "show": 404, "follow": 404, "call": 404, "stop": 404, "start": 200}),
        ("token", ALL | {"list": 403, "start": 403}),
        ("other token", dict.fromkeys(ALL, 403)),
    ],
)
async def test_what_each_may_do_with_a_session_of_the_pages_key(tmp_path, who, expected):
    async with keyed(tmp_path) as running:
        session = await start(running, "page")
        await running.http.delete(f"/sessions/{session['sessionId']}", headers=bearer("root"))
        tokens = {
            "token": session["sessionToken"],
            "other token": (await start(running, "page"))["sessionToken"],
        }
        headers = bearer(tokens.get(who, who))
        path = f"/sessions/{session['sessionId']}"
        calls = {
            "list": ("GET", "/v1/sessions"),
            "show": ("GET", path),
            "follow": ("GET", f"/v1{path}/events"),
            "call": ("POST", f"{path}/api/offer"),
            "stop": ("DELETE", path),
            "start": ("POST", "/start"),
        }
        found = {
            action: (await running.http.request(*call, headers=headers)).status_code
            for action, call in calls.items()
        }
        assert found == expected
        if expected["show"] == 404:
            hidden = await running.http.get(path, headers=headers)
            unknown = await running.http.get("/sessions/x", headers=headers)
            assert hidden.text.replace(session["sessionId"], "x") == unknown.text
        for by_agent in (f"/v1/agents/echo{path}", f"/v1/public/echo{path}/api/offer"):
            allowed = expected["show" if by_agent.endswith(session["sessionId"]) else "call"]
            method = "GET" if by_agent.endswith(session["sessionId"]) else "POST"
            answer = await running.http.request(method, by_agent, headers=headers)
            assert answer.status_code == allowed


async def test_a_sessions_token_is_good_until_its_deadline(tmp_path):
    async with keyed(tmp_path) as running:
        started = await start(running, "page")
        path, headers = f"/sessions/{started['sessionId']}", bearer(started["sessionToken"])
        running.clock.advance(7200 + 300)
        assert (await running.http.get(path, headers=headers)).status_code == 200
        running.clock.advance(1)
        assert (await running.http.get(path, headers=headers)).status_code == 401


async def test_a_sessions_token_opens_no_channel(tmp_path):
    async with keyed(tmp_path) as running:
        token = (await start(running, "page"))["sessionToken"]
        url = running.url.replace("http", "ws") + CHANNEL_PATH
        async with connect(url, additional_headers=bearer(token), proxy=None) as channel:
            with pytest.raises(ConnectionClosed) as closed:
                await channel.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


async def test_a_machines_token_is_good_for_nothing_but_its_channel(tmp_path):
    async with keyed(tmp_path) as running:
        session = (await start(running, "page"))["sessionId"]
        (spec,) = running.provider.specs.values()
        headers = bearer(spec.environment[MACHINE_TOKEN_VARIABLE])
        for method, path in (("GET", f"/sessions/{session}"), ("POST", "/start")):
            assert (await running.http.request(method, path, headers=headers)).status_code == 401


async def test_an_address_of_machines_opens_a_channel_and_nothing_else(tmp_path):
    async with deployment(tmp_path, machine_networks=("127.0.0.2/32",)) as running:
        bound = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        async with httpx.AsyncClient(base_url=running.url, transport=bound) as machine:
            for path in ("/start", "/v1/agents", "/healthz", "/", CHANNEL_PATH):
                answer = await machine.get(path)
                words = "A machine may open its channel here, and nothing else."
                assert (answer.status_code, answer.json()["detail"]) == (403, words)
        assert (await running.http.get("/healthz")).status_code == 200
        url = running.url.replace("http", "ws") + CHANNEL_PATH
        headers = bearer("page")
        async with connect(url, additional_headers=headers, proxy=None, local_addr=("127.0.0.2", 0)) as it:
            # The channel itself says so, and not the gate before it.
            with pytest.raises(ConnectionClosed) as closed:
                await it.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


async def test_only_timelines_take_a_token_from_the_url_and_never_a_key(tmp_path):
    async with keyed(tmp_path) as running:
        session, token, _ = (await start(running, "page")).values()
        events = f"/v1/sessions/{session}/events"
        assert (await running.http.get(f"{events}?after=0&token={token}")).json()["sessionId"] == session
        for refused in (
            f"/sessions/{session}?token={token}",
            f"/sessions/{session}/status?token={token}",
            f"{events}?token={SECRETS['root']}",
            f"{events}?token=",
        ):
            assert (await running.http.get(refused)).status_code == 401, refused


async def test_timelines_say_which_key_it_was(tmp_path):
    async with keyed(tmp_path) as running:
        session, token, _ = (await start(running, "page")).values()
        await running.http.delete(f"/sessions/{session}", headers=bearer("root"))
        events = (await running.http.get(f"/v1/sessions/{session}/events", headers=bearer(token))).json()
        by = {event["event"]: event["by"] for event in events["events"]}
        assert (by["queued"], by["stop-requested"]) == ("page", "root")


async def test_an_idempotency_key_is_the_callers_own(tmp_path):
    async with keyed(tmp_path) as running:
        same = {"Idempotency-Key": "8c7e2f9a-3b1d-4c5e-9f60-1a2b3c4d5e6f"}
        first = await start(running, "page", **same)
        assert await start(running, "page", **same) == first
        assert (await start(running, "backend", **same))["sessionId"] != first["sessionId"]
