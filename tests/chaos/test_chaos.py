"""Nothing is lost and nothing left behind, whatever goes wrong; and the simulation would notice."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import pytest

from tests.chaos.broken import VARIANTS, hunt
from tests.chaos.world import Outcome, simulate

SEEDS = 300
"""`make chaos SEEDS=10000` plays more."""

CHUNK = 25

SEEDS_FOR_A_VARIANT = 200
"""Within so many, each broken variant must be caught."""


def play(first: int) -> list[Outcome]:
    """The simulations of a chunk that broke a promise."""
    return [outcome for outcome in map(simulate, range(first, first + CHUNK)) if outcome.violation]


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest) -> Iterator[dict[Any, Future[Any]]]:
    """What the tests of this module play, by their parameter: all at once, on all cores."""
    ours = [item for item in request.session.items if isinstance(item, pytest.Function)]
    functions = [item for item in ours if item.module is request.module]
    wanted: list[dict[str, Any]] = [item.callspec.params for item in functions if hasattr(item, "callspec")]
    # Not forked: this process has threads.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        futures: dict[Any, Future[Any]] = {}
        for params in wanted:
            if "variant" in params:
                futures[params["variant"]] = pool.submit(hunt, params["variant"], SEEDS_FOR_A_VARIANT)
            elif "first_seed" in params:
                futures[params["first_seed"]] = pool.submit(play, params["first_seed"])
        yield futures


@pytest.mark.parametrize("first_seed", range(0, SEEDS, CHUNK))
def test_every_promise_is_kept(played, first_seed):
    broken = played[first_seed].result()
    assert not broken, "\n".join(f"make chaos SEED={one.seed}: {one.violation}" for one in broken)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_broken_dispatcher_is_caught(played, variant):
    number, outcome = played[variant].result()
    assert outcome is not None, f"{variant} kept every promise in {number} seeds"
    assert outcome.violation is not None
    assert outcome.violation.invariant in VARIANTS[variant].caught_by, outcome.violation
    print(f"caught by '{outcome.violation.invariant}' after {number} seeds")


def test_a_seed_is_played_the_same_way_every_time():
    """Also in another process, where sets and objects lie elsewhere."""
    program = "from tests.chaos.world import simulate; print([simulate(seed).trace for seed in range(5)])"
    traces = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1")
    }
    assert len(traces) == 1
    assert len(set(traces.pop().split())) == 5, "another seed plays something else"
