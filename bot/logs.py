"""Logs: plain lines on stderr, which the machine's provider keeps."""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loguru import Logger

LEVEL_VARIABLE = "SWITCHBOARD_LOG_LEVEL"
DEFAULT_LEVEL = "INFO"
"""The default level. Loguru's own is DEBUG, at which Pipecat formats hundreds of lines while it starts."""

_FORMAT = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <8} {name}:{function}:{line} {message}"
_LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR")
_KEPT_ERRORS = 20
_AUTOINIT = "LOGURU_AUTOINIT"


def _import_loguru() -> Logger:
    """Import loguru without its default handler, so that the first handler added has the number 0.

    Bot files begin with `logger.remove(0)`, as Pipecat's examples do; that must find a handler.
    """
    before = os.environ.get(_AUTOINIT)
    os.environ[_AUTOINIT] = "False"
    try:
        from loguru import logger
    finally:
        if before is None:
            del os.environ[_AUTOINIT]
        else:
            os.environ[_AUTOINIT] = before
    return logger


logger = _import_loguru()
"""Loguru's logger. The runtime's modules import it from here, so that none imports loguru earlier."""

_errors: deque[str] = deque(maxlen=_KEPT_ERRORS)


def configure(level: str) -> None:
    """Send loguru's and the standard library's lines to stderr.

    The root logger gets no handler: a bot's `logging.basicConfig()` would then do nothing.
    """
    wanted = level.upper()
    known = wanted in _LEVELS
    logger.add(sys.stderr, format=_FORMAT, level=wanted if known else DEFAULT_LEVEL, colorize=False)
    logger.add(_errors.append, format="{message}", level="ERROR", colorize=False)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(
            logging.Formatter(
                "%(asctime)s.%(msecs)03d %(levelname)-8s %(name)s %(message)s", "%Y-%m-%d %H:%M:%S"
            )
        )
    if not known:
        logger.warning(f"{LEVEL_VARIABLE} '{level}' is not allowed: it must be one of {', '.join(_LEVELS)}")


def recent_errors() -> str:
    """Return the last lines that were logged as errors, unless the bot has removed the runtime's handler."""
    return "".join(_errors)
