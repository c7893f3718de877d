"""`python -m tests.bench [--runs 10]`: prints a Markdown table for the README.

Each run is a fresh call in the same browser with the same page and the same bot, in turn through

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

from playwright.sync_api import sync_playwright

from tests.bench.measure import Run, call, development_runner
from tests.e2e.browser import FAKE_MICROPHONE, VoicePage, launch
from tests.e2e.dispatcher import CHECKOUT, Dispatcher, agent

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
    measured: Runs = {FORKED: [], FROM_NOTHING: [], RUNNER: []}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="switchboard-bench-")))
        forked = stack.enter_context(dispatcher_in(directory / "forked", forks=True))
        forked.wait_for_templates()
        from_nothing = stack.enter_context(dispatcher_in(directory / "from-nothing", forks=False))
        runner_url = stack.enter_context(development_runner(directory))
        playwright = stack.enter_context(sync_playwright())
        browser = stack.enter_context(launch(playwright, *FAKE_MICROPHONE))
        voice = VoicePage(browser.new_page())
        for number in range(runs + 1):
            measured[FORKED].append(call(voice, forked.url, forked))
            measured[FROM_NOTHING].append(call(voice, from_nothing.url, from_nothing))
            measured[RUNNER].append(call(voice, runner_url, None))
            assert forked.ready_templates() == 1, "the template died: these machines were not all forked"
            assert from_nothing.templates() == [], "a template came back: these machines may be forked"
            print(f"\r{number} of {runs}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    return {name: taken[1:] for name, taken in measured.items()}


@contextmanager
def dispatcher_in(directory: Path, forks: bool) -> Iterator[Dispatcher]:
    directory.mkdir()
    dispatcher = Dispatcher(directory, {"echo": agent(ECHO)}, forks=forks)
    try:
        dispatcher.start()
        yield dispatcher
    finally:
        dispatcher.stop()


def compared(measured: Runs) -> str:
    heads = [FORKED, FROM_NOTHING, RUNNER]
    rows = [
        f"| medians of {len(measured[RUNNER])} calls (fastest–slowest) | {' | '.join(heads)} |",
        "|---|---:|---:|---:|",
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
