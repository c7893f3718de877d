"""Containers that have ended: who is told how, and when they are removed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from dispatcher.clock import SystemClock
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.container import provider as container
from dispatcher.machines.container.logs import PIECES
from dispatcher.machines.container.provider import ContainerProvider
from dispatcher.machines.placement import Placement
from dispatcher.machines.provider import LogPart, ProviderError
from tests.dispatcher.harness import eventually
from tests.dispatcher.machines.engines import EngineWithLines, EngineWithTheDead, provider_of
from tests.patience import PATIENCE

T = TypeVar("T")


async def listed(provider: ContainerProvider | Placement) -> list[str]:
    return [status.id async for status in provider.list()]


async def until(read: Callable[[], T], wanted: T) -> None:
    """Removals go on behind the scenes."""
    await eventually(lambda: asyncio.sleep(0, read()), lambda found: found == wanted)


@pytest.mark.parametrize("word", ["exited", "stopped", "dead", "removing"])
async def test_a_container_that_has_ended_is_kept_until_its_end_is_on_record(
    tmp_path: Path, word: str
) -> None:
    engine = EngineWithTheDead()
    engine.states["m-over"] = word
    async with provider_of(engine, tmp_path) as provider:
        for _ in range(30):
            assert await listed(provider) == ["m-runs"]
            assert list(provider.ended) == ["m-over"]
        assert engine.removals == 0
        provider.recorded(provider.ended)
        assert await listed(provider) == ["m-runs"]
        await until(lambda: engine.states, {"m-runs": "running"})


async def test_a_container_whose_end_is_known_is_removed_after_the_next_listing(tmp_path: Path) -> None:
    engine = EngineWithTheDead()
    async with provider_of(engine, tmp_path) as provider:
        for _ in range(2):
            assert await provider.get("m-over") == MachineStatus("m-over", MachineState.gone, 3)
        assert engine.removals == 0
        assert await listed(provider) == ["m-runs"]
        await until(lambda: engine.states, {"m-runs": "running"})


async def test_no_listing_waits_for_a_removal_and_no_removal_for_a_listing(tmp_path: Path) -> None:
    engine = EngineWithTheDead()
    engine.states |= {f"m-{number}": "exited" for number in range(30)}
    engine.answers_removals.clear()
    async with provider_of(engine, tmp_path) as provider:
        placement = Placement("engine", provider, SystemClock())
        for machine_id in engine.states:
            await placement.get(machine_id)
        # One call alone may take twice as long.
        async with asyncio.timeout(PATIENCE):
            assert await listed(placement) == ["m-runs"]
            await until(lambda: engine.removals, 1)
            assert await listed(placement) == ["m-runs"]
        assert engine.removals == 1, "one at a time"
        engine.answers_removals.set()
        await until(lambda: engine.states, {"m-runs": "running"})


async def test_a_container_that_cannot_be_removed_is_tried_again_when_it_is_told_of_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = EngineWithTheDead()
    engine.states["m-over"] = "dead"
    engine.fails = True
    async with provider_of(engine, tmp_path) as provider:
        for said in (1, 2):
            provider.recorded(["m-over"])
            assert await listed(provider) == ["m-runs"]
            await until(lambda: caplog.text.count("m-over has ended and cannot be removed: "), said)
            await until(lambda: engine.removals, said)
        engine.fails = False
        provider.recorded(["m-over"])
        assert await listed(provider) == ["m-runs"]
        await until(lambda: engine.states, {"m-runs": "running"})


async def test_a_removal_that_is_never_answered_is_given_up_and_the_next_one_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "CALL_SECONDS", 0.3)

    engine = EngineWithTheDead()
    engine.states["m-next"] = "exited"
    engine.never_removes = "m-over"
    async with provider_of(engine, tmp_path) as provider:

        async def look() -> None:
            await listed(provider)
            provider.recorded(provider.ended)

        await eventually(look, lambda _: "m-next" not in engine.states)
        assert engine.states == {"m-over": "exited", "m-runs": "running"}
        assert "m-over has ended and cannot be removed: the engine did not answer" in caplog.text
        # It is tried again.
        engine.never_removes = ""
        await eventually(look, lambda _: engine.states == {"m-runs": "running"})


@pytest.mark.parametrize("answers", [True, False])
async def test_how_a_container_ended_is_told_without_its_lines_where_they_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    monkeypatch.setattr(container, "LOG_SECONDS", 5.0 if answers else 0.2)

    engine = EngineWithTheDead()
    engine.fails, engine.answers_logs = True, answers
    # Half of what the fleet gives it.
    async with provider_of(engine, tmp_path) as provider, asyncio.timeout(PATIENCE):
        assert await provider.get("m-over") == MachineStatus("m-over", MachineState.gone, 3, "")
        assert "machine m-over: its last lines cannot be read: " in caplog.text


async def test_log_is_none_when_container_is_gone_and_unknown_when_engine_fails(
    tmp_path: Path,
) -> None:
    engine = EngineWithTheDead()
    async with provider_of(engine, tmp_path) as provider, asyncio.timeout(PATIENCE):
        assert await provider.read_log("m-runs", 10) is None
        engine.fails = True
        with pytest.raises(ProviderError):
            await provider.read_log("m-runs", 10)


async def test_follower_of_a_containers_log_gets_each_line_once(tmp_path: Path) -> None:
    last = (1_700_000_000 * 10**9 + 4) * PIECES + 1
    engine = EngineWithLines()
    engine.lines = [(1_700_000_000 * 10**9 + number, f"{number}\n") for number in range(5)]
    async with provider_of(engine, tmp_path) as provider, asyncio.timeout(PATIENCE):
        first = await provider.read_log("m-1", 2)
        assert first is not None
        none = await provider.read_log("m-1", 2, first.next)
        engine.lines.append((1_700_000_001 * 10**9, "5\n"))
        assert [first, none, await provider.read_log("m-1", 2, first.next)] == [
            LogPart(("3", "4"), last, None),
            LogPart((), last),
            LogPart(("5",), 1_700_000_001 * 10**9 * PIECES + 1),
        ]
