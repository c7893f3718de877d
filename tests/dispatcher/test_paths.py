"""The number of files that a start and an end pass, from the route or the channel to their SQL."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy import event
from sqlalchemy.pool import Pool

import dispatcher
from bot import protocol
from tests.dispatcher.harness import deployment

MOST_FILES_OF_A_START = 20
MOST_FILES_OF_AN_END = 14
"""The limits may only shrink."""

ROOT = f"{Path(dispatcher.__file__).parent}/"


@dataclass
class Way:
    """The files of `dispatcher/` whose functions run, from the first of a file to a statement."""

    first: str
    statement: str
    files: list[str] = field(default_factory=list)
    complete: bool = False

    def called(self, frame: FrameType, kind: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if kind != "call" or self.complete or not name.startswith(ROOT):
            return
        file = name.removeprefix(ROOT)
        if file not in self.files and (self.files or file == self.first):
            self.files.append(file)

    def ran(self, sql: str) -> None:
        self.complete = self.complete or (bool(self.files) and sql.startswith(self.statement))


@contextlib.contextmanager
def traced_connections() -> Iterator[Callable[[Way], contextlib.AbstractContextManager[None]]]:
    """Give a context manager that follows one path; SQLite's connections are made in the block."""
    following: list[Way] = []

    def connected(connection: Any, _: Any) -> None:
        connection.set_trace_callback(lambda sql: [path.ran(sql) for path in following])

    @contextlib.contextmanager
    def follow(path: Way) -> Iterator[None]:
        following.append(path)
        before = sys.getprofile()
        sys.setprofile(path.called)
        try:
            yield
        finally:
            sys.setprofile(before)
            following.remove(path)

    event.listen(Pool, "connect", connected)
    try:
        yield follow
    finally:
        event.remove(Pool, "connect", connected)


async def test_a_start_and_an_end_pass_few_files(tmp_path):
    start = Way("api/start.py", "INSERT INTO sessions")
    end = Way("telemetry/requests.py", "UPDATE sessions")
    with traced_connections() as follow:
        async with deployment(tmp_path) as running:
            # The first session fills caches, which takes other files.
            for of_start, of_end in ((Way("", ""), Way("", "")), (start, end)):
                with follow(of_start):
                    session_id = (await running.start("/start?wait=none"))["sessionId"]
                machine = await running.machine_of(session_id)
                await machine.hello()
                await running.in_phase(session_id, "waiting")
                with follow(of_end):
                    await machine.send(protocol.Ended(reason="completed", message="Bye.", exit_code=0))
                    await machine.receive()
                await running.until(session_id, "ended")
    assert start.complete, start.files
    assert end.complete, end.files
    assert {"sessions/starts.py", "store/writes.py"} <= set(start.files)
    assert {"sessions/machine_reports.py", "store/writes.py"} <= set(end.files)
    assert len(start.files) <= MOST_FILES_OF_A_START, start.files
    assert len(end.files) <= MOST_FILES_OF_AN_END, end.files
