"""Run a function in a process of its own, forked from one that has imported what such functions need."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_PROCESSES = multiprocessing.get_context("forkserver")
_preloaded: list[str] = []


def preload(*modules: str) -> None:
    """Import these modules as well in the process that others are forked from, if it has not started yet."""
    _preloaded.extend(modules)
    _PROCESSES.set_forkserver_preload([*_preloaded, "tests.frozen"])


def run_forked(function: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
    """Return what a function of a module returns, which must be picklable.

    Args:
        seconds: Longest time that it may take.
    """
    receiver, sender = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_send, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        assert receiver.poll(seconds), f"the program does not end within {seconds:g} s"
        return receiver.recv()
    finally:
        receiver.close()
        process.kill()
        process.join()
        process.close()


def _send(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sender.send(function(*arguments))
