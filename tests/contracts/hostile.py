"""A bot that does the harm it can, in the place of a machine's own."""

from __future__ import annotations

import secrets

import psutil

from tests.processes import title_of

HOSTILE = """
import os, signal, time

directory = os.environ.get("SWITCHBOARD_MACHINE_DIR")
for name in ("pid", "exit", "output.log") if directory else ():
    # Whoever opens one of these waits for a writer that never comes.
    try:
        os.unlink(os.path.join(directory, name))
    except OSError:
        pass
    try:
        os.mkfifo(os.path.join(directory, name))
    except OSError:
        pass
if os.fork() == 0:
    # Out of its group, and without a variable that tells whose it is. It prints as fast as it can.
    os.setsid()
    flood = "trap '' TERM HUP; while :; do echo flood; done # left by MARK"
    os.execve("/bin/sh", ["sh", "-c", flood], {})
try:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
except ValueError:
    pass  # this is not the main thread, which stands still with the others now
os.kill(os.getpid(), signal.SIGSTOP)
while True:
    time.sleep(3600)  # the first process of a container cannot stop itself
"""


class Harm:
    """Leftovers of one harness's hostile machines: processes here that have a mark in their command."""

    def __init__(self) -> None:
        self._whose = secrets.token_hex(8)

    def code(self, machine_id: str) -> str:
        """Return what the bot of that machine runs."""
        return HOSTILE.replace("MARK", self._mark(machine_id))

    def is_there(self, machine_id: str) -> bool:
        mark = self._mark(machine_id)
        return any(mark in title_of(process) for process in psutil.process_iter())

    def _mark(self, machine_id: str) -> str:
        return f"<{machine_id} {self._whose}>"
