"""Manners for the process that hosts dynamic providers, which is the SDK's: how it fails, when it ends."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from stacks.errors import StackError

P = ParamSpec("P")
R = TypeVar("R")


def plain_errors(method: Callable[P, R]) -> Callable[P, R]:
    """Keep the traceback of a StackError from the user.

    The host of dynamic providers answers the engine with `traceback.format_exc()`, whatever was raised. Of
    an error that is written for the user only the message is worth reading; any other keeps its traceback.
    """

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except StackError as error:
            sys.tracebacklimit = 0
            raise error from None

    return wrapped


@functools.cache
def end_with_engine() -> None:
    """From now on, end this process when the engine that started it is gone.

    The engine ends its hosts itself, but not when it is killed; each would then stay for ever.
    """
    engine = os.getppid()

    def watch() -> None:
        while os.getppid() == engine:
            time.sleep(1.0)
        # Nobody would write down what comes of what goes on here. The next run begins with a sweep.
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-engine").start()
