"""Fixtures of the tests under load."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.load.dispatchers import Dispatcher, processes
from tests.load.load import deployment


@pytest.fixture
def chance() -> random.Random:
    """From the variable LOAD_SEED, to repeat a run as far as processes can be repeated; else anew."""
    seed = int(os.environ.get("LOAD_SEED") or random.SystemRandom().randrange(10**6))
    print(f"LOAD_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def dispatcher(tmp_path: Path) -> Iterator[Callable[..., Dispatcher]]:
    """Makes a dispatcher, not started yet; it and all that it started are gone after the test."""
    made: list[Dispatcher] = []

    def make(*arguments: str, **settings: object) -> Dispatcher:
        made.append(deployment(tmp_path, *arguments, **settings))
        return made[-1]

    yield make
    for one in made:
        one.end()
    for process in processes(tmp_path):
        process.kill()
