"""One reaper among the replicas, whatever their clocks say."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.exc import OperationalError

from dispatcher.sessions.maintenance.leader import BEAT_SECONDS, DEAD_SECONDS, HELD_SECONDS, Leadership
from dispatcher.store.store import Store
from tests.dispatcher.harness import ManualClock
from tests.dispatcher.store.stores import opened


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.sqlite'}"
    return request.getfixturevalue("postgres_url")


class Replicas:
    """Replicas on one store, each with a clock of its own."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clocks: dict[str, ManualClock] = {}
        self.leases: dict[str, Leadership] = {}

    def start(self, name: str, *, ahead: float = 0, alone: bool = False) -> Leadership:
        clock = self.clocks[name] = ManualClock()
        clock.advance(ahead)
        lease = self.leases[name] = Leadership(store=self.store, clock=clock, replica=name, alone=alone)
        return lease

    async def pass_time(self, seconds: float, *living: str) -> None:
        """Time passes for all; those who live renew what they hold."""
        passed = 0.0
        while passed < seconds:
            passed += BEAT_SECONDS
            for clock in self.clocks.values():
                clock.advance(BEAT_SECONDS)
            for name in living:
                await self.leases[name].keep()
            assert sum(self.leases[name].held for name in self.leases) <= 1, "there are two reapers"


@asynccontextmanager
async def replicas_at(url: str) -> AsyncIterator[Replicas]:
    async with opened(url) as store:
        yield Replicas(store)


@pytest.mark.parametrize("ahead", [-3600.0, 0.0, 3600.0])
async def test_the_first_holds_it_as_long_as_it_lives_whatever_the_others_clocks_say(url, ahead):
    async with replicas_at(url) as replicas:
        a, b = replicas.start("a"), replicas.start("b", ahead=ahead)
        assert (await a.keep(), await b.keep()) == (True, False)
        await replicas.pass_time(10 * DEAD_SECONDS, "a", "b")
        assert (a.held, b.held) == (True, False)
        assert not a.is_dead("b")
        assert not b.is_dead("a")


async def test_when_the_holder_dies_another_one_takes_it_and_never_before_it_has_run_out(url):
    async with replicas_at(url) as replicas:
        a, b = replicas.start("a"), replicas.start("b")
        assert await a.keep()
        await replicas.pass_time(2 * BEAT_SECONDS, "a", "b")
        await replicas.pass_time(HELD_SECONDS, "b")
        assert not b.held
        await replicas.pass_time(DEAD_SECONDS, "b")
        assert b.held
        assert b.is_dead("a")
        # It only slept, and learns what happened.
        assert await a.keep() is False
        await replicas.pass_time(BEAT_SECONDS, "a", "b")
        assert not b.is_dead("a")


async def test_who_exits_hands_it_on_at_once(url):
    async with replicas_at(url) as replicas:
        a, b = replicas.start("a"), replicas.start("b")
        assert await a.keep()
        assert not await b.keep()
        await a.release()
        assert not a.held
        await replicas.pass_time(BEAT_SECONDS, "b")
        assert b.held
        assert b.is_dead("a")


async def test_a_replica_that_came_since_the_last_beat_is_not_gone(url):
    async with replicas_at(url) as replicas:
        a, b = replicas.start("a"), replicas.start("b")
        assert await a.keep()
        await b.keep()
        assert a.is_dead("b"), "as far as it has seen"
        assert not await a.is_gone("b")
        assert not a.is_dead("b")


async def test_who_is_gone_for_certain(url):
    async with replicas_at(url) as replicas:
        a, b = replicas.start("a"), replicas.start("b")
        assert not await a.is_gone("never-there"), "nothing is known yet"
        await a.keep()
        await b.keep()
        assert await a.is_gone("never-there")
        assert await a.is_gone(None), "a start that nobody put a name to"
        assert not await a.is_gone("a")
        await replicas.pass_time(2 * DEAD_SECONDS, "a")
        assert await a.is_gone("b")


async def test_who_can_only_be_alone_has_everything_at_once(url):
    async with replicas_at(url) as replicas:
        assert await replicas.start("a", alone=True).keep()
        restarted = replicas.start("b", alone=True)
        del replicas.leases["a"]
        assert await restarted.keep()
        assert restarted.is_dead("a")


async def test_a_clock_that_jumps_takes_nothing_from_the_living(url):
    async with replicas_at(url) as replicas:
        a, b = replicas.start("a"), replicas.start("b")
        await a.keep()
        await b.keep()
        replicas.clocks["b"].advance(100 * DEAD_SECONDS)
        assert not await b.keep()
        await replicas.pass_time(DEAD_SECONDS, "a", "b")
        assert (a.held, b.held) == (True, False)


async def test_a_clock_that_is_set_back_takes_no_lease_away(url):
    async with replicas_at(url) as replicas:
        a, b = replicas.start("a"), replicas.start("b")
        assert (await a.keep(), await b.keep()) == (True, False)
        for clock in replicas.clocks.values():
            clock.is_set(-7200)
        assert a.held
        await replicas.pass_time(10 * DEAD_SECONDS, "a", "b")
        assert (a.held, b.held) == (True, False)


async def test_an_outage_of_the_store_kills_nobody(url, monkeypatch):
    async with replicas_at(url) as replicas:
        a, b = replicas.start("a"), replicas.start("b")
        await a.keep()
        await b.keep()
        with monkeypatch.context() as patched:

            async def down(*_args):
                raise OperationalError("SELECT 1", {}, Exception("the server is gone"))

            patched.setattr(replicas.store, "beat", down)
            for clock in replicas.clocks.values():
                clock.advance(10 * DEAD_SECONDS)
            for lease in (a, b):
                with pytest.raises(OperationalError):
                    await lease.keep()
                assert not lease.held
                assert not lease.is_dead("a")
                assert not lease.is_dead("b")
        # The standby comes back first.
        assert not await b.keep()
        assert await a.keep()
        await replicas.pass_time(2 * DEAD_SECONDS, "b", "a")
        assert (a.held, b.held) == (True, False)


async def test_the_rows_of_the_dead_are_forgotten(url):
    async with replicas_at(url) as replicas:
        a, b = replicas.start("a"), replicas.start("b")
        await a.keep()
        await b.keep()
        await replicas.pass_time(2 * DEAD_SECONDS, "b")
        await b.forget_dead()
        rows = await replicas.store.beat("b", (), {}, False)
        assert {name: row.holder for name, row in rows.items()} == {"b": "b", "reaper": "b"}
