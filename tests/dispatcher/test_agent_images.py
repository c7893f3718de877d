"""Agents' images from a file: a running dispatcher uses new ones as soon as its placements have them."""

import asyncio
import contextlib
import json
import logging

import pytest

from dispatcher.agent_images import AGAIN_SECONDS, LOOK_SECONDS
from dispatcher.image_table import IN_USE_SUFFIX, mark_of
from dispatcher.machines.provider import NoCapacity
from dispatcher.settings import AgentSettings
from tests.dispatcher.harness import Deployment, ManualClock, ScriptedProvider, deployment, eventually

ENGINE = {"scripted": {"provider": "container"}}
AT_FLY = {"second": {"provider": "fly", "apps": ["bots"]}}


def at_fly(digit):
    return f"registry.fly.io/bots@sha256:{digit * 64}"


def table(**images):
    return {name: {"image": image, "bot": "bot.py"} for name, image in images.items()}


OLD, NEW = table(echo="bots:1", voice="bots:1"), table(echo="bots:2", voice="bots:1")


class Engine(ScriptedProvider):
    """Has to be given images before it runs them."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.fault_of_fetch: Exception | None = None
        self.lacking: set[str] = set()
        self.held: asyncio.Event | None = None

    async def fetch(self, image):
        self.fetched.append(image)
        if self.held is not None:
            await self.held.wait()
        if self.fault_of_fetch is not None:
            raise self.fault_of_fetch
        if image in self.lacking:
            raise NoCapacity(f"no such image: {image}")


@contextlib.asynccontextmanager
async def world(directory, images=None, engine=None, second=None):
    clock, engine = ManualClock(), engine or Engine()
    file = directory / "images.json"
    if images is not None:
        file.write_text(json.dumps(images))
    agents = {name: AgentSettings.model_validate({"bot": "bot.py"}) for name in ("echo", "voice")}
    more = {"images_file": file, "agents": agents, "placements": ENGINE}
    if second is not None:
        more |= {"placements": ENGINE | AT_FLY, "fly_api_token": "fm2_secret"}
    async with deployment(directory, clock=clock, provider=engine, second=second, **more) as running:
        if images is not None:
            await until_used(running, clock, images)
            engine.fetched.clear()
        yield running, engine, clock, file


async def status(running: Deployment):
    return (await running.http.get("/readyz")).json()


async def until_looked(clock, seen):
    """Let the dispatcher look at its file, again and again, until this is so."""

    async def look():
        clock.advance(LOOK_SECONDS)
        return await seen()

    await eventually(look, bool)


async def until_used(running, clock, images):
    async def used():
        return (await status(running)).get("images") == mark_of(images)

    await until_looked(clock, used)


async def image_of_a_start(running, engine):
    answer = await running.http.post("/start?wait=started", json={})
    assert answer.status_code == 200, answer.text
    return engine.specs[f"m-{answer.json()['sessionId']}"].image


async def test_a_new_image_is_used_without_a_restart(tmp_path):
    async with world(tmp_path, OLD) as (running, engine, clock, file):
        assert await image_of_a_start(running, engine) == "bots:1"
        file.write_text(json.dumps(NEW))
        await until_used(running, clock, NEW)
        assert await image_of_a_start(running, engine) == "bots:2"
        assert engine.fetched == ["bots:2"], "and of those that are known nothing"


async def test_starts_get_the_old_image_until_the_engine_has_the_new_one(tmp_path):
    async with world(tmp_path, OLD) as (running, engine, clock, file):
        engine.held = asyncio.Event()
        file.write_text(json.dumps(NEW))
        await until_looked(clock, lambda: asyncio.sleep(0, engine.fetched))
        assert await image_of_a_start(running, engine) == "bots:1"
        engine.held.set()
        await until_used(running, clock, NEW)
        assert await image_of_a_start(running, engine) == "bots:2"


async def test_an_image_that_cannot_be_had_is_asked_for_again(tmp_path, caplog):
    with caplog.at_level(logging.ERROR, "dispatcher.agent_images"):
        async with world(tmp_path, OLD) as (running, engine, clock, file):
            engine.fault_of_fetch = NoCapacity("no such image")
            file.write_text(json.dumps(NEW))
            await until_looked(clock, lambda: asyncio.sleep(0, "no such image" in caplog.text))
            assert (await status(running))["images"] == mark_of(OLD)
            assert await image_of_a_start(running, engine) == "bots:1"
            engine.fault_of_fetch = None
            clock.advance(AGAIN_SECONDS)
            await until_used(running, clock, NEW)


@pytest.mark.parametrize(
    "content", ["", "{", '{"echo": 1}', '["echo"]', '{"echo": "bots:1"}', '{"echo": {"image": ""}}', '{"ec']
)
async def test_a_table_that_is_none_changes_nothing(tmp_path, caplog, content):
    with caplog.at_level(logging.ERROR, "dispatcher.agent_images"):
        async with world(tmp_path, OLD) as (running, engine, clock, file):
            file.write_text(content)
            await until_looked(clock, lambda: asyncio.sleep(0, ": refused, " in caplog.text))
            assert await image_of_a_start(running, engine) == "bots:1"
            file.unlink()
            file.write_text(json.dumps(NEW))
            await until_used(running, clock, NEW)
        assert caplog.text.count(": refused, ") == 1


async def test_a_dispatcher_is_not_ready_before_it_has_images(tmp_path):
    async with world(tmp_path) as (running, _, clock, file):
        assert (await status(running))["code"] == "no_images"
        file.write_text(json.dumps(table(echo="bots:1")))
        await until_used(running, clock, table(echo="bots:1"))
        assert (await running.http.post("/start", json={})).status_code == 200, "it has one by now"
        refused = await running.http.post("/v1/public/voice/start", json={})
        assert (refused.status_code, refused.json()["code"]) == (503, "no_images")
        assert len((await running.http.get("/v1/sessions")).json()["sessions"]) == 1
        file.write_text(json.dumps(OLD))
        await until_used(running, clock, OLD)


async def test_one_agents_image_that_cannot_be_had_holds_up_no_other(tmp_path, caplog):
    with caplog.at_level(logging.ERROR, "dispatcher.agent_images"):
        async with world(tmp_path, OLD) as (running, engine, clock, file):
            engine.lacking = {"bots:broken"}
            file.write_text(json.dumps(table(voice="bots:broken", echo="bots:2")))
            await until_used(running, clock, table(voice="bots:1", echo="bots:2"))
            assert await image_of_a_start(running, engine) == "bots:2"
            assert "agent voice does not use bots:broken yet" in caplog.text


async def test_a_dispatcher_that_starts_again_begins_with_what_was_in_use(tmp_path):
    async with world(tmp_path, OLD) as (running, engine, clock, file):
        pass
    engine = Engine()
    engine.lacking = {"bots:2"}
    file.write_text(json.dumps(NEW))
    async with world(tmp_path, engine=engine) as (running, engine, clock, _):
        await until_looked(clock, lambda: asyncio.sleep(0, engine.fetched))
        assert (await status(running))["images"] == mark_of(OLD), "the new table is not in use"
        assert await image_of_a_start(running, engine) == "bots:1"
        file.write_text(json.dumps(OLD))
        await until_used(running, clock, OLD)
        assert set(engine.fetched) == {"bots:2"}


@pytest.mark.parametrize("content", ["", "[1]", '{"echo": {"image": "bots:1"}}'])
async def test_images_in_use_that_cannot_be_read_are_had_anew(tmp_path, caplog, content):
    with caplog.at_level(logging.ERROR, "dispatcher.agent_images"):
        (tmp_path / f"images.json{IN_USE_SUFFIX}").write_text(content)
        async with world(tmp_path, OLD) as (running, engine, _, _):
            assert await image_of_a_start(running, engine) == "bots:1"
            assert "the images last in use cannot be read" in caplog.text


async def test_a_bot_file_is_the_one_that_comes_with_its_image(tmp_path):
    async with world(tmp_path, OLD) as (running, engine, clock, file):
        await image_of_a_start(running, engine)
        renamed = {**OLD, "echo": {"image": "bots:2", "bot": "renamed.py"}}
        file.write_text(json.dumps(renamed))
        await until_used(running, clock, renamed)
        await image_of_a_start(running, engine)
        assert [spec.bot_file for spec in engine.specs.values()] == ["bot.py", "renamed.py"]


async def test_a_look_that_fails_in_a_way_that_nobody_foresaw_is_not_the_last(tmp_path, caplog):
    with caplog.at_level(logging.ERROR, "dispatcher.agent_images"):
        async with world(tmp_path, OLD) as (running, engine, clock, file):
            engine.fault_of_fetch = RuntimeError("nobody foresaw this")
            file.write_text(json.dumps(NEW))
            await until_looked(clock, lambda: asyncio.sleep(0, "nobody foresaw this" in caplog.text))
            engine.fault_of_fetch = None
            await until_used(running, clock, NEW)


async def test_a_placement_with_a_registry_of_its_own_gets_its_new_image_without_a_restart(tmp_path):
    def both(here, there):
        return {**OLD, "echo": {"image": here, "bot": "bot.py", "placements": {"second": at_fly(there)}}}

    # No image of the second placement's is known of the other agent: it is not started there.
    rest = {"voice": {"bot": "bot.py", "image": "bots:1", "placements": {"second": at_fly("9")}}}
    second = Engine()
    async with world(tmp_path, both("bots:1", "1") | rest, second=second) as (running, engine, clock, file):
        engine.fault = NoCapacity("full")
        assert await image_of_a_start(running, second) == at_fly("1")
        second.fetched.clear()
        file.write_text(json.dumps(both("bots:1", "2") | rest))
        await until_used(running, clock, both("bots:1", "2") | rest)
        assert (engine.fetched, second.fetched) == ([], [at_fly("2")])
        assert await image_of_a_start(running, second) == at_fly("2")
    async with world(tmp_path, engine=engine, second=second) as (running, engine, clock, _):
        assert await image_of_a_start(running, second) == at_fly("2"), "it begins with what was in use"


async def test_an_agent_without_an_image_at_one_of_its_placements_is_not_started(tmp_path):
    there = {"placements": {"second": at_fly("1")}}
    only_there = {"echo": {"bot": "bot.py", **there}, "voice": OLD["voice"] | there}
    async with world(tmp_path, only_there, second=Engine()) as (running, _, _, _):
        refused = await running.http.post("/start", json={})
        assert (refused.status_code, refused.json()["code"]) == (503, "no_images")


async def test_an_image_that_a_placement_cannot_run_is_named_and_not_used(tmp_path, caplog):
    old, new = (
        {name: {**one, "placements": {"second": image}} for name, one in OLD.items()}
        for image in (at_fly("1"), "registry.fly.io/bots:latest")
    )
    second = Engine()
    with caplog.at_level(logging.ERROR, "dispatcher.agent_images"):
        async with world(tmp_path, old, second=second) as (running, engine, clock, file):
            file.write_text(json.dumps(new))
            await until_looked(clock, lambda: asyncio.sleep(0, "has no digest" in caplog.text))
            assert "agent echo does not use registry.fly.io/bots:latest: placement second: " in caplog.text
            engine.fault = NoCapacity("full")
            assert await image_of_a_start(running, second) == at_fly("1")
