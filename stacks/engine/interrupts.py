"""Run the engine to its end, though Ctrl-C or SIGTERM comes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import TypeVar

import psutil

T = TypeVar("T")


def uninterrupted(operation: Callable[[], T], out: Callable[[str], None]) -> T:
    """Run `operation` to its end, though Ctrl-C or SIGTERM comes.

    The engine, which gets the signal too, finishes what it has begun and writes its state; a second signal
    ends it at once. Were this process to die first, the engine would lose the program that it is running.
    """
    result: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(operation())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the calling thread
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    if threading.current_thread() is not threading.main_thread():
        work()
    else:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        interrupted: list[int] = []

        def interrupt(number: int, _frame: object) -> None:
            if interrupted:
                raise KeyboardInterrupt
            interrupted.append(number)
            out("interrupted: the engine finishes what it has begun (once more to end it at once)")
            if number == signal.SIGTERM:
                for child in psutil.Process(os.getpid()).children():
                    child.send_signal(signal.SIGINT)

        try:
            for number in before:
                signal.signal(number, interrupt)
            thread.start()
            while thread.is_alive():
                thread.join(0.2)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if interrupted:
            raise KeyboardInterrupt
    if failure:
        raise failure[0]
    return result[0]
