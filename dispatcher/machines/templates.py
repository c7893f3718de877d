"""Template processes: they have imported what a bot needs, and fork machines (see `bot/template.py`)."""

from __future__ import annotations

import logging
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from bot.protocol import Launch, Launched
from dispatcher.machines.provider import NoCapacity, Unreachable

log = logging.getLogger(__name__)

SUPPORTED = sys.platform == "linux"

REPLY_SECONDS = 5.0
"""A fork takes about 5 ms; a template that does not answer by then is broken."""


class Template:
    """The template of one bot file.

    Args:
        environment: The template's own environment; it holds no secret and no machine's token.
        log_file: Where its imports print.
    """

    def __init__(self, python: str, bot_file: Path, environment: Mapping[str, str], log_file: Path) -> None:
        self._bot_file = bot_file
        self._lock = threading.Lock()
        self._ready = False
        self._mourned = False
        self._log_file = log_file
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
    def ready(self) -> bool:
        """Whether its imports are done and it can fork now."""
        with self._lock:
            if not self._ready and self._process.poll() is None and self._answered(0):
                self._ready = bool(self._stdout.readline())
            alive = self._process.poll() is None
            if not alive and not self._mourned:
                self._mourned = True
                log.warning(
                    "the template of %s ended with status %s: machines start from nothing, see %s",
                    self._bot_file,
                    self._process.returncode,
                    self._log_file,
                )
            return self._ready and alive

    def launch(self, launch: Launch) -> None:
        """Fork a machine. Blocks for some milliseconds.

        Raises:
            NoCapacity: the system cannot start another process.
            Unreachable: the template gave no answer; a machine may have been started.
        """
        with self._lock:
            try:
                self._stdin.write(launch.model_dump_json().encode() + b"\n")
                self._stdin.flush()
                line = self._stdout.readline() if self._answered(REPLY_SECONDS) else b""
                launched = Launched.model_validate_json(line)
            except (OSError, ValidationError) as error:
                self._process.kill()
                raise Unreachable(f"the template of {self._bot_file} does not answer: {error}") from error
        if launched.error is not None:
            raise NoCapacity(f"this host cannot start another process: {launched.error}")

    def close(self) -> None:
        """End the template; its machines go on."""
        with self._lock:
            self._stdin.close()
            try:
                self._process.wait(REPLY_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._stdout.close()

    def _answered(self, seconds: float) -> bool:
        return bool(select.select([self._stdout], [], [], seconds)[0])

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        return self._process.stdout
