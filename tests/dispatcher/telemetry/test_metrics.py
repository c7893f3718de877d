"""The metrics, as Prometheus gets them."""

import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from sqlalchemy.exc import OperationalError

from bot import protocol
from dispatcher.keys import KeySettings, hash_of, new_key
from dispatcher.machines.provider import NoCapacity
from dispatcher.store.store import Store
from dispatcher.telemetry.metrics import Metrics
from dispatcher.telemetry.scrape import CACHE_SECONDS
from dispatcher.version import VERSION
from tests.dispatcher.harness import ScriptedMachine, ScriptedProvider, deployment, eventually
from tests.dispatcher.telemetry.exposition import scrape

ECHO = {"agent": "echo", "transport": "webrtc"}
KEY = new_key(public=False)


async def talk(machine: ScriptedMachine, running, session_id: str) -> None:
    """A start that takes 2 s to boot, 1 s to its pipeline, and half a second to its client."""
    running.clock.advance(2)
    await machine.hello("waiting")
    await running.in_phase(session_id, "waiting")
    running.clock.advance(1)
    await machine.send(protocol.Ready(timings=protocol.Timings()))
    await running.until(session_id, "ready")
    running.clock.advance(0.5)
    await machine.send(protocol.ClientConnected(timings=protocol.Timings()))
    await machine.send(protocol.Latency(kind="first_word", milliseconds=350))
    await machine.send(protocol.Latency(kind="turn", milliseconds=700))
    await machine.send(protocol.Latency(kind="turn", milliseconds=900))
    await eventually(lambda: running.session(session_id), lambda found: len(found["latency"]["turnMs"]) == 2)


