"""The provider's reading of an engine's answers, where they matter and no engine is needed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from dispatcher.clock import SystemClock
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.container import images as container_images
from dispatcher.machines.container import provider as container
from dispatcher.machines.container import request as container_version
from dispatcher.machines.container.provider import ContainerProvider
from dispatcher.machines.container.request import MACHINE_LABEL, MEMORY_LABEL
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import NoCapacity, ProviderError, Rejected, Throttled, Unreachable
from tests.dispatcher.harness import eventually
from tests.dispatcher.machines.engines import (
    SPEC,
    BusyEngine,
    EngineWithTheDead,
    EngineWithTheUnstarted,
    PullingEngine,
    SilentEngine,
    listed,
    provider_of,
)
from tests.engine_api import DOCKER_20, DOCKER_29, Versioned
from tests.patience import PATIENCE

Again = Callable[[ContainerProvider], Awaitable[MachineStatus]]
"""A way to ask again for a container that is there."""

AGAIN = pytest.mark.parametrize(
    "again", [lambda one: one.start(SPEC), lambda one: one.create(SPEC)], ids=["start", "create"]
)


@pytest.mark.parametrize("conflict", [409, 500])
async def test_a_name_that_is_taken_is_looked_for_until_its_container_is_there(
    tmp_path: Path, conflict: int
) -> None:
    engine = BusyEngine(conflict)
    async with provider_of(engine, tmp_path) as provider:
        status = await provider.create(SPEC)
        assert (status.id, status.state) == ("m-1", MachineState.started)
        assert engine.looks == 3


async def test_who_has_a_taken_name_is_looked_for_no_longer_than_settling_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "VISIBLE_SECONDS", 0.05)

    async with provider_of(SilentEngine(), tmp_path) as provider, asyncio.timeout(PATIENCE):
        with pytest.raises(Unreachable, match="the name calls-m-1 is taken"):
            await provider.create(SPEC)


async def test_a_container_that_was_never_started_is_not_started_by_who_looks_for_it(tmp_path: Path) -> None:
    engine = EngineWithTheUnstarted()
    async with provider_of(engine, tmp_path) as provider:
        assert await provider.get("m-1") == MachineStatus("m-1", MachineState.requested)
        await provider.stop("m-1", timedelta(seconds=5))
        assert await provider.get("m-1") is None
        assert engine.asked.count("start") == 0
        with pytest.raises(Rejected, match="container calls-m-1 no longer exists"):
            await provider.start(SPEC)


@AGAIN
async def test_a_container_that_was_never_started_is_started_once(tmp_path: Path, again: Again) -> None:
    engine = EngineWithTheUnstarted()
    async with provider_of(engine, tmp_path) as provider:
        for _ in range(2):
            assert await again(provider) == MachineStatus("m-1", MachineState.started)
        assert engine.asked.count("start") == 1


FULL, BUSY = "no space left on device", "device or resource busy"


@AGAIN
@pytest.mark.parametrize(
    ("fails", "kind", "words", "state"),
    [
        ({"start": (500, FULL)}, NoCapacity, FULL, ""),
        ({"start": (500, FULL), "remove": (500, FULL)}, Unreachable, FULL, "created"),
        (
            {"start": (400, "bad mount"), "remove": (500, BUSY)},
            Unreachable,
            f"bad mount.* nor .*{BUSY}",
            "created",
        ),
        ({"start": (500, BUSY)}, Unreachable, BUSY, "created"),
        ({"look": (403, "not yours")}, Unreachable, "not yours", "created"),
    ],
)
async def test_no_error_but_unreachable_leaves_a_container(
    tmp_path: Path,
    again: Again,
    fails: dict[str, tuple[int, str]],
    kind: type[ProviderError],
    words: str,
    state: str,
) -> None:
    engine = EngineWithTheUnstarted(**fails)
    async with provider_of(engine, tmp_path) as provider:
        with pytest.raises(kind, match=words) as caught:
            await again(provider)
        assert type(caught.value) is kind
        assert engine.state == state


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "invalid mount path"),
        (403, "Privileged is refused"),
        (413, "Maximum request body size 1048576 exceeded, actual body size 1048577"),
    ],
)
async def test_a_create_that_is_refused_for_good_is_rejected(tmp_path: Path, status: int, words: str) -> None:
    async with provider_of(EngineWithTheUnstarted(create=(status, words)), tmp_path) as provider:
        with pytest.raises(Rejected, match=words):
            await provider.create(SPEC)


async def test_a_container_that_is_being_removed_already_is_as_good_as_removed(tmp_path: Path) -> None:
    words = "removal of container calls-m-1 is already in progress"

    engine = EngineWithTheUnstarted(start=(500, FULL), remove=(409, words))
    async with provider_of(engine, tmp_path) as provider:
        await provider.stop("m-1", timedelta(seconds=5))
        with pytest.raises(NoCapacity, match=FULL):
            await provider.start(SPEC)
        assert engine.asked.count("remove") == 2
        # Any other conflict is told.
        engine.fails["remove"] = (409, "You cannot remove a running container")
        with pytest.raises(Rejected, match="running container"):
            await provider.stop("m-1", timedelta(seconds=5))


async def test_create_is_unreachable_and_frees_its_memory_when_removal_is_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "CALL_SECONDS", 0.3)

    engine = EngineWithTheUnstarted(start=(400, "OCI runtime create failed"))
    engine.never_answers = "remove"
    async with provider_of(engine, tmp_path) as provider, asyncio.timeout(PATIENCE):
        # The host has room for one of them.
        for machine_id in ("m-1", "m-2"):
            with pytest.raises(Unreachable, match=r"OCI runtime .* nor removed: the engine did not"):
                await provider.create(replace(SPEC, id=machine_id, memory_mb=5000))


@pytest.mark.parametrize(
    "call", [lambda one: one.start(SPEC), lambda one: one.stop("m-1", timedelta(minutes=1))]
)
async def test_what_needs_a_removal_that_is_never_answered_is_unreachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[ContainerProvider], Awaitable[object]]
) -> None:
    monkeypatch.setattr(container, "CALL_SECONDS", 0.3)

    engine = EngineWithTheUnstarted(start=(400, "OCI runtime create failed"))
    engine.never_answers = "remove"
    async with provider_of(engine, tmp_path) as provider, asyncio.timeout(PATIENCE):
        with pytest.raises(Unreachable, match="the engine did not answer"):
            await call(provider)
        assert engine.asked[-1] == "remove"


async def test_stops_that_take_their_time_keep_no_other_call_waiting(tmp_path: Path) -> None:
    many = [f"m-{number}" for number in range(120)]

    engine = EngineWithTheDead()
    engine.states |= dict.fromkeys(many, "running")
    engine.answers_stops.clear()
    async with provider_of(engine, tmp_path) as provider:
        stops = asyncio.gather(*(provider.stop(machine_id, timedelta(hours=1)) for machine_id in many))
        await eventually(lambda: asyncio.sleep(0, engine.stops), lambda stops: stops == len(many))
        async with asyncio.timeout(PATIENCE):
            assert [status.id async for status in provider.list()] == ["m-runs", *many]
            assert await provider.get("m-runs") == MachineStatus("m-runs", MachineState.started)
        assert not stops.done()
        engine.answers_stops.set()
        await stops


async def test_what_has_the_deployments_label_alone_is_no_machine(tmp_path: Path) -> None:
    theirs = listed("m-theirs", {})
    del theirs["Labels"][MACHINE_LABEL]

    engine = PullingEngine(room_for=2.5)
    engine.pulled.set()
    ours = listed("m-ours", {MEMORY_LABEL: str(SPEC.memory_mb)})
    engine.listed = [theirs, listed("m-unsized", {}), ours]
    async with provider_of(engine, tmp_path) as provider:
        assert [status.id async for status in provider.list()] == ["m-unsized", "m-ours"]
        # They take none of the memory that is known to be taken.
        assert await provider.create(SPEC) == MachineStatus("m-1", MachineState.started)
        with pytest.raises(NoCapacity, match=f"{3 * SPEC.memory_mb} MiB would be needed"):
            await provider.create(replace(SPEC, id="m-2", memory_mb=2 * SPEC.memory_mb))


async def test_a_fleet_finishes_what_a_dispatcher_left_between_its_two_calls(tmp_path: Path) -> None:
    async def place(placement: str, provider: str) -> bool:
        return (placement, provider) == ("engine", "container")

    engine, clock = EngineWithTheUnstarted(), SystemClock()
    async with provider_of(engine, tmp_path) as provider, asyncio.timeout(PATIENCE):
        fleet = Fleet({"engine": provider}, clock)
        status = await fleet.resume(SPEC, (), clock.now() + 27, place, "engine")
        assert status == MachineStatus("m-1", MachineState.started)
        assert engine.asked.count("start") == 1


@pytest.mark.parametrize("room_for", [8, 1.5])
async def test_a_create_that_was_given_up_while_its_image_was_pulled_makes_no_machine(
    tmp_path: Path, room_for: float
) -> None:
    engine = PullingEngine(room_for)
    async with provider_of(engine, tmp_path) as provider:
        given_up = asyncio.create_task(provider.create(SPEC))
        await engine.pulls.wait()
        given_up.cancel()
        await asyncio.wait({given_up})
        assert given_up.cancelled()
        # It waits for the same pull, and has the room that the other one had.
        wanted = asyncio.create_task(provider.create(replace(SPEC, id="m-2")))
        engine.pulled.set()
        assert (await wanted).state is MachineState.started
        assert engine.changes == ["createcalls-m-2", "calls-m-2/start"]


async def test_a_create_goes_on_after_a_pull_while_one_caller_of_several_still_waits(tmp_path: Path) -> None:
    engine = PullingEngine()
    async with provider_of(engine, tmp_path) as provider:
        given_up, wanted = (asyncio.create_task(provider.create(SPEC)) for _ in range(2))
        await engine.pulls.wait()
        given_up.cancel()
        await asyncio.wait({given_up})
        engine.pulled.set()
        assert (await wanted).state is MachineState.started
        assert engine.changes == ["createcalls-m-1", "calls-m-1/start"]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("read tcp 10.0.0.2:41614->10.0.0.3:443: read: connection reset by peer", NoCapacity),
        ("unexpected EOF", NoCapacity),
        ("net/http: TLS handshake timeout", NoCapacity),
        ("received unexpected HTTP status: 503 Service Unavailable", NoCapacity),
        ("write /var/lib/docker/tmp/GetImageBlob1: no space left on device", NoCapacity),
        ("toomanyrequests: You have reached your pull rate limit", Throttled),
        ("manifest for registry.example/bot:1 not found: manifest unknown", Rejected),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", Rejected),
        ("pull access denied for bot, repository does not exist", Rejected),
        ("unauthorized: authentication required", Rejected),
    ],
)
async def test_what_a_pull_that_breaks_off_means(
    tmp_path: Path, words: str, kind: type[ProviderError]
) -> None:
    engine = PullingEngine(pull_fails=words)
    engine.pulled.set()
    async with provider_of(engine, tmp_path) as provider:
        with pytest.raises(kind, match=re.escape(words)) as caught:
            await provider.create(SPEC)
        assert type(caught.value) is kind
        assert engine.changes == []


async def test_a_pull_that_ends_without_its_image_is_none(tmp_path: Path) -> None:
    engine = PullingEngine()
    engine.begins = engine.breaks_off = True
    async with provider_of(engine, tmp_path) as provider:
        wanted = asyncio.create_task(provider.create(SPEC))
        await engine.pulls.wait()
        engine.pulled.set()
        with pytest.raises(NoCapacity, match="image bot could not be pulled: its pull ended too early"):
            await wanted
        assert engine.changes == []


@pytest.mark.parametrize("begins", [False, True])
async def test_a_pull_without_progress_is_given_up_and_the_next_start_begins_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: bool
) -> None:
    engine = PullingEngine()
    engine.begins = begins
    async with provider_of(engine, tmp_path) as provider, asyncio.timeout(PATIENCE):
        with monkeypatch.context() as patch:
            patch.setattr(container_images, "SILENCE_SECONDS", 0.3)
            with pytest.raises(NoCapacity, match="image bot could not be pulled: the engine did not"):
                await provider.create(SPEC)
        assert engine.pulls.is_set()
        engine.pulls.clear()
        wanted = asyncio.create_task(provider.create(SPEC))
        await engine.pulls.wait()
        engine.pulled.set()
        assert await wanted == MachineStatus("m-1", MachineState.started)
        assert engine.changes == ["createcalls-m-1", "calls-m-1/start"]


@pytest.mark.parametrize("versions", [DOCKER_20, DOCKER_29])
async def test_an_engine_is_asked_in_a_version_that_it_has(
    tmp_path: Path, versions: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    engine = Versioned(BusyEngine().handle, versions)
    async with provider_of(engine, tmp_path) as provider:
        assert (await provider.create(SPEC)).state is MachineState.started
        assert [status async for status in provider.list()] == []
        assert engine.pings == 1


async def test_an_engine_that_is_upgraded_is_asked_for_its_version_again(tmp_path: Path) -> None:
    engine = Versioned(EngineWithTheDead().handle)
    async with provider_of(engine, tmp_path) as provider:
        assert [status.id async for status in provider.list()] == ["m-runs"]
        engine.versions = DOCKER_29
        with pytest.raises(NoCapacity, match=r"client version 1\.41 is too old"):
            await anext(provider.list())
        assert [status.id async for status in provider.list()] == ["m-runs"]
        # Where it did not answer in between, no call is lost to its new version.
        engine.versions, engine.away = DOCKER_20, True
        with pytest.raises(Unreachable):
            await anext(provider.list())
        engine.away = False
        assert [status.id async for status in provider.list()] == ["m-runs"]


@pytest.mark.parametrize(
    ("newest", "version"),
    [
        ("1.40", "v1.41"),
        ("1.41", "v1.41"),
        ("1.43", "v1.41"),
        ("1.44", "v1.44"),
        ("1.100", "v1.44"),
        ("2.0", "v1.44"),
        ("", "v1.41"),
        (None, "v1.41"),
    ],
)
def test_versions_are_compared_as_numbers(newest: str | None, version: str) -> None:
    assert container_version.chosen(newest) == version
