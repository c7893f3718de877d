"""The proxy and the stack's firewall: what it is told, and what is refused without it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dispatcher.engine_proxy.firewall import Firewall
from dispatcher.engine_proxy.firewall import wanted as wanted_of
from dispatcher.engine_proxy.reading import Refused
from dispatcher.firewall import messages
from dispatcher.machines.container.provider import ContainerProvider
from dispatcher.machines.container.request import UNFILTERED
from dispatcher.machines.provider import NoCapacity
from tests.dispatcher.engine_proxy.test_proxy import SPEC
from tests.dispatcher.engine_proxy.world import CREATE, World, wanted, world
from tests.patience import PATIENCE

NETWORK: dict[str, Any] = {
    "Name": "machines",
    "Id": "0123456789abcdef" * 4,
    "Driver": "bridge",
    "Options": {},
    "IPAM": {"Config": [{"Subnet": "172.30.0.0/16", "Gateway": "172.30.0.1"}]},
    "Containers": {
        "a": {
            "Name": "calls-dispatcher",
            "MacAddress": "02:42:ac:1e:00:02",
            "IPv4Address": "172.30.0.2/16",
            "IPv6Address": "",
        },
        "b": {
            "Name": "calls-m-1",
            "MacAddress": "02:42:ac:1e:00:03",
            "IPv4Address": "172.30.0.3/16",
            "IPv6Address": "",
        },
        "c": {
            "Name": "theirs",
            "MacAddress": "02:42:ac:1e:00:04",
            "IPv4Address": "172.30.0.4/16",
            "IPv6Address": "fd01::4/64",
        },
    },
}
"""As Docker's API reference, v1.43, has it: "Inspect a network"."""


