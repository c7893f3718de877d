"""Sizes of a reserve for Poisson arrivals, by Erlang's loss formula.

A claimed machine is replaced at once, and the replacement takes the lead time. So a reserve of S machines,
waiting or starting, is a loss system with S servers: a "server" is busy while its machine starts, and a
session that finds all S starting is a miss, which starts a machine of its own and takes none of the
reserve's. With arrivals of rate r and a mean lead L the offered load is a = r L, and the share of misses is
Erlang's B(a, S), whatever the distribution of the lead (A. K. Erlang 1917; insensitivity: B. A. Sevastyanov
1957). Pipecat Cloud's published formula, max(baseline, r L), has no margin for chance: it is S = a. The mean
number of machines that wait is S - a (1 - B).

The rate itself is uncertain. With mean r and standard deviation s, B is averaged over the three points of
Gauss-Hermite quadrature: r - s√3, r, r + s√3 with weights 1/6, 2/3, 1/6.

`B(a, 0) = 1; B(a, k) = a B(a, k-1) / (k + a B(a, k-1))` is exact and stable for any size, so the dispatcher's
image needs neither numpy nor scipy.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterable

LARGEST = 10_000
"""Machines at which every search ends: the largest reserve that settings allow."""
LOADS_PER_E = 50
"""Loads per factor e that are told apart: steps of 2 %, a tenth of what Poisson noise is at a load of 25."""


def misses(load: float, machines: int) -> float:
    """Return Erlang's B: the share of arrivals that find no machine."""
    share = 1.0
    for number in range(1, machines + 1):
        share = load * share / (number + load * share)
    return share


def machines_for(load: float, most_misses: float) -> int:
    """Return the fewest machines at which the share of misses is at most `most_misses`."""
    share, number = 1.0, 0
    while share > most_misses and number < LARGEST:
        number += 1
        share = load * share / (number + load * share)
    return number


class Curve:
    """The share of misses by the number of machines, at one load of some uncertainty."""

    def __init__(self, load: float, deviation: float) -> None:
        """Compute B until it no longer matters.

        Args:
            load: Expected arrivals within a lead time.
            deviation: Standard deviation of the load, relative to it.
        """
        self.load = load
        spread = math.sqrt(3) * deviation
        points = [
            (max(load * (1 - spread), 0.0), 1 / 6),
            (load, 2 / 3),
            (load * (1 + spread), 1 / 6),
        ]
        shares = [1.0] * len(points)
        self.misses = [1.0]
        """Machines → share of misses."""
        self._hits = [0.0]
        self._slopes: list[float] = []
        """Machines - 1 → minus the fall of misses by the last machine: ascending, since B is convex."""
        number = 0
        while self.misses[-1] > 1e-6 and number < LARGEST:
            number += 1
            total = 0.0
            for index, (at, weight) in enumerate(points):
                share = at * shares[index] / (number + at * shares[index])
                shares[index] = share
                # Weighted by the arrivals at this rate: a session rather meets the higher rates.
                total += weight * share * at
            self.misses.append(total / load if load else 0.0)
            self._hits.append(1 - self.misses[-1])
            self._slopes.append(self.misses[-1] - self.misses[-2])

    def at_most(self, share: float) -> int:
        """Return the fewest machines at which the share of misses is at most `share`."""
        return min(bisect.bisect_left(self._hits, 1 - share), len(self.misses) - 1)

    def worth(self, fall: float) -> int:
        """Return the machines of which the last one still lowers the share of misses by `fall`."""
        return bisect.bisect_right(self._slopes, -fall)


@functools.lru_cache(maxsize=4096)
def _curve(load_step: int, deviation_step: int) -> Curve:
    return Curve(math.exp(load_step / LOADS_PER_E), deviation_step / 50)


def curve(load: float, deviation: float) -> Curve:
    """Return the curve at the nearest load and deviation of the grid, from a bounded cache."""
    return _curve(
        round(LOADS_PER_E * math.log(min(max(load, 1e-6), LARGEST))), min(round(50 * deviation), 50)
    )


PATIENT_RATE = 1 / 900
"""Arrivals per second from which on no hour is given up: at a call per quarter of an hour one machine
costs 900 idle seconds a session."""
WORST_HOUR = 10
"""No busy moment has more than this many times the misses that the target allows."""


class Sizer:
    """Sizes for a target over all sessions, with the fewest idle seconds.

    A target for every moment wastes machines where calls are rare: one machine more at night waits for hours
    and spares one caller a wait, at noon it spares a dozen. So the size at each moment is the largest at
    which the last machine still spares `price` misses per idle second: a Lagrange multiplier, chosen so that
    the expected traffic as a whole meets the target. The k-th machine at rate r spares r ΔB misses per second
    and is idle for 1 - a ΔB of it, where ΔB = B(k-1) - B(k); it is worth it if ΔB ≥ price / (r + price a).
    """

    def __init__(self, target: float, expected: Iterable[tuple[float, float]], lead: float) -> None:
        """Choose the multiplier.

        Args:
            target: Share of all sessions that find a machine.
            expected: Expected rates per second with their relative deviations, of moments of equal length.
            Without
                any, each moment gets the target.
            lead: Mean time that a machine takes to start, in seconds.
        """
        self.target = target
        self.lead = lead
        self.price = 0.0
        cells: dict[tuple[int, int], tuple[float, float, int]] = {}
        for rate, deviation in expected:
            if rate * lead > 1e-6:
                # A forecast wavers around the expected rate: without it one machine more or less would hang
                # on the last digit of the multiplier.
                for wavering in (0.97, 1.0, 1.03):
                    key = (round(40 * math.log(rate * wavering)), round(20 * deviation))
                    number = cells[key][2] + 1 if key in cells else 1
                    cells[key] = (rate * wavering, deviation, number)
        if not cells:
            return
        allowed = (1 - target) * sum(rate * number for rate, _, number in cells.values())
        low, high = math.log(1e-9), math.log(10.0)
        for _ in range(24):
            self.price = math.exp((low + high) / 2)
            missed = 0.0
            for rate, deviation, number in cells.values():
                found = curve(rate * lead, deviation)
                size = min(self.machines(rate, deviation), len(found.misses) - 1)
                missed += number * rate * found.misses[size]
            if missed > allowed:
                high = math.log(self.price)
            else:
                low = math.log(self.price)
        self.price = math.exp(low)

    def machines(self, rate: float, deviation: float) -> int:
        """Return the machines, waiting or starting, for a rate per second with its relative deviation."""
        load = rate * self.lead
        if load <= 1e-6:
            return 0
        found = curve(load, deviation)
        if not self.price:
            # Without history a machine must not wait for a call an hour.
            return found.at_most(1 - self.target) if rate >= PATIENT_RATE else 0
        size = found.worth(self.price / (rate + self.price * load))
        if rate >= PATIENT_RATE:
            size = max(size, found.at_most(min(WORST_HOUR * (1 - self.target), 0.5)))
        return size
