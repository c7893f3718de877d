"""Log lines, as text for people or as JSON for collectors; both carry the ids of what they are about.

    text   2026-11-21 10:54:38,123 INFO dispatcher.sessions.service: … [session=… machine=… trace=…]
    json   {"time": "2026-11-21T10:54:38.123Z", "level": "INFO", "logger": …, "message": …, "replica": …,
            "session_id": …, "machine_id": …, "trace_id": …, "error": …}

The ids come from `telemetry.context`. What a line is not about is left out, and so is `error`, the traceback,
where there is none. In text, line ends and escape codes of a message are escaped, and a traceback's lines
begin with a bar: whatever a bot or a caller says, a line that begins with a time is ours. Nobody here
logs a secret; what a library might quote is masked on the way out.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import IO

from dispatcher.keys import PRIVATE_PREFIX
from dispatcher.log_context import current
from dispatcher.printable import escaped
from dispatcher.settings import LogFormat, LogLevel

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

_SECRETS = (
    # An Authorization header, a private key of ours, a JWT (machines' tokens, rooms' tokens), a token or key
    # in a URL's query, and the password in a URL such as the store's.
    ("bearer", re.compile(r"(?P<kept>\bbearer\s+)[^\s\"',)]+", re.IGNORECASE)),
    (PRIVATE_PREFIX, re.compile(rf"(?P<kept>\b{PRIVATE_PREFIX})[\w-]{{8,}}")),
    ("eyj", re.compile(r"(?P<kept>)\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*")),
    ("=", re.compile(r"(?P<kept>[?&](?:access_token|api_?key|key|secret|token)=)[^&\s\"']+", re.IGNORECASE)),
    ("://", re.compile(r"(?P<kept>\b[a-z][a-z0-9+.-]*://[^/\s:@]*:)[^/\s@]+(?=@)", re.IGNORECASE)),
)
"""Patterns of secrets, each with a text that a line must contain, in lower case, to be searched: a search
takes as long as writing the line, and there are five for every line."""


FILE_BYTES = 10 * 1024 * 1024
"""Size at which a log file is rotated."""

OLD_FILES = 2


class _BoundedFile(RotatingFileHandler):
    """A log file that also receives this process's stdout and stderr: a library's output counts towards its
    size."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, maxBytes=FILE_BYTES, backupCount=OLD_FILES, encoding="utf-8")
        self._lead()

    def doRollover(self) -> None:
        super().doRollover()
        self._lead()

    def _lead(self) -> None:
        stream = self.stream or self._open()
        os.fchmod(stream.fileno(), 0o600)  # it contains callers' addresses and bots' output
        for printed in (1, 2):
            os.dup2(stream.fileno(), printed)


def configure(
    level: LogLevel, form: LogFormat, stream: IO[str] | None = None, file: Path | None = None
) -> None:
    """Send all lines of this process, the server's and the libraries' too, to the file or the stream, else to
    stderr.

    Raises:
        OSError: The file cannot be opened.
    """
    handler = logging.StreamHandler(stream or sys.stderr) if file is None else _BoundedFile(file)
    handler.setFormatter(JsonLines(replica()) if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Alembic logs a line per migration, which hides the dispatcher's own lines.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # A line per call at info: two thirds of the log of a dispatcher whose machines are at Fly.
    for client in ("httpx", "httpcore"):
        logging.getLogger(client).setLevel(logging.NOTSET if level == "debug" else logging.WARNING)
    # At debug these log every header of a channel, machine tokens included.
    for server in ("uvicorn.error", "websockets"):
        logging.getLogger(server).setLevel(max(logging.INFO, logging.root.level))
    # Three lines per channel, and strangers can open as many as they like.
    logging.getLogger("uvicorn.error.channels").setLevel(
        logging.INFO if level == "debug" else logging.WARNING
    )


def replica() -> str:
    """Return this process's name among the deployment's: a container's host name is its own, a host has many
    processes."""
    return f"{socket.gethostname()}-{os.getpid()}"


def masked(text: str) -> str:
    """Return the text with everything masked that looks like a secret."""
    lower = text.lower()
    for mark, secret in _SECRETS:
        if mark in lower:
            text = secret.sub(r"\g<kept>***", text)
    return text


class TextLines(logging.Formatter):
    """One line per record, and its traceback below it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = escaped(super().formatMessage(record))
        subject = current()
        ids = (
            ("session", subject.session_id),
            ("machine", subject.machine_id),
            ("trace", subject.trace_id),
        )
        # A message that contains the session's id does not repeat it.
        more = [f"{name}={value}" for name, value in ids if value is not None and value not in record.message]
        return f"{line} [{' '.join(more)}]" if more else line

    def formatException(self, ei: _ExcInfo) -> str:
        # An exception's message may have several lines; the bar marks them as part of the traceback.
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  | {escaped(line)}" for line in lines)

    def formatStack(self, stack_info: str) -> str:
        return "\n".join(f"  | {escaped(line)}" for line in stack_info.split("\n"))

    def format(self, record: logging.LogRecord) -> str:
        # A traceback that another handler has rendered is not escaped.
        record.exc_text = None
        return masked(super().format(record))


class JsonLines(logging.Formatter):
    """One JSON object per line, whatever is in the record."""

    def __init__(self, replica: str) -> None:
        super().__init__()
        self._replica = replica

    def format(self, record: logging.LogRecord) -> str:
        subject = current()
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": masked(record.getMessage()),
            "replica": self._replica,
            "session_id": subject.session_id,
            "machine_id": subject.machine_id,
            "trace_id": subject.trace_id,
            "error": masked(self.formatException(record.exc_info)) if record.exc_info else None,
        }
        known = {name: value for name, value in line.items() if value is not None}
        return json.dumps(known, ensure_ascii=False)
