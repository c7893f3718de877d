"""Arrivals for the simulator: from a file of counts, a file of instants, or a synthetic week.

A file of counts has the header `start,calls` and a row per interval; calls are spread over their interval
uniformly by chance (given its count, a Poisson process' arrivals are uniform), with a fixed seed: the same
file always gives the same arrivals. The interval's length is the shortest distance between two rows.
Intervals without a row have no calls. A file of instants has one ISO time a line.

Times without an offset are local to the given zone. Where the clock goes back, the second occurrence of a
local time is the later one.
"""

from __future__ import annotations

import itertools
import math
import random
from array import array
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

HEADER = "start,calls"
SYNTHETIC = "synthetic"
MOST_CALLS = 50_000_000
MOST_DAYS = 1500
DEFAULT_INTERVAL = 300.0
"""Interval of a file with one row."""
SEED = 20_030_303


class TraceError(Exception):
    """A trace that cannot be read. The message names file, row, field, value and what is allowed."""


@dataclass(frozen=True)
class Trace:
    """Arrivals, and the time that they cover."""

    name: str
    times: array[float]
    """Seconds since 1970, ascending."""
    begin: float
    end: float


def read(name: str, zone: str) -> Trace:
    """Return the trace of a file, or the synthetic weeks for the name `synthetic`. Raises TraceError."""
    if name == SYNTHETIC:
        return synthetic(zone)
    try:
        lines = Path(name).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise TraceError(
            f"TRACE: {name!r} cannot be read ({reason}); allowed: a readable file, or {SYNTHETIC}"
        ) from None
    except UnicodeDecodeError:
        raise TraceError(f"TRACE: {name!r} is not UTF-8 text; allowed: CSV, or one ISO time a line") from None
    rows = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise TraceError(f"{name}: the file is empty; allowed: {HEADER} and rows, or one ISO time a line")
    if "," in rows[0][1] or rows[0][1].lower() == "start":
        header = ",".join(part.strip().strip('"').lower() for part in rows[0][1].split(","))
        if header != HEADER:
            raise TraceError(f"{name}: row 1: header {_shown(rows[0][1])} is refused; allowed: {HEADER}")
        return _of_counts(name, rows[1:], zone)
    return _of_instants(name, rows, zone)


def synthetic(zone: str) -> Trace:
    """Return four weeks of an office's calls: two peaks a day, quiet nights, a tenth of it at weekends."""
    chance = random.Random(SEED)  # noqa: S311 - not for secrets
    begin = _instant("2025-03-03T00:00", ZoneInfo(zone), {})
    times = array("d")
    for slot in range(28 * 288):
        hour = slot % 288 / 12
        shape = 0.01 + math.exp(-(((hour - 10.5) / 2) ** 2)) + 0.8 * math.exp(-(((hour - 15) / 2) ** 2))
        expected = 90 * shape * (0.1 if slot // 288 % 7 >= 5 else 1.0)
        _spread(times, begin + 300 * slot, 300.0, _poisson(expected, chance), chance)
    return Trace(SYNTHETIC, times, begin, begin + 28 * 86_400)


def _of_counts(name: str, rows: list[tuple[int, str]], zone: str) -> Trace:
    if not rows:
        raise TraceError(
            f"{name}: no row follows the header; allowed: at least one row such as 2025-03-03T07:00,12"
        )
    where, seen = ZoneInfo(zone), dict[datetime, int]()
    counts: dict[float, int] = {}
    total = 0
    for number, line in rows:
        parts = [part.strip().strip('"') for part in line.split(",")]
        if len(parts) != 2:
            raise TraceError(
                f"{name}: row {number}: {_shown(line)} has {len(parts)} fields; allowed: {HEADER}"
            )
        at = _time(name, number, "start", parts[0], where, seen)
        try:
            calls = int(parts[1])
        except ValueError:
            calls = -1
        if not 0 <= calls <= MOST_CALLS:
            raise TraceError(
                f"{name}: row {number}: calls {_shown(parts[1])} is refused; "
                f"allowed: a whole number, 0 to {MOST_CALLS}"
            )
        total += calls
        if total > MOST_CALLS:
            raise TraceError(f"{name}: row {number}: calls add up to {total}; allowed: at most {MOST_CALLS}")
        counts[at] = counts.get(at, 0) + calls
    starts = sorted(counts)
    steps = [after - before for before, after in itertools.pairwise(starts)]
    length = min(min(steps, default=DEFAULT_INTERVAL), 86_400.0)
    chance = random.Random(SEED)  # noqa: S311 - not for secrets
    times = array("d")
    for start in starts:
        _spread(times, start, length, counts[start], chance)
    return _within_bounds(Trace(name, times, starts[0], starts[-1] + length))


def _of_instants(name: str, rows: list[tuple[int, str]], zone: str) -> Trace:
    if rows[0][1].strip('"').lower() in ("time", "start", "timestamp"):
        rows = rows[1:]
    where = ZoneInfo(zone)
    found = sorted(_time(name, number, "time", line.strip('"'), where, {}) for number, line in rows)
    if not found:
        raise TraceError(f"{name}: no row follows the header; allowed: one ISO time a line")
    return _within_bounds(Trace(name, array("d", found), found[0], found[-1] + 1))


def _within_bounds(trace: Trace) -> Trace:
    days = (trace.end - trace.begin) / 86_400
    if days > MOST_DAYS:
        raise TraceError(f"{trace.name}: it spans {days:.0f} days; allowed: at most {MOST_DAYS}")
    return trace


def _time(name: str, number: int, field: str, text: str, zone: ZoneInfo, seen: dict[datetime, int]) -> float:
    try:
        return _instant(text, zone, seen)
    except (ValueError, OverflowError):
        raise TraceError(
            f"{name}: row {number}: {field} {_shown(text)} is refused; "
            "allowed: an ISO time such as 2025-03-03T07:00"
        ) from None


def _instant(text: str, zone: ZoneInfo, seen: dict[datetime, int]) -> float:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        local = at
        at = local.replace(tzinfo=zone)
        times = seen.get(local, 0)
        if times and at.utcoffset() != at.replace(fold=1).utcoffset():
            at = at.replace(fold=1)
        seen[local] = times + 1
    return at.astimezone(UTC).timestamp()


def _spread(times: array[float], start: float, length: float, calls: int, chance: random.Random) -> None:
    times.extend(sorted(start + length * chance.random() for _ in range(calls)))


def _poisson(mean: float, chance: random.Random) -> int:
    """Return a Poisson number by counting exponential gaps."""
    number, at = 0, chance.expovariate(1.0)
    while at < mean:
        number += 1
        at += chance.expovariate(1.0)
    return number


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
