"""Start the bot: in its container, with the agent's secret variables, the command that the VM's metadata has.

The files are read once and deleted, so that nothing of them is left beside a bot that runs.
"""

import json
import os
from typing import Any

DIRECTORY = os.path.dirname(os.path.abspath(__file__))


def take(name: str) -> Any:
    """Return what a file has as JSON, and delete it."""
    path = os.path.join(DIRECTORY, name)
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    os.unlink(path)
    return found


def main() -> None:
    os.environ.update(take("secrets.json"))
    command = take("command.json")
    os.execvp(command[0], command)  # noqa: S606 - the command is the dispatcher's


if __name__ == "__main__":
    main()
