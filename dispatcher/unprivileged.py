"""`python -m dispatcher.unprivileged COMMAND…`: runs the command as the service's user, who gets the data
directory.

Where a new disk belongs to root, as Fly's volumes do, root must first give it away. There the image is built
with `RUN_AS=0:0` and starts here; it drops root before it reads its first setting.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dispatcher.fields import ENVIRONMENT_PREFIX

USER = 10001
"""Id of user and group, as in images/dispatcher.Dockerfile."""

DATA_DIR_VARIABLE = f"{ENVIRONMENT_PREFIX}DATA_DIR"


def drop(directory: Path, user: int = USER) -> None:
    """Give the directory to the user, and become that user for good.

    Files in the directory already belong to the user: nobody else has written there.
    """
    os.chown(directory, user, user)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def main(command: list[str]) -> int:
    if not command or DATA_DIR_VARIABLE not in os.environ:
        print(f"dispatcher.unprivileged: needs a command, and {DATA_DIR_VARIABLE}", file=sys.stderr)
        return 2
    try:
        drop(Path(os.environ[DATA_DIR_VARIABLE]))
        os.execv(command[0], command)  # noqa: S606 - an image's own entrypoint
    except OSError as error:
        what = error.filename or "the user cannot be changed"
        print(f"dispatcher.unprivileged: {what}: {error.strerror}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
