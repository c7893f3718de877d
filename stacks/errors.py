"""What can go wrong around a stack, as the user reads it.

    StackError                a sentence (or a few lines) for the user; never shown with a traceback
    ├── ConfigError           a value in the stack's config is refused
    ├── SetupError            something that a step needs is missing or failed
    ├── EngineError           no Pulumi engine could be found, installed or built; or its run failed
    │   └── LockedError       somebody else's run holds the stack
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


class ConfigError(StackError):
    """A value in the stack's config is refused: the text names key, value and what is allowed."""


class SetupError(StackError):
    """A step of the setup cannot go on: the text says what is missing and how to get it."""


class EngineError(StackError):
    """The Pulumi engine is not to be had, or its run failed."""


class LockedError(EngineError):
    """A living run holds the stack's lock: the text says whose."""


class ProcessError(StackError):
    """The dispatcher's process did not start or did not stop: the text ends with its log's tail."""


class WebhookError(StackError):
    """Daily does not take a stack's webhook: the text has its words, and what to do."""


class SmokeError(StackError):
    """A session of a deployed stack did not go as it should: the text says what the dispatcher said."""


def exit_status(command: Callable[[], object]) -> int:
    """Run the command of a program: 0, or 1 when a StackError was told, or 130 when it was interrupted."""
    try:
        command()
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
