"""`python -m tests.bench [--runs 10]`: prints a Markdown table for the README.

Each run is a fresh call in the same browser with the same page and the same bot, in turn through

- Switchboard with a reserve of two machines, each of which has imported the bot file and waits,
- Switchboard with machines that are forked from a template, which has Pipecat imported,
- Switchboard with machines that are started from nothing: its template has been killed,
- Pipecat's development runner, which has everything imported and isolates nothing.

The first call of each warms caches and is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import sync_playwright

from tests.bench.measure import Run, call, development_runner
from tests.e2e.browser import FAKE_MICROPHONE, VoicePage, launch, until
from tests.e2e.dispatcher import CHECKOUT, NO_TLS, Dispatcher, agent
from tests.patience import PATIENCE

ECHO = CHECKOUT / "bot" / "agents" / "echo.py"

WAITS = {"bot-ready": "click → bot ready", "first-sound": "click → first audible sound"}

STEPS: dict[str, tuple[str, Callable[[Run], float | None]]] = {
    "row": ("the session's row is written", lambda run: run.machine.get("row")),
    "started": ("the page knows that the machine has started", lambda run: run.page.get("started")),
    "process": ("the machine's process exists", lambda run: run.machine.get("process")),
    "connected": ("its channel stands", lambda run: run.machine.get("connected")),
    "offer": ("the client's offer has reached it", lambda run: run.machine.get("offer")),
    "imported": ("Pipecat is imported", lambda run: run.machine.get("imported")),
    "answer": ("the answer to the offer is sent", lambda run: run.machine.get("answer")),
    "joined": ("the browser is connected (ICE, DTLS, data channel)", lambda run: run.page.get("connected")),
    "loaded": ("the bot file is imported", lambda run: run.machine.get("loaded")),
    "client": ("the bot knows that its client is there", lambda run: run.machine.get("client")),
    "pipeline": ("the pipeline has started", lambda run: run.machine.get("pipeline")),
    "ready": ("the page hears that the bot is ready", lambda run: run.page.get("bot-ready")),
    "sound": ("the first audible sound is in the page", lambda run: run.page.get("first-sound")),
}


RESERVE = "Switchboard, from the reserve"
FORKED = "Switchboard, forked"
FROM_NOTHING = "Switchboard, from nothing"
RUNNER = "development runner"

Runs = dict[str, list[Run]]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=10, help="calls through each that count (default: 10)")
    runs = parser.parse_args().runs
    if runs < 1:
        parser.error(f"--runs is {runs}; at least 1 is needed")
    measured = measure(runs)
    print(compared(measured))
    print()
    print(where_a_start_goes(measured[FORKED], measured[FROM_NOTHING]))
    return 0


def measure(runs: int) -> Runs:
    """Call through each in turn, so that what else the machine does falls on all alike."""
    measured: Runs = {RESERVE: [], FORKED: [], FROM_NOTHING: [], RUNNER: []}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="switchboard-bench-")))
        forked = stack.enter_context(dispatcher_in(directory / "forked", forks=True))
        forked.wait_for_templates()
        reserve = stack.enter_context(dispatcher_in(directory / "reserve", forks=True, reserve={"fixed": 2}))
        from_nothing = stack.enter_context(dispatcher_in(directory / "from-nothing", forks=False))
        runner_url = stack.enter_context(development_runner(directory))
        playwright = stack.enter_context(sync_playwright())
        browser = stack.enter_context(launch(playwright, *FAKE_MICROPHONE))
        voice = VoicePage(browser.new_page())
        for number in range(runs + 1):
            wait_for_reserve(reserve, 2)
            measured[RESERVE].append(call(voice, reserve.url, None))
            measured[FORKED].append(call(voice, forked.url, forked))
            measured[FROM_NOTHING].append(call(voice, from_nothing.url, from_nothing))
            measured[RUNNER].append(call(voice, runner_url, None))
            assert forked.ready_templates() == 1, "the template died: these machines were not all forked"
            assert from_nothing.templates() == [], "a template came back: these machines may be forked"
            print(f"\r{number} of {runs}", end="", file=sys.stderr, flush=True)
        claimed = sample(reserve, 'switchboard_reserve_starts_total{agent="echo",result="claimed"}')
        assert claimed == runs + 1, f"{claimed:.0f} of {runs + 1} calls were from the reserve"
        print(file=sys.stderr)
    return {name: taken[1:] for name, taken in measured.items()}


@contextmanager
def dispatcher_in(directory: Path, forks: bool, **of_agent: Any) -> Iterator[Dispatcher]:
    directory.mkdir()
    dispatcher = Dispatcher(directory, {"echo": agent(ECHO, **of_agent)}, forks=forks)
    try:
        dispatcher.start()
        yield dispatcher
    finally:
        dispatcher.stop()


def wait_for_reserve(dispatcher: Dispatcher, machines: int) -> None:
    """Return once so many machines wait. The dispatcher counts them anew every few seconds."""
    idle = 'switchboard_machines{placement="process",state="idle"}'
    until(lambda: sample(dispatcher, idle) >= machines, PATIENCE, "a full reserve")


def sample(dispatcher: Dispatcher, series: str) -> float:
    """Return a metric's value; 0 if there is none."""
    text = httpx.get(f"{dispatcher.url}/metrics", verify=NO_TLS).raise_for_status().text
    values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(series)]
    return float(values[0]) if values else 0.0


def compared(measured: Runs) -> str:
    heads = [RESERVE, FORKED, FROM_NOTHING, RUNNER]
    rows = [
        f"| medians of {len(measured[RUNNER])} calls (fastest–slowest) | {' | '.join(heads)} |",
        "|---|---:|---:|---:|---:|",
    ]
    for step, words in WAITS.items():
        values = {head: [run.page[step] for run in measured[head]] for head in heads}
        base = statistics.median(values[RUNNER])
        cells = [f"{spread(values[head])}, {statistics.median(values[head]) / base:.1f} ×" for head in heads]
        rows.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(rows)


def where_a_start_goes(forked: Sequence[Run], from_nothing: Sequence[Run]) -> str:
    """Medians of each step; in the order in which they happen in a machine that is started from nothing."""
    rows = ["| where a start goes, in ms since the click | forked | from nothing |", "|---|---:|---:|"]
    steps = [
        (median_of(from_nothing, pick), median_of(forked, pick), words) for words, pick in STEPS.values()
    ]
    for slow, quick, words in sorted(steps):
        rows.append(f"| {words} | {quick:.0f} | {slow:.0f} |")
    return "\n".join(rows)


def median_of(runs: Sequence[Run], pick: Callable[[Run], float | None]) -> float:
    return statistics.median(value for run in runs if (value := pick(run)) is not None)


def spread(values: Sequence[float]) -> str:
    """The median, and the fastest and the slowest, in seconds."""
    middle, least, most = (value / 1000 for value in (statistics.median(values), min(values), max(values)))
    return f"{middle:.2f} s ({least:.2f}–{most:.2f})"


if __name__ == "__main__":
    sys.exit(main())
