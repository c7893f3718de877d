"""Nothing is lost and nothing left behind, whatever goes wrong; and the simulation would notice."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.chaos.broken import VARIANTS, hunt
from tests.chaos.world import AS_DRAWN, simulate

SEEDS = 150
"""Half of what finds every broken variant; `make chaos SEEDS=10000` plays more."""

CHUNK = 25

SEEDS_FOR_A_VARIANT = 60
"""Within so many, each broken variant must be caught: the rarest is by some three seeds in twenty."""

SEEDS_FOR_A_SCRIPT = 5


@pytest.fixture(autouse=True)
def without_logs() -> Iterator[None]:
    """Keep thousands of tracebacks from being written: a fault's seed tells them again, by `make chaos`."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first_seed", range(0, SEEDS, CHUNK))
def test_every_promise_is_kept(first_seed):
    played = map(simulate, range(first_seed, first_seed + CHUNK))
    broken = [outcome for outcome in played if outcome.violation]
    assert not broken, "\n".join(f"make chaos SEED={one.seed}: {one.violation}" for one in broken)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_broken_dispatcher_is_caught(variant):
    number, outcome = hunt(variant, range(SEEDS_FOR_A_VARIANT))
    assert outcome is not None, f"{variant} kept every promise in {number} seeds"
    assert outcome.violation is not None
    assert outcome.violation.invariant in VARIANTS[variant].caught_by, outcome.violation
    print(f"caught by '{outcome.violation.invariant}' after {number} seeds")


@pytest.mark.parametrize("variant", [name for name, broken in VARIANTS.items() if broken.script != AS_DRAWN])
def test_every_promise_is_kept_by_the_script_of_a_variant(variant):
    """What catches a broken dispatcher must not be the script alone."""
    script = VARIANTS[variant].script
    played = [simulate(seed, script) for seed in range(SEEDS_FOR_A_SCRIPT)]
    broken = [outcome for outcome in played if outcome.violation]
    assert not broken, "\n".join(f"seed {one.seed}: {one.violation}" for one in broken)


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
