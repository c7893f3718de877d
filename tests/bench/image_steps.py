"""`python -m tests.bench.image_steps [--rounds 7] [--cpus 1]`: steps of a start, as a Markdown table.

Starts the bot of `image_bot` in our image through a dispatcher, in the obvious image without one, and through
a dispatcher as a `local` stack has it, in turn, so that what else the machine does falls on all alike. Times
are from the client's request for a session (of the obvious image: from the first call to the engine), the
best and the median of the rounds; the last row is the ratio of the medians to our image's. Needs root, as the
tests of images do.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.base_image import import_base
from tests.bench.image_clicks import click, containers, processes
from tests.bench.images import BOT, OBVIOUS, OURS, build, say
from tests.bench.images_starts import Start, start_obvious
from tests.engine import Engine, Missing

LOCAL = "`local`: a forked process"

STEPS = {
    "the session's row is written": "row",
    "the container is created": "created",
    "`docker start` has returned": "started",
    "Python's process exists": "process",
    "the start is answered: its machine has started": "told",
    "its channel is open": "channel",
    "the bot file is read": "bot_file",
    "the bot has imported what it needs": "imported",
    "its function is called": "called",
    "the client's offer is answered": "answered",
    "its pipeline runs": "pipeline",
    "the dispatcher knows that it is ready": "ready",
}

LAST = "pipeline"
"""The last step that all kinds have."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.image_steps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=7, help="starts of each kind that count (default: 7)")
    parser.add_argument("--cpus", type=float, default=1.0, help="of a container (default: 1)")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}; at least 1 is needed")
    if arguments.cpus <= 0:
        parser.error(f"--cpus is {arguments.cpus}; more than 0 are needed")
    try:
        with Engine() as engine:
            images = build(engine, base=import_base(engine), names=(OURS, OBVIOUS))
            print(table(start_all(engine, images, arguments.rounds, arguments.cpus), arguments.cpus))
    except Missing as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 1
    return 0


def start_all(engine: Engine, images: dict[str, str], rounds: int, cpus: float) -> dict[str, list[Start]]:
    """Start each kind in turn; the first round, which fills caches, does not count."""
    started: dict[str, list[Start]] = {OURS: [], OBVIOUS: [], LOCAL: []}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="switchboard-bench-")))
        docker = stack.enter_context(containers(engine, images[OURS], directory / "docker", cpus))
        local = stack.enter_context(processes(BOT / "bot.py", directory / "local"))
        for number in range(rounds + 1):
            say(f"round {number} of {rounds}")
            found = {
                OURS: asyncio.run(click(docker)),
                OBVIOUS: asyncio.run(start_obvious(engine, images[OBVIOUS], cpus, cold=False)),
                LOCAL: asyncio.run(click(local)),
            }
            if number:
                for kind, start in found.items():
                    started[kind].append(start)
    return started


def table(started: dict[str, list[Start]], cpus: float) -> str:
    """Return the steps as Markdown: best and median of each kind."""
    titles = " | ".join(f"{kind}: best | median" for kind in started)
    lines = [f"| from the click, {cpus:g} CPUs, until | {titles} |", "|---|" + "---:|" * 2 * len(started)]
    for step, mark in STEPS.items():
        cells = [_cells([start.since_click(mark) for start in starts]) for starts in started.values()]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    cpu = [f" | {statistics.median(start.cpu for start in starts):.2f} s" for starts in started.values()]
    lines.append(f"| CPU time of the process until then |{' |'.join(cpu)} |")
    ours = _median(started[OURS])
    ratios = [f" | {_median(starts) / ours:.2f}" for starts in started.values()]
    lines.append(f"| ratio of the medians to our image's |{' |'.join(ratios)} |")
    load = " ".join(f"{part:.1f}" for part in os.getloadavg())
    lines.append(f"\nLoad of the machine, over 1, 5 and 15 minutes: {load}, on {os.cpu_count()} cores.")
    return "\n".join(lines)


def _median(starts: Sequence[Start]) -> float:
    return statistics.median(start.marks[LAST] - start.begun for start in starts)


def _cells(seconds: Sequence[float | None]) -> str:
    known = [one for one in seconds if one is not None]
    return f"{min(known):.2f} s | {statistics.median(known):.2f} s" if known else " | "


if __name__ == "__main__":
    sys.exit(main())
