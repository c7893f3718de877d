"""A machine's own deadline, where its provider keeps none: the bot is a child of `timeout`.

It ends the bot when the machine's time is up, whether or not there still is a dispatcher, and however stuck
the bot is. It is no bound for a hostile bot: `timeout` has the bot's own user, who can stop it. That one is
ended by the dispatcher, from outside.
"""

from __future__ import annotations

KILL_AFTER_SECONDS = 10
"""Between the machine's deadline and the end of a bot that ignores it."""


def command(seconds: int) -> list[str]:
    """Return a machine's command, before the bot's arguments; it ends after so many seconds."""
    # -P: `bot` is our package, whatever lies in the working directory.
    return ["timeout", f"--kill-after={KILL_AFTER_SECONDS}", str(seconds), "python", "-P", "-m", "bot"]
