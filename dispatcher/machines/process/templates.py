"""Template processes: they have imported a bot's packages, and fork machines (see `bot/template.py`)."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from bot.output import SEGMENT_BYTES
from bot.protocol import Launch, Launched
from dispatcher.machines.provider import NoCapacity

log = logging.getLogger(__name__)

SUPPORTED = sys.platform == "linux"

REPLY_SECONDS = 2.0
"""A fork takes about 5 ms; a template that does not answer by then is broken."""

SETTLE_SECONDS = 0.2
"""Time after a template was killed for a forked leader to write its record."""


class Template:
    """The template of one bot file.

    Args:
        environment: The template's own environment, without secrets and machines' tokens.
        log_file: The output of its imports.
    """

    def __init__(
        self,
        python: str,
        bot_file: Path,
        environment: Mapping[str, str],
        log_file: Path,
        started_at: float,
    ) -> None:
        self.started_at = started_at
        self._bot_file = bot_file
        self._log_file = log_file
        self._lock = threading.Lock()
        self._ready = False
        self._mourned = False
        if log_file.exists() and log_file.stat().st_size > SEGMENT_BYTES:
            log_file.replace(log_file.with_suffix(".1.log"))
        with log_file.open("ab") as output:
            self._process = subprocess.Popen(
                [python, "-P", "-m", "bot.template", str(bot_file)],
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )

    @property
    def dead(self) -> bool:
        """True if it ended, by itself or because it did not answer."""
        return self._process.poll() is not None

    @property
    def ready(self) -> bool:
        """True if its imports are done and it can fork now."""
        with self._lock:
            if self.dead:
                self._mourn()
            elif not self._ready and self._answered(0):
                self._ready = bool(self._stdout.readline())
            return self._ready and not self.dead

    def launch(self, launch: Launch) -> bool:
        """Fork a machine. Blocks for some milliseconds.

        False if the machine cannot be described in JSON (variables may hold any bytes), or the template gave
        no answer. In that case the template and its unfinished forks are killed: a machine that started
        nevertheless is on record in its directory.

        Raises:
            NoCapacity: the system cannot start another process.
        """
        try:
            line = launch.model_dump_json().encode() + b"\n"
        except PydanticSerializationError:
            return False
        with self._lock:
            try:
                self._stdin.write(line)
                self._stdin.flush()
                reply = self._stdout.readline() if self._answered(REPLY_SECONDS) else b""
                launched = Launched.model_validate_json(reply)
            except (OSError, ValidationError):
                self._give_up()
                return False
        if launched.error is not None:
            raise NoCapacity(f"this host cannot start another process: {launched.error}")
        return True

    def close(self) -> None:
        """End the template; its machines go on."""
        with self._lock:
            with contextlib.suppress(OSError):  # it has exited without reading its last line
                self._stdin.close()
            try:
                self._process.wait(REPLY_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._stdout.close()

    def _give_up(self) -> None:
        """Kill the template, with every forked process that has not become a group of its own.

        A leader that has become one writes its record next, within microseconds.
        """
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._mourn()
        time.sleep(SETTLE_SECONDS)

    def _mourn(self) -> None:
        if not self._mourned:
            self._mourned = True
            log.warning(
                "the template of %s ended with status %s: machines start from nothing, see %s",
                self._bot_file,
                self._process.returncode,
                self._log_file,
            )

    def _answered(self, seconds: float) -> bool:
        # Not `select`, which takes no descriptor above 1,023.
        poll = select.poll()
        poll.register(self._stdout, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        return self._process.stdout
