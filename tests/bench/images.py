"""`python -m tests.bench.images [--runs 5] [--cpus 0.5]`: prints the Markdown tables of docs/images.md.

Builds the bot image in each variant, the dispatcher's, and the obvious one (`obvious.Dockerfile`) in the
engine of the tests; pushes them to a registry on the loopback, which tells what they weigh compressed; and
pulls them into an engine that is empty. There it starts the same bot in ours and in the obvious one, in turn,
with the page cache cold and warm, and offers it a call as early as it takes one. Needs root, as the tests of
images do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.base_image import import_base
from tests.bench.images_starts import Start, start_obvious, start_ours
from tests.engine import Engine, Missing, cache_directory
from tests.images.conftest import CHECKOUT, build_arguments, registry_secrets
from tests.registry import Registry

OURS = "bot, all transports"
DISPATCHER = "dispatcher"
OBVIOUS = "the obvious image of a bot"
VARIANTS = {
    OURS: {},
    "bot, `daily`": {"TRANSPORTS": "daily"},
    "bot, `webrtc`": {"TRANSPORTS": "webrtc"},
    "bot, `websocket`": {"TRANSPORTS": "websocket"},
}
PARTS = (
    "the base: Debian and Python",
    "packages",
    "our runtime",
    "the working directory's name",
    "models (ONNX: in a package)",
    "the bot directory",
)
"""The layers of `bot.Dockerfile`, from the first on."""

LAYERS = ("COPY", "RUN", "WORKDIR")
"""Instructions that make one."""

BOT = CHECKOUT / "tests" / "bench" / "image_bot"
STEPS: dict[str, Callable[[Start], float]] = {
    "Python's process exists": lambda start: start.until("process"),
    "the bot file is read": lambda start: start.until("bot_file"),
    "it has imported what it needs": lambda start: start.until("imported"),
    "its function is called, with a client's offer": lambda start: start.until("called"),
    "its pipeline runs": lambda start: start.until("pipeline"),
    "CPU time of the process until then": lambda start: start.cpu,
}


@dataclass(frozen=True)
class Weight:
    """Bytes of an image on disk, and of each layer, as files and compressed."""

    disk: int
    layers: list[int]
    compressed: list[int]


@dataclass
class Measured:
    weights: dict[str, Weight] = field(default_factory=dict)
    pulls: dict[str, float] = field(default_factory=dict)
    starts: dict[tuple[str, bool], list[Start]] = field(default_factory=dict)
    """By image, and by whether the page cache was cold."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=5, help="starts of each kind that count (default: 5)")
    parser.add_argument("--cpus", type=float, default=0.5, help="of a container (default: 0.5)")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error(f"--runs is {arguments.runs}; at least 1 is needed")
    if arguments.cpus <= 0:
        parser.error(f"--cpus is {arguments.cpus}; more than 0 are needed")
    try:
        measured = measure(arguments.runs, arguments.cpus)
    except Missing as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 1
    print(sizes(measured), parts(measured.weights[OURS]), starts(measured, arguments.cpus), sep="\n\n")
    return 0


def measure(runs: int, cpus: float) -> Measured:
    measured = Measured()
    with registry() as store, Engine() as builder:
        references = {}
        for name, image in build(builder, import_base(builder)).items():
            say(f"pushing {name}")
            disk, layers = weigh(builder, image)
            references[name] = store.push(builder, image, f"bench/{len(references)}")
            measured.weights[name] = Weight(disk, layers, compressed(store, references[name]))
        # One engine at a time; the other keeps its turn while it rests.
        builder.stop()
        with (
            tempfile.TemporaryDirectory(prefix="switchboard-bench-", dir=cache_directory()) as directory,
            Engine(Path(directory) / "docker") as empty,
        ):
            images = {name: references[name] for name in (OURS, OBVIOUS)}
            for name, reference in images.items():
                say(f"pulling {name}")
                began = time.monotonic()
                empty.docker("pull", "--quiet", reference)
                measured.pulls[name] = time.monotonic() - began
            measured.starts = start_all(empty, images, runs, cpus)
    return measured


