"""Hands the running dispatcher its agents' images, and waits until it takes starts.

A bot's new image replaces no container: the table of images is a file in the dispatcher's volume, which it
looks at every second. So no caller is refused while bots are deployed. A table that the dispatcher does not
take is replaced by the one before.
"""

from __future__ import annotations

import io
import json
import tarfile
import time
from typing import Any

import pulumi
from pulumi.dynamic import (
    CheckResult,
    ConfigureRequest,
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from dispatcher.image_table import content_of, mark_of
from dispatcher.machines.container.request import UNFILTERED
from dispatcher.printable import escaped
from stacks.docker import host
from stacks.docker.host import EngineFailed, EngineUnreachable
from stacks.errors import StackError
from stacks.shared.dynamic import end_with_engine, plain_errors

DIRECTORY, FILE = "/data", "images.json"
"""The table, in the dispatcher's container."""

MOST_PROCESSES = 512
"""Of each of the stack's own containers, its threads counted. Dispatchers have some 50, coturn two for each
of the host's CPUs; without a limit, one that goes wrong takes the host's."""

PROBE = ("/opt/venv/bin/python", "-P", "-m", "dispatcher.probe")

READY_SECONDS = 120.0
"""For a dispatcher to take starts; not counted, what the engine has to pull."""

PULL_SECONDS = 900.0
"""For an engine to pull new images, and for the dispatcher to use them."""

PROBE_SECONDS = 20.0
"""Longest wait of one probe in the container: over SSH each call of the engine is a connection."""

AGAIN_SECONDS = 1.0
"""Between two probes."""

AWAY_SECONDS = 5.0
"""After a call that did not reach the engine."""

MOST_WORDS = 1000
"""Characters of a probe's words that are shown: a dispatcher that was taken over says what it likes."""

WITHOUT_FIREWALL = (
    "switchboard:docker.firewall: false does without, and leaves the host open to bots: docs/security.md"
)

REFRESH = "make refresh, and then make up, makes it anew"

INPUTS = ("host", "container", "images", "containers", "pulled")


class RolloutProvider(ResourceProvider):
    """Give a running dispatcher its table of images."""

    serialize_as_secret_always = False

    def configure(self, req: ConfigureRequest) -> None:
        end_with_engine()

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        return CheckResult(news, [])

    @plain_errors
    def create(self, props: dict[str, Any]) -> CreateResult:
        roll_out(props)
        return CreateResult(props["container"], {key: props[key] for key in INPUTS})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=any(_olds.get(key) != _news.get(key) for key in INPUTS))

    @plain_errors
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        roll_out(_news)
        return UpdateResult({key: _news[key] for key in INPUTS})

    @plain_errors
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Return the table as it is there: a store that was restored may have another one, or none."""
        return ReadResult(id_, {**props, "images": table_of(props["host"], props["container"])})


class Rollout(Resource, module="switchboard", name="Rollout"):
    """The images of a running dispatcher's agents.

    Args:
        container: The dispatcher's name.
        images: Agent → `image`, a reference, and `bot`, its bot file in there.
        containers: Ids of the stack's own containers, which get their limit of processes. If one of them is
            new, the dispatcher is waited for.
        pulled: Whether the engine gets images from a registry.
    """

    def __init__(
        self,
        name: str,
        *,
        host: str,
        container: pulumi.Input[str],
        images: pulumi.Input[dict[str, dict[str, str]]],
        containers: list[pulumi.Input[str]],
        pulled: bool,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = {
            "host": host,
            "container": container,
            "images": images,
            "containers": containers,
            "pulled": pulled,
        }
        super().__init__(RolloutProvider(), name, properties, opts)


def roll_out(props: dict[str, Any]) -> None:
    """Write the table, and return once the dispatcher uses it and takes starts.

    Raises:
        StackError: it does not; with what is missing. The table of before is there again.
    """
    engine, container, images = props["host"], props["container"], props["images"]
    for one in props["containers"]:
        # Pulumi's provider for Docker has no input for it.
        if not host.post(engine, f"containers/{one}/update", {"PidsLimit": MOST_PROCESSES}):
            raise StackError(f"container {one} is not there any more: {REFRESH}")
    former = table_of(engine, container)
    _write(engine, container, images)
    limit = READY_SECONDS + (PULL_SECONDS if props["pulled"] else 0)
    words = _wait(engine, container, mark_of(images), time.monotonic() + limit)
    if not words:
        return
    text = f"{container} does not take starts with its new images after {limit:.0f} s: {words}"
    if UNFILTERED in words:
        text += f"; {WITHOUT_FIREWALL}"
    if former and former != images:
        try:
            _write(engine, container, former)
        except StackError as error:
            raise StackError(f"{text}; those of before could not be put back: {error}") from error
        text += "; those of before are in use again"
    raise StackError(text)


def table_of(engine: str, container: str) -> dict[str, Any]:
    """Return the table in a container; empty if there is none, or something else: it is written anew."""
    found = host.fetch(engine, f"containers/{container}/archive", path=f"{DIRECTORY}/{FILE}")
    if found is None:
        return {}
    try:
        with tarfile.open(fileobj=io.BytesIO(found)) as files:
            file = files.extractfile(FILE)
            table = json.load(file) if file is not None else {}
    except (tarfile.TarError, KeyError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


def _write(engine: str, container: str, images: dict[str, Any]) -> None:
    path = f"containers/{container}/archive"
    if not host.send(engine, "PUT", path, archive(content_of(images)), path=DIRECTORY):
        raise StackError(f"container {container} is not there any more: {REFRESH}")


def _wait(engine: str, container: str, mark: str, deadline: float) -> str:
    """Return what keeps the dispatcher from starts at the deadline; nothing as soon as nothing does."""
    while True:
        left = deadline - time.monotonic()
        words, pause = _missing(engine, container, mark, max(0.0, min(PROBE_SECONDS, left)))
        if not words or left <= 0:
            return words
        time.sleep(pause)


def _missing(engine: str, container: str, mark: str, seconds: float) -> tuple[str, float]:
    """Ask the dispatcher for so long; gives what keeps it from starts, and the pause before the next time."""
    try:
        status, words = host.execute(engine, container, [*PROBE, mark, f"{seconds:.0f}"])
    except EngineFailed as error:
        # Of a container that ends again and again.
        return str(error), AGAIN_SECONDS
    except EngineUnreachable as error:
        # It may be starting again. What it cannot do, it cannot do at the deadline either.
        return str(error), AWAY_SECONDS
    if not status:
        return "", 0.0
    return escaped(words)[:MOST_WORDS] or f"its probe ended with status {status}", AGAIN_SECONDS


def archive(content: bytes) -> bytes:
    """Return a table's content as the engine takes it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as files:
        entry = tarfile.TarInfo(FILE)
        entry.size, entry.mode, entry.mtime = len(content), 0o644, int(time.time())
        files.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
