"""The fake itself: what it makes of calls is what Fly's documentation says of them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.doubles import VirtualClock
from tests.fly.fake import FakeFly, bearer
from tests.fly.faults import LOST_REPLY, LOST_REQUEST, NO_CAPACITY
from tests.fly.processes import Exit, OfThisHost, Scripted
from tests.fly.rates import Limits
from tests.fly.wire import InProcess, served

APP = "bots"
MACHINES = f"/v1/apps/{APP}/machines"
GUEST = {"cpu_kind": "performance", "cpus": 1, "memory_mb": 2048}


class World:
    """A fake with one app on a clock that runs by itself, and a client of it."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.fly = FakeFly(self.clock, limits=Limits(None))
        self.app = self.fly.app(APP)
        self.headers = dict(bearer(self.fly.token(APP)))

    def run(self, work: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async def scenario() -> None:
            transport = InProcess(self.fly)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://fly", headers=self.headers
            ) as client:
                await work(client)

        self.clock.run(scenario())

    def body(self, name: str = "one", **config: Any) -> dict[str, Any]:
        return {"name": name, "region": "iad", "config": {"image": "registry.fly.io/bots:1", **config}}


@pytest.fixture
def world():
    made = World()
    yield made
    assert made.fly.violations == []


async def create(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    answer = await client.post(MACHINES, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


async def wait(client: httpx.AsyncClient, machine: str, *states: str, timeout: int = 60) -> httpx.Response:
    version = (await client.get(f"{MACHINES}/{machine}")).json()["instance_id"]
    params = {"state": list(states), "timeout": timeout, "instance_id": version}
    return await client.get(f"{MACHINES}/{machine}/wait", params=params)


def test_machine_runs_its_command_with_its_variables_and_its_apps_secrets(world: World):
    launches = []
    world.fly.start = lambda launch, clock: launches.append(launch) or Scripted(launch, clock)
    world.app.secrets["KEY"] = "secret"

    async def work(client):
        init = {"entrypoint": ["python"], "cmd": ["-m", "bot"]}
        machine = await create(client, world.body(env={"A": "1"}, init=init))
        assert (await client.get(f"{MACHINES}/{machine}")).json()["state"] == "created"
        assert (await wait(client, machine, "started", "failed")).json()["state"] == "started"
        (launch,) = launches
        assert launch.command == ("python", "-m", "bot")
        assert {"KEY": "secret", "A": "1", "FLY_MACHINE_ID": machine}.items() <= launch.environment.items()

    world.run(work)


def test_a_machine_that_ends_is_destroyed_and_its_exit_can_be_read(world: World):
    world.fly.start = lambda launch, clock: Scripted(launch, clock, 1, Exit(7, oom=True))

    async def work(client):
        machine = await create(client, world.body(auto_destroy=True, restart={"policy": "no"}))
        assert (await wait(client, machine, "destroyed")).status_code == 200
        assert (await client.get(MACHINES)).json() == []
        (gone,) = (await client.get(MACHINES, params={"include_deleted": "true"})).json()
        assert gone["state"] == "destroyed"
        (ended,) = [event for event in gone["events"] if event["type"] == "exit"]
        assert ended["request"]["exit_event"]["exit_code"] == 7
        assert ended["request"]["exit_event"]["oom_killed"] is True

    world.run(work)


@pytest.mark.parametrize(
    ("restart", "exits"), [(None, 3), ({"policy": "no"}, 1), ({"policy": "on-failure", "max_retries": 1}, 2)]
)
def test_a_machine_is_started_again_as_its_policy_says(world: World, restart, exits):
    codes = iter([1, 1, 0])
    world.fly.start = lambda launch, clock: Scripted(launch, clock, 1, Exit(next(codes)))

    async def work(client):
        config = {} if restart is None else {"restart": restart}
        machine = await create(client, world.body(**config))
        assert (await wait(client, machine, "stopped")).status_code == 200
        events = (await client.get(f"{MACHINES}/{machine}/events")).json()
        assert sum(event["type"] == "exit" for event in events) == exits

    world.run(work)


def test_a_name_is_given_once_and_again_when_its_machine_is_destroyed(world: World):
    async def work(client):
        machine = await create(client, world.body())
        again = await client.post(MACHINES, json=world.body())
        assert again.status_code == 409
        assert f"machine ID {machine} already exists" in again.json()["error"]
        await client.delete(f"{MACHINES}/{machine}", params={"force": "true"})
        assert (await wait(client, machine, "destroyed")).status_code == 200
        assert await create(client, world.body()) != machine

    world.run(work)


def test_a_wait_that_comes_to_nothing_is_a_408_after_its_time(world: World):
    world.fly.boots("never")

    async def work(client):
        machine = await create(client, world.body())
        began = world.clock.now()
        answer = await wait(client, machine, "started", "failed", timeout=5)
        assert answer.status_code == 408
        assert answer.json()["error"].endswith("desired state, started,failed, currently starting")
        assert world.clock.now() - began == pytest.approx(5)

    world.run(work)


def test_a_stop_is_a_signal_and_after_its_time_the_end(world: World):
    processes = []

    def start(launch, clock):
        processes.append(Scripted(launch, clock, ignores_term=launch.machine == "deaf"))
        return processes[-1]

    world.fly.start = start

    async def work(client):
        for name, seconds in (("good", 0), ("deaf", 3)):
            machine = await create(client, world.body(name, restart={"policy": "always"}))
            await wait(client, machine, "started")
            body = {"signal": "SIGTERM", "timeout": "3s"}
            began = world.clock.now()
            assert (await client.post(f"{MACHINES}/{machine}/stop", json=body)).status_code == 200
            assert (await wait(client, machine, "stopped")).status_code == 200
            assert world.clock.now() - began == pytest.approx(seconds)
        assert processes[1].signals == [signal.SIGTERM, signal.SIGKILL]

    world.run(work)


def test_a_machine_is_suspended_and_goes_on_where_it_was(world: World):
    processes = []
    world.fly.start = lambda launch, clock: processes.append(Scripted(launch, clock)) or processes[-1]

    async def work(client):
        machine = await create(client, world.body(guest=GUEST))
        await wait(client, machine, "started")
        await client.post(f"{MACHINES}/{machine}/suspend")
        assert (await wait(client, machine, "suspended")).status_code == 200
        started = await client.post(f"{MACHINES}/{machine}/start")
        assert started.json()["previous_state"] == "suspended"
        assert (await wait(client, machine, "started")).status_code == 200
        assert len(processes) == 1
        large = await create(client, world.body("large", guest={**GUEST, "memory_mb": 4096}))
        await wait(client, large, "started")
        assert (await client.post(f"{MACHINES}/{large}/suspend")).status_code == 400

    world.run(work)


def test_who_holds_the_lease_alone_may_change_a_machine(world: World):
    async def work(client):
        machine = await create(client, world.body())
        lease = (await client.post(f"{MACHINES}/{machine}/lease", json={"ttl": 30})).json()["data"]["nonce"]
        for method, path, body in (
            ("POST", "/lease", {"ttl": 30}),
            ("POST", "/stop", {}),
            ("DELETE", "", None),
        ):
            answer = await client.request(method, f"{MACHINES}/{machine}{path}", json=body)
            assert answer.status_code == 409
            assert "lease currently held" in answer.json()["error"]
        held = {"fly-machine-lease-nonce": lease}
        released = await client.delete(f"{MACHINES}/{machine}/lease", headers=held)
        assert released.status_code == 200
        assert (await client.post(f"{MACHINES}/{machine}/lease", json={"ttl": 30})).status_code == 201
        await world.clock.sleep(31)
        assert (await client.get(f"{MACHINES}/{machine}/lease")).status_code == 404

    world.run(work)


def test_a_list_is_filtered_and_may_lag(world: World):
    async def work(client):
        world.fly.list_lag_seconds = 2
        await create(client, world.body("one", metadata={"of": "us"}))
        await create(client, {**world.body("two"), "region": "lhr"})
        assert (await client.get(MACHINES)).json() == []
        await world.clock.sleep(2)

        async def names(**params: str) -> list[str]:
            return [one["name"] for one in (await client.get(MACHINES, params=params)).json()]

        assert await names() == ["one", "two"]
        assert await names(**{"metadata.of": "us"}) == ["one"]
        assert await names(region="lhr") == ["two"]
        assert await names(state="stopped") == []

    world.run(work)


def test_metadata_is_written_key_by_key(world: World):
    async def work(client):
        machine = await create(client, world.body(metadata={"a": "1"}))
        place = f"{MACHINES}/{machine}/metadata"
        assert (await client.post(f"{place}/b", json={"value": "2"})).status_code == 204
        assert (await client.put(place, json={"metadata": {"c": "3"}})).status_code == 204
        assert (await client.delete(f"{place}/a")).status_code == 204
        assert (await client.get(place)).json() == {"b": "2", "c": "3"}
        assert (await client.get(f"{place}/b")).json() == {"value": "2"}
        assert (await client.get(f"{place}/a")).status_code == 404

    world.run(work)


def test_an_update_is_another_version_and_only_of_the_one_that_was_meant(world: World):
    async def work(client):
        machine = await create(client, world.body())
        await wait(client, machine, "started")
        version = (await client.get(f"{MACHINES}/{machine}")).json()["instance_id"]
        body = {"config": {"image": "registry.fly.io/bots:2"}, "current_version": version}
        updated = await client.post(f"{MACHINES}/{machine}", json=body)
        assert updated.json()["instance_id"] != version
        assert (await wait(client, machine, "started")).status_code == 200
        assert (await client.post(f"{MACHINES}/{machine}", json=body)).status_code == 409

    world.run(work)


def test_a_machine_that_is_not_launched_is_made_ready_and_can_then_be_started(world: World):
    async def work(client):
        machine = await create(client, {**world.body(), "skip_launch": True})
        assert (await client.post(f"{MACHINES}/{machine}/start")).status_code == 412
        assert (await wait(client, machine, "stopped")).status_code == 200
        assert (await client.post(f"{MACHINES}/{machine}/start")).status_code == 200
        assert (await wait(client, machine, "started")).status_code == 200

    world.run(work)


def test_a_region_without_room_gives_way_to_the_next_and_then_there_is_none(world: World):
    async def work(client):
        world.fly.room = {"iad": 0, "ord": 1}
        machine = await create(client, {**world.body(), "region": "iad,ord"})
        assert world.app.machines[machine].region == "ord"
        full = await client.post(MACHINES, json={**world.body("two"), "region": "iad,ord"})
        assert (full.status_code, full.json()["status"]) == (422, "insufficient_capacity")

    world.run(work)


def test_calls_are_limited_for_each_action_and_app_or_machine(world: World):
    async def work(client):
        world.fly.limits = Limits()
        statuses = [(await client.post(MACHINES, json=world.body(str(i)))).status_code for i in range(4)]
        assert statuses == [200, 200, 200, 429]
        refused = await client.post(MACHINES, json=world.body("3"))
        await world.clock.sleep(float(refused.headers["retry-after"]))
        machine = await create(client, world.body("3"))
        got = [(await client.get(f"{MACHINES}/{machine}")).status_code for _ in range(11)]
        assert got == [200] * 10 + [429]

    world.run(work)


def test_a_token_is_good_for_its_apps_and_while_it_lasts(world: World):
    async def work(client):
        world.fly.app("other")
        both = world.fly.token(APP, "other")
        for token, status in (
            ("fm2_wrong", 401),
            (world.fly.token("other"), 403),
            (both, 200),
            (world.fly.token(), 200),
        ):
            assert (await client.get(MACHINES, headers=bearer(token))).status_code == status
        for header, status in (
            (f"FlyV1 {both}", 200),
            (f"Bearer FlyV1 {both}", 401),
            (f"Bearer FlyV1 fm2_x,{both}", 401),
            (f"FlyV1 of-a-proxy,{both}", 401),
            (both, 401),
        ):
            answer = await client.get(MACHINES, headers={"Authorization": header})
            assert answer.status_code == status, header
        assert (
            await client.get("/v1/apps/none/machines", headers=bearer(world.fly.token()))
        ).status_code == 404

    world.run(work)


def test_what_the_description_does_not_know_is_refused_and_told(world: World):
    async def work(client):
        for body in (
            {**world.body(), "colour": "red"},
            world.body(restart={"policy": "sometimes"}),
            world.body(guest={"cpus": 1.5}),
        ):
            assert (await client.post(MACHINES, json=body)).status_code == 400
        assert (await client.get(MACHINES, params={"colour": "red"})).status_code == 400
        told = [violation.partition(":")[2] for violation in world.fly.violations]
        assert len(told) == 4
        assert "'colour' was unexpected" in told[0]
        world.fly.violations.clear()

    world.run(work)


def test_an_order_goes_wrong_as_it_was_ordered(world: World):
    async def work(client):
        for fault in (LOST_REQUEST, LOST_REPLY, NO_CAPACITY):
            world.fly.faults.order("Machines_create", fault)
        for _ in (1, 2):
            with pytest.raises(httpx.ReadError):
                await client.post(MACHINES, json=world.body())
        # The first never arrived; the second was done.
        assert [machine.name for machine in world.app.machines.values()] == ["one"]
        full = await client.post(MACHINES, json=world.body("two"))
        assert full.json()["status"] == "insufficient_capacity"
        await create(client, world.body("two"))

    world.run(work)


def test_it_serves_on_a_port_with_real_processes():
    fly = FakeFly(start=OfThisHost)
    fly.app(APP)
    fly.prepare_seconds = fly.boot_seconds = fly.destroy_seconds = 0.0
    script = "import os, sys; sys.exit(3 if os.environ['A'] == '1' else 4)"
    config = {
        "image": "registry.fly.io/bots:1",
        "auto_destroy": True,
        "restart": {"policy": "no"},
        "env": {"A": "1"},
        "init": {"exec": ["python", "-c", script]},
    }

    async def scenario(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, headers=bearer(fly.token(APP))) as client:
            fly.faults.order("Machines_list", LOST_REPLY)
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(MACHINES)
            machine = await create(client, {"config": config})
            assert (await wait(client, machine, "destroyed", timeout=20)).status_code == 200
            events = (await client.get(f"{MACHINES}/{machine}/events")).json()
            (ended,) = [event for event in events if event["type"] == "exit"]
            assert ended["request"]["exit_event"]["exit_code"] == 3

    with served(fly) as url:
        asyncio.run(scenario(url))
    assert fly.violations == []