async def test_a_whole_call_is_measured(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await talk(machine, running, session_id)
        shown = await scrape(running)
        assert shown.value("switchboard_starts_total", **ECHO) == 1
        assert shown.value("switchboard_starts_total", **ECHO, outcome="ok") == 1
        assert shown.value("switchboard_start_seconds_sum", **ECHO) == pytest.approx(3)
        for phase, seconds in [
            ("queued", 0),
            ("machine", 0),
            ("boot", 2),
            ("pipeline", 1),
            ("client", 0.5),
        ]:
            of = {**ECHO, "phase": phase}
            assert shown.value("switchboard_start_phase_seconds_count", **of) == 1, phase
            assert shown.value("switchboard_start_phase_seconds_sum", **of) == pytest.approx(seconds), phase
        assert shown.value("switchboard_first_word_seconds_sum", **ECHO) == pytest.approx(0.35)
        assert shown.value("switchboard_turn_latency_seconds_count", **ECHO) == 2
        assert shown.value("switchboard_turn_latency_seconds_sum", **ECHO) == pytest.approx(1.6)
        assert shown.value("switchboard_sessions", agent="echo", state="active") == 1
        assert shown.value("switchboard_sessions", agent="echo", state="queued") == 0
        assert shown.value("switchboard_machines", placement="scripted", state="started") == 1
        assert shown.value("switchboard_channels") == 1
        assert shown.value("switchboard_store_up") == 1
        assert shown.value("switchboard_session_duration_seconds_count", **ECHO) is None

        running.clock.advance(60)
        await machine.send(protocol.Ended(reason="completed", message="Bye."))
        await running.until(session_id, "ended")
        shown = await scrape(running)
        assert shown.value("switchboard_sessions_ended_total", **ECHO, reason="completed") == 1
        assert shown.value("switchboard_session_duration_seconds_sum", **ECHO) == pytest.approx(60.5)
        assert shown.value("switchboard_starts_total", **ECHO) == 1
        assert shown.value("switchboard_sessions", agent="echo", state="active") == 0


async def test_starts_that_fail_and_starts_that_are_refused_count_by_their_outcome(tmp_path):
    provider = ScriptedProvider()
    agents = {"echo": {"bot": "bot/agents/echo.py", "max_sessions": 1}}
    async with deployment(tmp_path, provider=provider, agents=agents) as running:
        provider.fault = NoCapacity("full")
        assert (await running.http.post("/start")).status_code == 503
        provider.fault = None
        await running.start()
        assert (await running.http.post("/start")).status_code == 429
        for path in ("/v1/public/nobody-1/start", "/v1/public/nobody-2/start"):
            assert (await running.http.post(path)).status_code == 404
        assert (await running.http.post("/start", json={"transport": "pigeon"})).status_code == 400
        shown = await scrape(running)
        outcomes = {
            (sample.labels["agent"], sample.labels["transport"], sample.labels["outcome"]): sample.value
            for sample in shown.samples
            if sample.name == "switchboard_starts_total"
        }
        assert outcomes == {
            ("echo", "webrtc", "no_capacity"): 1,
            ("echo", "webrtc", "at_capacity"): 1,
            ("echo", "", "invalid"): 1,
            ("", "", "unknown_agent"): 2,
        }
        create = {"placement": "scripted", "action": "create"}
        calls = "switchboard_provider_call_seconds_count"
        assert shown.value(calls, **create, outcome="ok") == 1
        assert shown.value(calls, **create, outcome="no_capacity") == 1


async def test_what_lives_is_right_after_a_restart(tmp_path):
    provider = ScriptedProvider()
    async with deployment(tmp_path, provider=provider) as running:
        await running.start()
        assert (await scrape(running)).value("switchboard_sessions", agent="echo", state="starting") == 1
    async with deployment(tmp_path, provider=provider) as running:
        shown = await scrape(running)
        assert shown.value("switchboard_sessions", agent="echo", state="starting") == 1
        assert shown.value("switchboard_starts_total", **ECHO) is None


async def test_many_scrapers_cost_one_count(tmp_path):
    async with deployment(tmp_path) as running:
        await scrape(running)
        await running.start()
        running.clock.advance(CACHE_SECONDS - 0.1)
        assert (await scrape(running)).value("switchboard_sessions", agent="echo", state="starting") == 0
        running.clock.advance(0.1)
        assert (await scrape(running)).value("switchboard_sessions", agent="echo", state="starting") == 1


async def test_without_a_store_there_is_no_count_and_it_says_so(tmp_path, monkeypatch):
    async def no_counts():
        raise OperationalError("SELECT", {}, Exception("the server is gone"))

    async with deployment(tmp_path) as running:
        await scrape(running)
        monkeypatch.setattr(running.dispatcher.store, "counts", no_counts)
        running.clock.advance(CACHE_SECONDS)
        shown = await scrape(running)
        assert shown.value("switchboard_store_up") == 0
        assert shown.value("switchboard_sessions", agent="echo", state="starting") is None


async def test_no_label_is_an_id_and_names_follow_the_conventions(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await talk(machine, running, session_id)
        shown = await scrape(running)
        for family in shown.families.values():
            assert re.fullmatch(r"(switchboard|process)_[a-z_]+", family.name), family.name
            assert family.documentation
        for sample in shown.samples:
            assert not any(session_id in value for value in sample.labels.values())
        assert shown.value("switchboard_build_info", version=VERSION) == 1


async def test_the_breaker_of_a_placement_is_shown(tmp_path):
    async with deployment(tmp_path) as running:
        shown = await scrape(running)
        states = {
            sample.labels["state"]: sample.value
            for sample in shown.samples
            if sample.name == "switchboard_placement_breaker"
        }
        assert states == {"closed": 1, "open": 0, "probing": 0}


async def test_the_reaper_tells_of_its_rounds(tmp_path):
    async with deployment(tmp_path) as running:
        await eventually(
            lambda: scrape(running),
            lambda shown: (shown.value("switchboard_reaper_rounds_total", outcome="ok") or 0) >= 1,
        )


async def test_a_scraper_that_speaks_openmetrics_gets_it(tmp_path):
    async with deployment(tmp_path) as running:
        await running.start()
        accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
        answer = await running.http.get("/metrics", headers=accept)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert {family.name for family in openmetrics(answer.text)} >= {"switchboard_sessions"}


async def test_with_keys_metrics_need_one(tmp_path):
    entry = KeySettings(name="prometheus", hash=hash_of(KEY), scope="read")

    async with deployment(tmp_path, keys=[entry]) as running:
        assert (await running.http.get("/metrics")).status_code == 401
        answer = await running.http.get("/metrics", headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200


async def test_two_dispatchers_in_one_process_count_apart(tmp_path):
    async with deployment(tmp_path / "a") as first, deployment(tmp_path / "b") as second:
        await first.start()
        counted = [
            (await scrape(one)).value("switchboard_provider_call_seconds_count", action="create")
            for one in (first, second)
        ]
        assert counted == [1, None]


class Gone:
    """Runs no transaction: the database does not answer."""

    async def run(self, work, *, writes):
        raise OperationalError("BEGIN", {}, Exception("the server is gone"))

    async def close(self):
        pass


async def test_what_the_database_does_not_answer_is_counted(tmp_path):
    async with deployment(tmp_path) as running:
        await running.start()
        shown = await scrape(running)
        for access in ("read", "write"):
            assert (shown.value("switchboard_store_seconds_count", access=access) or 0) > 0
            assert shown.value("switchboard_store_errors_total", access=access) is None
    metrics = Metrics()
    store = Store("sqlite://", Gone(), metrics.store_used)
    for call in (store.ping, store.counts):
        with pytest.raises(OperationalError):
            await call()
    for access in ("read", "write"):
        assert metrics.registry.get_sample_value("switchboard_store_errors_total", {"access": access}) == 1