class ScriptedFirewall:
    """Writes down what it is asked, and answers with `error`."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.error = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(json.loads(await reader.readline()))
        writer.write(messages.answer(self.error))
        writer.close()


@asynccontextmanager
async def closed_world(directory: Path) -> AsyncIterator[tuple[World, ScriptedFirewall]]:
    firewall, socket = ScriptedFirewall(), directory / "firewall.sock"
    async with (
        await asyncio.start_unix_server(firewall.handle, socket),
        world(directory, firewall=socket) as proxy,
    ):
        proxy.engine.network = NETWORK
        yield proxy, firewall


def is_bot(name: str) -> bool:
    return name.startswith("calls-m-")


def test_all_that_are_no_bots_are_services() -> None:
    task, bots = messages.read(wanted_of(NETWORK, is_bot))
    assert task == "hold"
    assert bots is not None
    assert bots.bridge == "br-0123456789ab"
    assert [str(one) for one in bots.subnets] == ["172.30.0.0/16"]
    assert {(str(one.address), one.hardware.hex()) for one in bots.services} == {
        ("172.30.0.2/32", "0242ac1e0002"),
        ("172.30.0.4/32", "0242ac1e0004"),
        ("fd01::4/128", "0242ac1e0004"),
    }


@pytest.mark.parametrize("missing", ["Name", "MacAddress"])
@pytest.mark.parametrize("value", ["", None])
def test_a_container_that_cannot_be_told_is_no_service(missing: str, value: str | None) -> None:
    containers = NETWORK["Containers"] | {"c": NETWORK["Containers"]["c"] | {missing: value}}
    _, bots = messages.read(wanted_of(NETWORK | {"Containers": containers}, is_bot))
    assert bots is not None
    assert [str(one.address) for one in bots.services] == ["172.30.0.2/32"]


def test_a_bridges_own_name_is_used() -> None:
    named = NETWORK | {"Options": {"com.docker.network.bridge.name": "docker7"}}
    _, bots = messages.read(wanted_of(named, is_bot))
    assert bots is not None
    assert bots.bridge == "docker7"


@pytest.mark.parametrize("network", [{}, NETWORK | {"Driver": "macvlan"}])
def test_a_network_that_cannot_be_closed_is_refused(network: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="driver"):
        wanted_of(network, is_bot)


async def test_a_bot_is_started_behind_rules_of_the_network_as_it_is(tmp_path: Path) -> None:
    async with closed_world(tmp_path) as (proxy, firewall):
        provider = ContainerProvider(url=proxy.url, deployment="calls", network="machines")
        await provider.create(SPEC)
        await provider.check()
        await provider.close()
        held = [one for one in firewall.asked if one["do"] == "hold"]
        assert [address for address, _ in held[-1]["services"]] == ["172.30.0.2", "172.30.0.4", "fd01::4"]
        assert {"do": "check"} in firewall.asked
        looks = [path for _, path, _ in proxy.engine.asked if "/networks/" in path]
        assert set(looks) == {"/v1.41/networks/machines"}


async def test_no_bot_is_made_or_started_without_rules(tmp_path: Path) -> None:
    async with closed_world(tmp_path) as (proxy, firewall):
        firewall.error = "nftables: the kernel refuses NEWTABLE of inet: Operation not permitted"
        status, said = await proxy.call("POST", CREATE, wanted())
        assert (status, said["message"]) == (503, f"{UNFILTERED}: {firewall.error}")
        status, said = await proxy.call("POST", "/v1.41/containers/calls-m-1/start")
        assert (status, said["message"]) == (503, f"{UNFILTERED}: {firewall.error}")
        assert (await proxy.call("GET", "/_ping"))[0] == 503
        assert proxy.changed == []
        provider = ContainerProvider(url=proxy.url, deployment="calls", network="machines")
        with pytest.raises(NoCapacity, match="Operation not permitted"):
            await provider.create(SPEC)
        await provider.close()
        # What runs is looked after all the same.
        assert (await proxy.call("GET", "/v1.41/containers/calls-m-1/json"))[0] == 200
        firewall.error = ""
        assert (await proxy.call("POST", CREATE, wanted()))[0] == 201


async def test_a_firewall_that_is_away_is_one_that_says_no(tmp_path: Path) -> None:
    async with world(tmp_path, firewall=tmp_path / "nobody.sock") as proxy:
        status, said = await proxy.call("POST", CREATE, wanted())
        assert status == 503
        assert said["message"].startswith(f"{UNFILTERED}: the firewall does not answer")


async def test_the_network_is_looked_at_of_its_own_accord(tmp_path: Path) -> None:
    async with closed_world(tmp_path) as (_, firewall), asyncio.timeout(PATIENCE):
        while not firewall.asked:
            await asyncio.sleep(0)


async def test_a_bot_that_got_a_services_address_is_no_service(tmp_path: Path) -> None:
    async with closed_world(tmp_path) as (proxy, firewall), asyncio.timeout(PATIENCE):
        proxy.engine.starts.clear()
        starting = asyncio.create_task(proxy.call("POST", "/v1.41/containers/calls-m-1/start"))
        while not any(path.endswith("/start") for _, path, _ in proxy.engine.asked):
            await asyncio.sleep(0)
        # The other one ends while the engine starts the bot.
        address = {"IPv4Address": "172.30.0.4/16", "MacAddress": "02:42:ac:1e:00:04"}
        containers = {"a": NETWORK["Containers"]["a"], "b": {"Name": "calls-m-1", **address}}
        proxy.engine.network = NETWORK | {"Containers": containers}
        assert ["172.30.0.4", "02:42:ac:1e:00:04"] in firewall.asked[-1]["services"]
        proxy.engine.starts.set()
        assert (await starting)[0] == 204
        assert firewall.asked[-1]["services"] == [["172.30.0.2", "02:42:ac:1e:00:02"]]


async def test_a_start_whose_later_look_fails_has_succeeded(tmp_path: Path) -> None:
    async with closed_world(tmp_path) as (proxy, _), asyncio.timeout(PATIENCE):
        proxy.engine.starts.clear()
        starting = asyncio.create_task(proxy.call("POST", "/v1.41/containers/calls-m-1/start"))
        while not any(path.endswith("/start") for _, path, _ in proxy.engine.asked):
            await asyncio.sleep(0)
        proxy.engine.network = {"Driver": "macvlan"}
        proxy.engine.starts.set()
        assert (await starting)[0] == 204


@pytest.mark.parametrize(
    "network",
    [
        [],
        {"Driver": "bridge"},
        NETWORK | {"IPAM": {"Config": ["172.30.0.0/16"]}},
        NETWORK | {"Containers": {"a": NETWORK["Containers"]["a"] | {"IPv4Address": "172.30.0"}}},
    ],
)
async def test_an_unknown_answer_of_the_engine_is_told_to_starts_and_readiness(
    network: Any, tmp_path: Path
) -> None:
    async with closed_world(tmp_path) as (proxy, _):
        proxy.engine.network = network
        for method, path in (("POST", "/v1.41/containers/calls-m-1/start"), ("GET", "/_ping")):
            status, said = await proxy.call(method, path)
            assert status == 503
            assert said["message"].startswith(f"{UNFILTERED}: the engine describes the bots' network")
        proxy.engine.network = NETWORK
        assert (await proxy.call("GET", "/_ping"))[0] == 200


async def test_looks_go_on_after_failures_with_longer_pauses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [ValueError("no JSON"), KeyError("Id"), RuntimeError("a fault"), OSError(5, "x"), None, None]
    pauses: list[float] = []

    async def look() -> Any:
        if (failure := failures.pop(0)) is not None:
            raise failure
        return NETWORK

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if not failures:
            raise asyncio.CancelledError

    firewall, socket = ScriptedFirewall(), tmp_path / "firewall.sock"
    async with await asyncio.start_unix_server(firewall.handle, socket):
        with pytest.raises(asyncio.CancelledError):
            await Firewall(socket, look, is_bot, sleep).watch()
    assert pauses == [2.0, 4.0, 8.0, 16.0, 1.0, 1.0]
    assert len(firewall.asked) == 2
    for words in ("no JSON", "KeyError('Id')", "a fault", "bots' network is filtered"):
        assert words in caplog.text


async def test_looks_reach_the_firewall_in_their_order(tmp_path: Path) -> None:
    first, looks = asyncio.Event(), 0

    async def look() -> Any:
        nonlocal looks
        looks += 1
        if looks == 1:
            await first.wait()
            return NETWORK
        return NETWORK | {"Containers": {}}

    firewall, socket = ScriptedFirewall(), tmp_path / "firewall.sock"
    async with await asyncio.start_unix_server(firewall.handle, socket), asyncio.timeout(PATIENCE):
        asked = Firewall(socket, look, is_bot)
        holding = [asyncio.create_task(asked.hold()) for _ in range(2)]
        for _ in range(100):
            await asyncio.sleep(0)
        first.set()
        await asyncio.gather(*holding)
    assert [len(one["services"]) for one in firewall.asked] == [3, 0]
