"""Sources of log lines: commands of a cloud's own tool."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stacks.errors import StackError

DISPATCHER = "dispatcher"

LOOK_SECONDS = 1.0
"""Between two looks for bots that are new."""

ASK_SECONDS = 60.0
"""Limit on a call of the tool that only lists."""


@dataclass(frozen=True)
class Source:
    """Lines that a command prints.

    Args:
        name: What stands before each of them.
        only: Lines without this text are left out.
    """

    name: str
    words: Sequence[str]
    only: str = ""


class Tool(Protocol):
    """The commands of one cloud's tool for one stack."""

    def dispatcher(self, session: str, *, once: bool) -> Source:
        """Return the dispatcher's lines, or those of them about one session."""
        ...

    look_seconds: float
    """Between two looks for bots that are new."""

    def bots(self, session: str, *, first: bool, once: bool) -> list[Source]:
        """Return what there is of bots, or of one session's.

        Args:
            first: They are looked for for the first time.

        Raises:
            StackError: the tool does not tell.
        """
        ...


def once_only(words: list[str], *, once: bool) -> list[str]:
    return [*words, *(["--no-tail"] if once else [])]


def answer(words: Sequence[str]) -> str:
    """Return what a command that lists prints. Raises StackError with its last words if it fails."""
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ASK_SECONDS, check=False
        )
    except OSError as error:
        raise cannot_run(words, error) from error
    except subprocess.TimeoutExpired:
        raise StackError(f"`{shlex.join(words)}` did not answer within {ASK_SECONDS:.0f} s") from None
    if done.returncode:
        raise StackError(
            f"`{shlex.join(words)}` ended with status {done.returncode}: {done.stderr.strip()[-500:]}"
        )
    return done.stdout


def cannot_run(words: Sequence[str], error: OSError) -> StackError:
    return StackError(f"{words[0]} cannot be run: {error}; it shows this stack's log")
