"""Dynamic providers in the process that hosts them, which is the SDK's: how they fail and end."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from stacks.engine.host import end_with_engine
from stacks.errors import StackError

__all__ = ["end_with_engine", "plain_errors"]

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
