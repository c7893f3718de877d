"""A rate-limited warning, for an event that may happen thousands of times a second."""

from __future__ import annotations

import logging


class RepeatedWarning:
    """Logs a warning at most once per interval, with the number of events since the last line.

    Args:
        message: Takes that number and the words of the last event.
        seconds: The interval.
    """

    def __init__(self, log: logging.Logger, message: str, seconds: float = 1.0) -> None:
        self._log = log
        self._message = message
        self._seconds = seconds
        self._times = 0
        self._logged_at: float | None = None

    def warn(self, now: float, words: str) -> None:
        """Count an event at `now` (seconds of any clock), and log it if the last line is old enough."""
        self._times += 1
        if self._logged_at is not None and now - self._logged_at < self._seconds:
            return
        self._log.warning(self._message, self._times, words)
        self._times, self._logged_at = 0, now
