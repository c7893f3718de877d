"""The conformance suite of machine providers: what `MachineProvider` promises, one check per promise.

A new provider needs a `Harness` and three lines:

    @pytest.mark.parametrize("check", CHECKS)
    def test_mine_keeps_the_contract(check, harness):
        harness.run(CHECKS[check](harness))

Each check uses ids of its own, so one deployment serves for all of them, and stops what it started.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any

from dispatcher.domain.model import MachineState
from dispatcher.machines.provider import (
    LOG_BYTES,
    KeepsLogs,
    MachineProvider,
    ProviderError,
    Rejected,
    Unreachable,
)
from tests.contracts.harness import Harness

Check = Callable[[Harness], Coroutine[Any, Any, None]]

GRACE = timedelta(seconds=3)
DEADLINE = 3.0
"""Seconds; longer than a machine needs to start on most clouds, so that the deadline is what ends it."""

CONCURRENT = 8

LOG_LINES = 1000
"""The most that the HTTP interface asks for."""
LOG_MEMORY = 8 * 2**20
"""Memory that a provider may take to read `LOG_BYTES`: copies of them, and the buffers of its client."""
FLOODS = {"m-floods-lines": "x" * 999 + "\n", "m-floods-one-line": "y" * 1000}
"""Machine → what it prints without end."""

CHECKS: dict[str, Check] = {}


def check(promise: Check) -> Check:
    """Add a check to the suite, under its name."""

    async def and_tidy(harness: Harness) -> None:
        try:
            await promise(harness)
        finally:
            await _stop_all(harness)

    CHECKS[promise.__name__] = and_tidy
    return promise


@check
async def create_twice_gives_one_machine(harness: Harness) -> None:
    provider = harness.provider()
    first = await provider.create(harness.spec("m-twice-1"))
    second = await provider.create(harness.spec("m-twice-1"))
    assert first.id == second.id == "m-twice-1"
    await provider.create(harness.spec("m-twice-2"))
    await _until_running(harness, "m-twice-1", "m-twice-2")


@check
async def concurrent_creates_of_one_id_give_one_machine(harness: Harness) -> None:
    one, other = harness.provider(), harness.provider()
    await asyncio.gather(*(at.create(harness.spec("m-race-1")) for at in [one, other] * (CONCURRENT // 2)))
    await _until_running(harness, "m-race-1")


@check
async def a_list_contains_what_was_created_and_nothing_that_is_gone(harness: Harness) -> None:
    provider = harness.provider()
    for machine_id in ("m-list-1", "m-list-2"):
        await provider.create(harness.spec(machine_id))
    await _until_listed(harness, provider, "m-list-1", "m-list-2")
    await provider.stop("m-list-1", GRACE)
    await _until_listed(harness, provider, "m-list-2")


@check
async def an_unknown_machine_is_none(harness: Harness) -> None:
    provider = harness.provider()
    assert await provider.get("m-unknown-1") is None
    await provider.create(harness.spec("m-unknown-2"))
    assert await provider.get("m-unknown-1") is None


@check
async def a_stopped_machine_is_gone_and_stopping_it_again_is_fine(harness: Harness) -> None:
    provider = harness.provider()
    await provider.create(harness.spec("m-stop-1"))
    await _until_running(harness, "m-stop-1")
    await provider.stop("m-stop-1", GRACE)
    await _until_running(harness)
    await _until_gone(harness, provider, "m-stop-1")
    await provider.stop("m-stop-1", GRACE)


@check
async def stopping_an_unknown_machine_is_fine(harness: Harness) -> None:
    provider = harness.provider()
    await provider.create(harness.spec("m-stranger-2"))
    await provider.stop("m-stranger-1", GRACE)
    assert await provider.get("m-stranger-1") is None
    await _until_running(harness, "m-stranger-2")


@check
async def a_lost_answer_to_create_is_recovered_by_identity(harness: Harness) -> None:
    ids = ("m-lost-1", "m-lost-2")
    # The first caller goes away while the call is under way, the second one just before the answer.
    calling = asyncio.ensure_future(harness.provider().create(harness.spec(ids[0])))
    await asyncio.sleep(0)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    await harness.provider().create(harness.spec(ids[1]))
    # The next one knows nothing but the ids.
    provider = harness.provider()
    assert await harness.look_up(provider, ids[1]) is not None
    for machine_id in ids:
        if await harness.look_up(provider, machine_id) is None:
            await provider.create(harness.spec(machine_id))
    await _until_running(harness, *ids)


@check
async def a_machine_that_ends_by_itself_is_seen_gone_with_its_exit_code(harness: Harness) -> None:
    provider = harness.provider()
    for code in (0, 7):
        await provider.create(harness.spec(f"m-exit-{code}", exits=code))
    for code in (0, 7):
        exit_code = await _until_gone(harness, provider, f"m-exit-{code}")
        if harness.tells_exit_codes:
            assert exit_code == code, f"exit code {exit_code} instead of {code}"
    await _until_listed(harness, provider)


@check
async def a_restarted_provider_sees_the_same_truth(harness: Harness) -> None:
    first = harness.provider()
    await first.create(harness.spec("m-truth-1"))
    await first.create(harness.spec("m-truth-2", exits=7))
    await _until_gone(harness, first, "m-truth-2")
    restarted = harness.provider()
    status = await harness.look_up(restarted, "m-truth-1")
    assert status is not None, "a restarted provider does not know the machine"
    assert status.state is not MachineState.gone
    await _until_listed(harness, restarted, "m-truth-1")
    assert await restarted.get("m-truth-2") == await first.get("m-truth-2")
    await restarted.create(harness.spec("m-truth-1"))
    await _until_running(harness, "m-truth-1")
    await restarted.stop("m-truth-1", GRACE)
    await _until_running(harness)


@check
async def a_machine_ends_at_its_deadline(harness: Harness) -> None:
    provider = harness.provider()
    await provider.create(harness.spec("m-deadline-1", deadline=DEADLINE))
    if harness.deadline_kept_by == "reaper":
        await _until_listed(harness, provider, "m-deadline-1")
        await harness.sleep(DEADLINE)
        await provider.stop("m-deadline-1", GRACE)
    await _until_gone(harness, provider, "m-deadline-1")
    assert await harness.running() == []


@check
async def a_list_that_the_server_did_not_filter_has_no_strangers(harness: Harness) -> None:
    neighbour = harness.neighbour()
    try:
        for machine_id in ("m-both-1", "m-theirs-1"):
            await neighbour.provider().create(neighbour.spec(machine_id))
        for machine_id in ("m-both-1", "m-ours-1"):
            await harness.provider().create(harness.spec(machine_id))
        await _until_running(harness, "m-both-1", "m-ours-1")
        with harness.filtering_nothing():
            provider = harness.provider()
            await _until_listed(harness, provider, "m-both-1", "m-ours-1")
            assert await harness.look_up(provider, "m-theirs-1") is None
            await provider.stop("m-theirs-1", GRACE)
            await provider.stop("m-both-1", GRACE)
            await _until_gone(harness, provider, "m-both-1")
            await _until_running(harness, "m-ours-1")
        await _until_running(neighbour, "m-both-1", "m-theirs-1")
    finally:
        await _stop_all(neighbour)


@check
async def an_answer_about_another_machine_is_not_believed(harness: Harness) -> None:
    first = harness.provider()
    for machine_id in ("m-asked-1", "m-asked-2", "m-shown-1", "m-shown-2"):
        await first.create(harness.spec(machine_id))
    await first.stop("m-shown-2", GRACE)
    await _until_gone(harness, first, "m-shown-2")
    # One has seen the machine before, the other has not.
    for provider, asked in ((first, "m-asked-1"), (harness.provider(), "m-asked-2")):
        for shown in ("m-shown-2", "m-shown-1"):
            with harness.answering(asked, shown):
                await _must_not_be_absent(harness, provider, asked)
        with harness.answering(asked, "m-shown-1"), suppress(ProviderError):
            await provider.stop(asked, timedelta(0))
        assert "m-shown-1" in await harness.running(), "another machine was stopped"
    with harness.answering("m-asked-3", "m-shown-1"), suppress(ProviderError):
        await first.create(harness.spec("m-asked-3"))
        await first.stop("m-asked-3", timedelta(0))
    assert "m-shown-1" in await harness.running(), "another machine was stopped"


@check
async def a_log_is_read_within_bounds_of_memory_and_time(harness: Harness) -> None:
    provider = harness.provider()
    if not isinstance(provider, KeepsLogs):
        return
    assert await _log_of(harness, provider, "m-prints-nothing") in (None, "")
    for machine_id, unit in FLOODS.items():
        await provider.create(harness.flooding(machine_id, unit))
        if harness.log_is_elsewhere or not (harness.reads_endless_lines or "\n" in unit):
            await _until_running(harness, machine_id)
        else:
            much = f"{machine_id} must have printed more than is given"
            await harness.until(
                much, lambda m=machine_id: _log_of(harness, provider, m), lambda text: _is_full(text)
            )
        tracemalloc.start()
        try:
            text = await _log_of(harness, provider, machine_id)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len((text or "").encode()) <= LOG_BYTES, "more than LOG_BYTES of a log"
        assert peak <= LOG_MEMORY, f"a log took {peak} bytes of memory"
        await provider.stop(machine_id, timedelta(0))


@check
async def a_hostile_machine_ends_and_keeps_nobody_waiting(harness: Harness) -> None:
    provider = harness.provider()
    await provider.create(harness.spec("m-peaceful-1"))
    await provider.create(harness.hostile("m-hostile-1"))
    await harness.until("the harm must be done", lambda: harness.harms("m-hostile-1"), bool)
    for again in (provider, harness.provider()):
        await _until_listed(harness, again, "m-hostile-1", "m-peaceful-1")
        await _must_not_be_absent(harness, again, "m-hostile-1")
        await _must_not_be_absent(harness, again, "m-peaceful-1")
    await provider.create(harness.spec("m-peaceful-2"))
    await provider.stop("m-hostile-1", GRACE)
    await _until_running(harness, "m-peaceful-1", "m-peaceful-2")
    await _until_gone(harness, provider, "m-hostile-1")
    await harness.until(
        "nothing of it must be left", lambda: harness.harms("m-hostile-1"), lambda harms: not harms
    )


async def _log_of(harness: Harness, provider: KeepsLogs, machine_id: str) -> str | None:
    async with asyncio.timeout(harness.patience):
        try:
            part = await provider.read_log(machine_id, LOG_LINES)
            return None if part is None else "\n".join(part.lines)
        except Rejected:
            assert harness.log_is_elsewhere, "a log that is kept here was refused"
        except Unreachable:
            assert not harness.reads_endless_lines, "a log that is kept here is unknown"
    return None


def _is_full(text: str | None) -> bool:
    """Return True for a log that is cut: only the first of its lines may be a part of one."""
    return text is not None and len(text.encode()) > LOG_BYTES * 3 // 4


async def _must_not_be_absent(harness: Harness, provider: MachineProvider, machine_id: str) -> None:
    """A machine that runs may be unknown for now; it must not be told gone."""
    with suppress(ProviderError):
        status = await harness.look_up(provider, machine_id)
        assert status is not None, f"{machine_id} runs, and there is none for the provider"
        assert status.state is not MachineState.gone, f"{machine_id} runs, and is gone for the provider"


async def _stop_all(harness: Harness) -> None:
    for machine_id in set(await harness.running()):
        await harness.provider().stop(machine_id, timedelta(0))


async def _until_running(harness: Harness, *machine_ids: str) -> None:
    """Exactly these run; once each."""
    wanted = sorted(machine_ids)
    await harness.until(f"{wanted or 'nothing'} must run", harness.running, lambda ids: sorted(ids) == wanted)


async def _until_listed(harness: Harness, provider: MachineProvider, *machine_ids: str) -> None:
    async def listed() -> list[str]:
        return sorted([status.id async for status in provider.list()])

    wanted = sorted(machine_ids)
    await harness.until(f"{wanted or 'nothing'} must be listed", listed, lambda ids: ids == wanted)


async def _until_gone(harness: Harness, provider: MachineProvider, machine_id: str) -> int | None:
    """Gives the exit code. A provider that forgets what is gone says None, which is as good."""
    status = await harness.until(
        f"{machine_id} must be gone",
        lambda: harness.look_up(provider, machine_id),
        lambda status: status is None or status.state is MachineState.gone,
    )
    return status.exit_code if status is not None else None