@contextmanager
def registry() -> Iterator[Registry]:
    started = Registry()
    try:
        yield started
    finally:
        started.close()


def build(
    engine: Engine, base: str, names: Iterable[str] = (*VARIANTS, DISPATCHER, OBVIOUS)
) -> dict[str, str]:
    """Build these images; return the id of each."""
    obvious = ("--file", str(CHECKOUT / "tests" / "bench" / "obvious.Dockerfile"))
    built = {}
    for name in names:
        say(f"building {name}")
        if name == DISPATCHER:
            words = build_arguments("dispatcher", CHECKOUT, {"BASE": base})
        elif name == OBVIOUS:
            words = [*obvious, "--build-arg", f"BASE={base}", *registry_secrets(), str(BOT)]
        else:
            arguments = {"BASE": base, "BOT_DIR": str(BOT.relative_to(CHECKOUT)), **VARIANTS[name]}
            words = build_arguments("bot", CHECKOUT, arguments)
        built[name] = engine.build(*words)
    return built


def weigh(engine: Engine, image: str) -> tuple[int, list[int]]:
    """Weigh an image on disk, and each of its layers. Bytes."""
    history = engine.docker("history", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", image)
    entries = [line.split("\t") for line in reversed(history.splitlines())]
    layers = [int(size) for size, by in entries if by.startswith(LAYERS)]
    return int(engine.docker("inspect", "--format", "{{.Size}}", image)), layers


def compressed(store: Registry, reference: str) -> list[int]:
    """Each layer as a registry holds it and a pull moves it. Bytes."""
    name, _, digest = reference.removeprefix(store.address + "/").partition("@")
    request = urllib.request.Request(
        f"http://{store.address}/v2/{name}/manifests/{digest}",
        headers={"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
    )
    # The loopback is not reached through a proxy.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request) as answer:
        return [layer["size"] for layer in json.load(answer)["layers"]]


def start_all(
    engine: Engine, images: dict[str, str], runs: int, cpus: float
) -> dict[tuple[str, bool], list[Start]]:
    """In turn, so that what else the machine does falls on all alike; the first of each is not counted."""
    started: dict[tuple[str, bool], list[Start]] = {}
    for run in range(runs + 1):
        for cold in (True, False):
            for name, image in images.items():
                say(f"run {run} of {runs}: {name}, {'cold' if cold else 'warm'}")
                begin = start_ours if name == OURS else start_obvious
                start = asyncio.run(begin(engine, image, cpus, cold))
                if run:
                    started.setdefault((name, cold), []).append(start)
    return started


def sizes(measured: Measured) -> str:
    lines = ["| image | on disk | compressed | pull |", "|---|---:|---:|---:|"]
    for name, weight in measured.weights.items():
        pull = f"{measured.pulls[name]:.1f} s" if name in measured.pulls else ""
        lines.append(f"| {name} | {megabytes(weight.disk)} | {megabytes(sum(weight.compressed))} | {pull} |")
    return "\n".join(lines)


def parts(weight: Weight) -> str:
    lines = ["| layer | files | compressed |", "|---|---:|---:|"]
    for part, tar, compressed in zip(PARTS, weight.layers, weight.compressed, strict=True):
        lines.append(f"| {part} | {megabytes(tar)} | {megabytes(compressed)} |")
    return "\n".join(lines)


def starts(measured: Measured, cpus: float) -> str:
    kinds = [(name, cold) for cold in (False, True) for name in (OURS, OBVIOUS)]
    titles = [
        f"{'ours' if name == OURS else 'obvious'}, {'cold' if cold else 'warm'}" for name, cold in kinds
    ]
    lines = [f"| from `docker start`, {cpus:g} CPUs, until | {' | '.join(titles)} |", "|---|" + "---:|" * 4]
    for step, value in STEPS.items():
        medians = [statistics.median(map(value, measured.starts[kind])) for kind in kinds]
        lines.append(f"| {step} | {' | '.join(f'{median:.2f} s' for median in medians)} |")
    return "\n".join(lines)


def megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e6:.1f} MB"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
