"""The predictive reserve against baselines on the calls of a bank: `make bench-reserve`.

All go through the same replay. Days 21 to 164 are measured, the days before are learned from. The baselines:

- published formula: max(baseline, rate * start seconds) at the mean peak, with hindsight;
- static Erlang-B: for the mean peak and a hit rate of 0.995, with hindsight;
- max(time of day, EWMA): the mean of the past days' same slot or that of the last minutes, whichever is more;
- oracle: the calls of each slot as they will be.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from array import array
from collections import defaultdict
from pathlib import Path

from dispatcher.reserve.calendar import SLOT, Calendar
from dispatcher.reserve.compared import mean_peak
from dispatcher.reserve.erlang import machines_for
from dispatcher.reserve.policy import Fixed, Moment, Policy, Predictive, Wanted
from dispatcher.reserve.replay import replay
from dispatcher.reserve.settings import DEFAULT_TARGET
from dispatcher.reserve.traces import read

TRACE = Path(__file__).parents[1] / "dispatcher" / "reserve" / "data" / "bank_calls.csv"
CASES = ((1.0, 30.0), (0.1, 30.0), (1.0, 2.0), (1.0, 10.0), (1.0, 60.0))
"""(share of the calls, lead in seconds)."""
LEARNED = 20
"""Days with calls before the measured ones."""
TICK = 10.0


class _BySlot:
    """Erlang-B at a rate per slot; the next slot's counts a lead time before it begins."""

    def __init__(self, target: float) -> None:
        self._allowed = 1 - target
        self._sizes: dict[int, int] = {}

    def _size(self, rate: float, lead: float) -> int:
        step = round(rate * 1000)
        if step not in self._sizes:
            self._sizes[step] = machines_for(step / 1000 * lead, self._allowed)
        return self._sizes[step]


class Oracle(_BySlot):
    def __init__(self, target: float, times: array[float]) -> None:
        super().__init__(target)
        self._counts: dict[int, int] = defaultdict(int)
        for at in times:
            self._counts[int(at // SLOT)] += 1

    def observe(self, now: float, calls: int) -> None: ...

    def wanted(self, moment: Moment) -> Wanted:
        slots = {int(at // SLOT) for at in (moment.now, moment.now + moment.lead + TICK)}
        rate = max(self._counts.get(slot, 0) for slot in slots) / SLOT
        return Wanted(self._size(rate, moment.lead), str)


class TimeOfDay(_BySlot):
    def __init__(self, target: float) -> None:
        super().__init__(target)
        self._sums: dict[int, float] = defaultdict(float)
        self._today: dict[int, int] = defaultdict(int)
        self._day, self._days, self._rate = -1, 0, 0.0

    def observe(self, now: float, calls: int) -> None:
        day = int((now - 1) // 86_400)
        if day != self._day:
            if self._today:
                self._days += 1
                for slot, number in self._today.items():
                    self._sums[slot] += number
            self._day, self._today = day, defaultdict(int)
        if calls:
            self._today[int((now - TICK / 2) % 86_400 // SLOT)] += calls
        kept = 0.5 ** (TICK / 300)
        self._rate = self._rate * kept + calls / TICK * (1 - kept)

    def wanted(self, moment: Moment) -> Wanted:
        slots = {int(at % 86_400 // SLOT) for at in (moment.now, moment.now + moment.lead + TICK)}
        # A weekend looks like a workday to it until an hour has gone by without a call.
        typical = max(self._sums.get(slot, 0.0) for slot in slots) / SLOT / max(self._days, 1)
        return Wanted(self._size(max(typical, self._rate), moment.lead), str)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", type=int, choices=range(len(CASES)), help="only this one of the cases")
    parser.add_argument("--target", type=float, default=DEFAULT_TARGET)
    options = parser.parse_args()
    trace = read(str(TRACE), "UTC")
    days = sorted({int(at // 86_400) for at in trace.times})
    measured_from = days[LEARNED] * 86_400.0
    print("| calls | lead s | policy | hit rate | idle s/session | CPU s |\n|---:|---:|---|---:|---:|---:|")
    for number, (share, lead) in enumerate(CASES):
        if options.case not in (None, number):
            continue
        chance = random.Random(1)
        times = array("d", (at for at in trace.times if share == 1 or chance.random() < share))
        peak = mean_peak(times, Calendar("UTC"))
        policies: dict[str, Policy] = {
            "published formula": Fixed(math.ceil(peak * lead)),
            "static Erlang-B": Fixed(machines_for(peak * lead, 0.005)),
            "max(time of day, EWMA)": TimeOfDay(0.993),
            "oracle": Oracle(0.993, times),
            "predictive": Predictive(options.target, Calendar("UTC"), tick=TICK),
        }
        for name, policy in policies.items():
            begun = time.process_time()
            found = replay(
                times,
                policy,
                [lead],
                begin=trace.begin,
                end=trace.end,
                measured_from=measured_from,
                tick=TICK,
            )
            print(
                f"| {share:g} × | {lead:g} | {name} | {found.hit_rate:.4f} | {found.idle_per_session:.2f} "
                f"| {time.process_time() - begun:.0f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
