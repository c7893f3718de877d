"""A machine's own deadline, for providers that keep none: the bot is a child of `timeout`.

`timeout` ends the bot when the machine's time is up, with or without a dispatcher, however stuck the bot is.
It does not stop a hostile bot: `timeout` runs as the bot's own user, who can kill it. The dispatcher ends
such a bot from outside.
"""

from __future__ import annotations

KILL_AFTER_SECONDS = 10
"""Time from the machine's deadline until a bot that ignores it is killed."""


def command(seconds: int) -> list[str]:
    """Return the command that goes before the bot's arguments and ends the bot after these seconds."""
    # -P: `bot` is this package, whatever the working directory contains.
    return ["timeout", f"--kill-after={KILL_AFTER_SECONDS}", str(seconds), "python", "-P", "-m", "bot"]
