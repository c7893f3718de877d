"""Local days and five-minute slots of a time zone."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

SLOT = 300
"""Length of a slot in seconds: arrivals are kept as counts of five minutes."""
SLOTS = 86_400 // SLOT
_BLOCK = 900
"""Offsets change at quarters of an hour at the earliest."""


class Calendar:
    """Turns instants into local days and seconds of the day."""

    def __init__(self, zone: str) -> None:
        self.zone = ZoneInfo(zone)
        self._offsets: dict[int, float] = {}

    def local(self, at: float) -> float:
        """Return the seconds of the local clock since its 1970: day * 86400 + seconds of the day."""
        block = int(at // _BLOCK)
        offset = self._offsets.get(block)
        if offset is None:
            if len(self._offsets) > 1000:
                self._offsets.clear()
            found = datetime.fromtimestamp(block * _BLOCK, UTC).astimezone(self.zone).utcoffset()
            offset = found.total_seconds() if found else 0.0
            self._offsets[block] = offset
        return at + offset

    def day_and_slot(self, at: float) -> tuple[int, int]:
        """Return the local day since 1970 and its slot."""
        day, seconds = divmod(self.local(at), 86_400)
        return int(day), int(seconds // SLOT)

    def named(self, at: float) -> str:
        """Return weekday and time, as `Monday 10:05`."""
        return datetime.fromtimestamp(at, UTC).astimezone(self.zone).strftime("%A %H:%M")


def weekday(day: int) -> int:
    """Return 0 for Monday to 6 for Sunday; day 0, the first of 1970, was a Thursday."""
    return (day + 3) % 7
