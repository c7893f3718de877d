"""`python -m dispatcher.probe [MARK [SECONDS]]`: checks that this container's dispatcher takes starts.

With a mark, the dispatcher must also use the table of agents' images that has this
`dispatcher.image_table.mark_of`. If the check fails for that many seconds, the exit status is 1 and the
reason is printed. A stack runs this in the container.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time

DEFAULT_PORT = 7860
SECONDS = 10.0
"""Limit on the answer: readiness tries the store, and a placement."""

LOOK_SECONDS = 0.5
"""Pause between two checks."""

MOST_BYTES = 64 * 1024
"""Limit on an answer that is read."""


def missing(port: int, mark: str) -> str:
    """Return why the dispatcher takes no starts; empty if it does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        told = json.loads(answer.read(MOST_BYTES))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"it does not answer: {error or type(error).__name__}"
    finally:
        connection.close()
    if answer.status != 200:
        return str(told.get("detail", told))
    if mark and told.get("images") != mark:
        return "it does not use the new images yet; its log has the reason if they cannot be fetched"
    return ""


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    port = int(os.environ.get("SWITCHBOARD_PORT", DEFAULT_PORT))
    mark = arguments[0] if arguments else ""
    deadline = time.monotonic() + (float(arguments[1]) if len(arguments) > 1 else 0.0)
    while found := missing(port, mark):
        if time.monotonic() >= deadline:
            print(found)
            return 1
        time.sleep(LOOK_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
