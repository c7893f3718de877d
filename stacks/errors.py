"""Errors around a stack, as the user reads them.

    StackError                a sentence (or a few lines) for the user; never shown with a traceback
    ├── ConfigError           a value in the stack's config is refused
    ├── SetupError            something that a step needs is missing or failed
    ├── EngineError           no Pulumi engine could be found, installed or built; or its run failed
    │   └── LockedError       somebody else's run holds the stack
    ├── ChangesError          a plan has changes where none were expected; exit status 7
    ├── LossError             data or calls would go, and nobody has said that they may
    ├── WebhookError          Daily does not take a stack's webhook
    ├── SmokeError            a deployed stack's session did not go as it should
    └── ProcessError          the dispatcher's process would not start, or would not stop

Only the standard library is imported here: `stacks.setup` runs before anything is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable


class StackError(Exception):
    """A failure whose text is written for the user."""

    status = 1
    """The program's exit status."""


class ConfigError(StackError):
    """A value in the stack's config is refused: the text names key, value and what is allowed."""


class SetupError(StackError):
    """A step of the setup cannot go on: the text says what is missing and how to get it."""


class EngineError(StackError):
    """The Pulumi engine is not to be had, or its run failed."""


class LockedError(EngineError):
    """A living run holds the stack's lock: the text says whose."""


class LossError(StackError):
    """Something would go that nobody has agreed to: the text names it and the command that agrees."""


class ProcessError(StackError):
    """The dispatcher's process did not start or did not stop: the text ends with its log's tail."""


class ChangesError(StackError):
    """A plan has changes, and none were expected: the text says how many."""

    # As of `pulumi preview --expect-no-changes`: https://www.pulumi.com/docs/iac/cli/exit-codes/
    status = 7


class WebhookError(StackError):
    """Daily does not take a stack's webhook: the text has its words, and what to do."""


class SmokeError(StackError):
    """A session of a deployed stack did not go as it should: the text says what the dispatcher said."""


def exit_status(command: Callable[[], object]) -> int:
    """Run the command of a program: 0, or the status of a StackError, or 130 when it was interrupted."""
    try:
        command()
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt as interruption:
        print("interrupted", *getattr(interruption, "__notes__", ()), sep="; ", file=sys.stderr)
        return 130
    return 0
