"""Calls from pages of other sites."""

import asyncio

import pytest

from tests.dispatcher.api.test_auth import (
    OTHER_SITE,
    SECRETS,
    SITE,
    bearer,
    entry,
    keyed,
    keyed_dispatcher,
    open_dispatcher,
    start,
)
from tests.dispatcher.harness import deployment

__all__ = ["keyed_dispatcher", "open_dispatcher"]

ASKS = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


@pytest.mark.parametrize(
    ("origin", "method", "path", "status"),
    [
        (SITE, "POST", "/start", 204),
        (SITE, "POST", "/v1/public/echo/start", 204),
        (SITE, "PATCH", "/sessions/x/api/offer", 204),
        (SITE, "DELETE", "/sessions/x", 204),
        (SITE, "GET", "/v1/sessions/x/events", 204),
        (SITE, "GET", "/v1/agents", 204),
        (SITE, "GET", "/v1/sessions", 403),
        (SITE, "GET", "/metrics", 403),
        (SITE, "BREW", "/start", 403),
        (OTHER_SITE, "POST", "/start", 403),
        ("null", "POST", "/start", 403),
    ],
)
async def test_a_preflight_is_answered_for_the_sites_of_public_keys(
    keyed_dispatcher, origin, method, path, status
):
    headers = ASKS | {"Origin": origin, "Access-Control-Request-Method": method}
    answer = await keyed_dispatcher.http.options(path, headers=headers)
    assert answer.status_code == status
    if status != 204:
        assert "access-control-allow-origin" not in answer.headers
        return
    assert answer.headers["access-control-allow-origin"] == origin
    assert method in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
    assert "Origin" in answer.headers["vary"].split(", ")


@pytest.mark.parametrize(
    ("origin", "method", "path", "status"),
    [
        ("http://localhost:5173", "POST", "/start", 204),
        ("http://127.0.0.1:3000", "PATCH", "/sessions/x/api/offer", 204),
        ("https://[::1]:5173", "POST", "/sessions/x/files", 204),
        ("http://localhost:5173", "GET", "/v1/sessions", 403),
        ("http://localhost:5173", "GET", "/metrics", 403),
        (SITE, "POST", "/start", 403),
        ("null", "POST", "/start", 403),
    ],
)
async def test_without_keys_a_preflight_is_answered_for_pages_of_this_machine(
    open_dispatcher, origin, method, path, status
):
    headers = ASKS | {"Origin": origin, "Access-Control-Request-Method": method}
    answer = await open_dispatcher.http.options(path, headers=headers)
    assert answer.status_code == status
    assert answer.headers.get("access-control-allow-origin") == (origin if status == 204 else None)


async def test_without_keys_a_page_of_this_machine_reads_its_answers(tmp_path):
    async with deployment(tmp_path) as running:
        page = await running.http.post("/start", headers={"Origin": "http://localhost:5173"})
        assert page.status_code == 200
        assert page.headers["access-control-allow-origin"] == "http://localhost:5173"
        own = await running.http.post("/start", headers={"Origin": running.url})
        assert own.status_code == 200
        assert "access-control-allow-origin" not in own.headers
        # A cache must not give one page's answer to another's.
        assert page.headers["vary"] == own.headers["vary"] == "Origin"


async def test_without_public_keys_no_other_site_is_answered(tmp_path):
    keys = (entry("backend", "start"),)
    async with deployment(tmp_path, keys=keys, key=SECRETS["backend"]) as running:
        answer = await running.http.options("/start", headers=ASKS | {"Origin": SITE})
        assert answer.status_code == 403
        own = await running.http.post("/start", headers={"Origin": running.url})
        assert own.status_code == 200
        assert "vary" not in own.headers


async def test_a_page_of_the_keys_site_can_start_and_read_the_answer_and_the_refusals(tmp_path):
    async with keyed(tmp_path) as running:
        started = await running.http.post("/start", headers=bearer("page") | {"Origin": SITE})
        assert started.status_code == 200
        refused = await running.http.post("/start", headers=bearer("wrong") | {"Origin": SITE})
        assert refused.status_code == 401
        unknown = await running.http.get("/sessions/x", headers=bearer("page") | {"Origin": SITE})
        assert unknown.status_code == 404
        for answer in (started, refused, unknown):
            assert answer.headers["access-control-allow-origin"] == SITE
            assert answer.headers["access-control-expose-headers"] == "*"
            assert answer.headers["vary"] == "Origin"
            assert "access-control-allow-credentials" not in answer.headers
        same_site = await running.http.post("/start", headers=bearer("page"))
        assert same_site.headers["vary"] == "Origin", "caches must keep the two apart"
        assert "access-control-allow-origin" not in same_site.headers


async def test_keys_are_used_from_their_own_sites_alone(tmp_path):
    async with keyed(tmp_path) as running:
        for who, origin in (("root", SITE), ("backend", SITE), ("page", OTHER_SITE)):
            answer = await running.http.post("/start", headers=bearer(who) | {"Origin": origin})
            assert answer.status_code == 403
        assert not running.provider.specs


async def test_a_page_can_go_on_with_a_session_that_a_backend_started(tmp_path):
    async with keyed(tmp_path) as running:
        session, token, _ = (await start(running, "backend")).values()
        headers = bearer(token) | {"Origin": SITE}
        answer = await running.http.get(f"/sessions/{session}", headers=headers)
        assert answer.headers["access-control-allow-origin"] == SITE
        stream = await running.http.get(
            f"/v1/sessions/{session}/events?token={token}", headers={"Origin": SITE}
        )
        assert stream.json()["sessionId"] == session
        assert stream.headers["access-control-allow-origin"] == SITE
        assert stream.headers["vary"] == "Accept, Origin"


async def test_what_a_bot_says_of_origins_is_not_passed_on(tmp_path):
    async with keyed(tmp_path) as running:
        session, token, _ = (await start(running, "page")).values()
        machine = await running.machine_of(session)
        await machine.hello("waiting")
        call = asyncio.create_task(
            running.http.get(f"/sessions/{session}/status", headers=bearer(token) | {"Origin": SITE})
        )
        headers = {"Access-Control-Allow-Origin": "*", "X-Mine": "1"}
        await machine.answer({"fine": True}, 200, **headers)
        answer = await call
        assert answer.headers.get_list("access-control-allow-origin") == [SITE]
        assert answer.headers["x-mine"] == "1"
