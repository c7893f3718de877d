"""`python -m tests.bench [--runs 10]`: prints a Markdown table for the README.

Each run is a fresh call in the same browser with the same page and the same bot, through Switchboard and
through Pipecat's development runner in turn. The first call of each warms caches and is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.bench.measure import Run, call, development_runner
from tests.e2e.browser import FAKE_MICROPHONE, VoicePage, launch
from tests.e2e.dispatcher import CHECKOUT, Dispatcher, agent

ECHO = CHECKOUT / "bot" / "agents" / "echo.py"

WAITS = {"bot-ready": "click → bot ready", "first-sound": "click → first audible sound"}

STEPS: dict[str, tuple[str, Callable[[Run], float | None]]] = {
    "row": ("the session's row is written", lambda run: run.machine.get("row")),
    "started": ("the dispatcher has answered the start request", lambda run: run.page.get("started")),
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="calls through each that count (default: 10)")
    runs = parser.parse_args().runs
    if runs < 1:
        parser.error(f"--runs is {runs}; at least 1 is needed")
    ours, theirs = measure(runs)
    print(compared(ours, theirs))
    print()
    print(cold_start(ours))
    return 0


def measure(runs: int) -> tuple[list[Run], list[Run]]:
    """Call through Switchboard and through the development runner in turn."""
    ours: list[Run] = []
    theirs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="switchboard-bench-") as name, sync_playwright() as playwright:
        directory = Path(name)
        dispatcher = Dispatcher(directory, {"echo": agent(ECHO)})
        try:
            dispatcher.start()
            with development_runner(directory) as runner_url, launch(playwright, *FAKE_MICROPHONE) as browser:
                voice = VoicePage(browser.new_page())
                for number in range(runs + 1):
                    ours.append(call(voice, dispatcher.url, dispatcher))
                    theirs.append(call(voice, runner_url, None))
                    print(f"\r{number} of {runs}", end="", file=sys.stderr, flush=True)
                print(file=sys.stderr)
        finally:
            dispatcher.stop()
    return ours[1:], theirs[1:]


def compared(ours: Sequence[Run], theirs: Sequence[Run]) -> str:
    rows = [
        f"| medians of {len(ours)} calls | Switchboard | development runner | ratio |",
        "|---|---:|---:|---:|",
    ]
    for step, words in WAITS.items():
        one, other = ([run.page[step] for run in side] for side in (ours, theirs))
        ratio = statistics.median(one) / statistics.median(other)
        rows.append(f"| {words} | {spread(one)} | {spread(other)} | {ratio:.1f} × |")
    return "\n".join(rows)


def cold_start(ours: Sequence[Run]) -> str:
    times = {}
    for step, (words, pick) in STEPS.items():
        values = [value for run in ours if (value := pick(run)) is not None]
        if values:
            times[step] = (statistics.median(values), words)
    rows = ["| where a cold start goes | ms since the click | since the line above |", "|---|---:|---:|"]
    before = 0.0
    for at, words in sorted(times.values()):
        rows.append(f"| {words} | {at:.0f} | {at - before:.0f} |")
        before = at
    return "\n".join(rows)


def spread(values: Sequence[float]) -> str:
    """The median, and the fastest and the slowest, in seconds."""
    middle, least, most = (value / 1000 for value in (statistics.median(values), min(values), max(values)))
    return f"{middle:.2f} s ({least:.2f}–{most:.2f})"


if __name__ == "__main__":
    sys.exit(main())
