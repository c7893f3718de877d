"""`python -m stacks.logs --stack STACK`: follow the logs of a stack that is up.

On `local` these are files; elsewhere what the cloud's own tool shows, see `stacks.log_commands`.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from dispatcher.printable import escaped
from stacks.engine.__main__ import CHECKOUT
from stacks.engine.drive import Driver
from stacks.engine.find import find
from stacks.errors import StackError, exit_status
from stacks.log_commands import DISPATCHER, no_log_of, show_commands, tool_of

POLL_SECONDS = 0.25
CHUNK = 64 * 1024
BEGIN_BYTES = 4096
"""Part of the dispatcher's file that is shown of what was there before."""

RESET, DIM = "\x1b[0m", "\x1b[2m"
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LEVELS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m", "DEBUG": DIM, "TRACE": DIM}
_LEVEL = re.compile(rf"^\S+ \S+ ({'|'.join(_LEVELS)})\b")
_SOURCES = ("\x1b[36m", "\x1b[35m", "\x1b[32m", "\x1b[34m", "\x1b[96m", "\x1b[95m")


def formatted(source: str, line: str, *, colors: bool) -> str:
    """Return a log line with its source before it; nothing in it is left that a terminal obeys."""
    text = escaped(line)
    if not colors:
        return f"{source} | {text}"
    level = _LEVEL.match(text)
    shown = f"{_LEVELS[level[1]]}{text}{RESET}" if level else text
    color = DIM if source == DISPATCHER else _SOURCES[crc32(source.encode()) % len(_SOURCES)]
    return f"{color}{source} |{RESET} {shown}"


class Followed:
    """A file that grows, or is replaced by a new one. A bot can write there: regular files alone are read."""

    def __init__(self, path: Path, *, last: int | None = None) -> None:
        self._path = path
        self._file = -1
        self._rest = b""
        if self._open() and last is not None:
            os.lseek(self._file, max(0, os.fstat(self._file).st_size - last), os.SEEK_SET)

    def lines(self) -> Iterator[str]:
        """Yield the lines that have come since; a very long one in parts."""
        while True:
            data = os.read(self._file, CHUNK) if self._file >= 0 else b""
            if data:
                *whole, self._rest = (self._rest + data).split(b"\n")
                if len(self._rest) > CHUNK:
                    whole, self._rest = [*whole, self._rest], b""
                yield from (line.decode(errors="replace") for line in whole)
            elif not self._replaced():
                return

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _replaced(self) -> bool:
        """Open the new file, if there is one; the old one was read to its end."""
        try:
            found = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return False
        if self._file >= 0 and os.path.samestat(found, os.fstat(self._file)):
            return False
        self.close()
        return self._open()

    def _open(self) -> bool:
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            return False
        self._file = file
        return True


class Files:
    """The files of a `local` stack: the dispatcher's, and one for each machine, of one session or of all."""

    def __init__(self, log: Path, machines: Path, session: str) -> None:
        self._machines = machines
        self.session = session
        self._followed: dict[str, Followed] = {}
        # To see what bots printed before, name a session.
        for name, path in self._there():
            self._followed[name] = Followed(path, last=None if session else 0)
        self._dispatcher = Followed(log, last=None if session else BEGIN_BYTES)

    @property
    def lacks_session(self) -> bool:
        """True if a session was named that has no machine's file."""
        return bool(self.session) and not self._followed

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield source and line of what has come since."""
        there = dict(self._there())
        for name in self._followed.keys() - there.keys():
            self._followed.pop(name).close()
        for name, path in there.items():
            if name not in self._followed:
                self._followed[name] = Followed(path)
        for line in self._dispatcher.lines():
            if self.session in line:
                yield DISPATCHER, line
        for name, followed in sorted(self._followed.items()):
            for line in followed.lines():
                yield name, line

    def close(self) -> None:
        for followed in (self._dispatcher, *self._followed.values()):
            followed.close()

    def _there(self) -> Iterator[tuple[str, Path]]:
        wanted = f"m-{self.session}" if self.session else ""
        try:
            with os.scandir(self._machines) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return
        for name in names:
            if name.startswith("m-") and wanted in ("", name):
                yield name, self._machines / name / "output.log"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="stacks.logs", description="Follows a stack's logs.")
    parser.add_argument("--stack", default="local")
    parser.add_argument("--session", default="", help="the lines of this session alone")
    parser.add_argument("--once", action="store_true", help="show what there is, and end")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _show(options))


def _show(options: argparse.Namespace) -> None:
    if options.session and not _ID.fullmatch(options.session):
        raise StackError(
            f"SESSION: '{escaped(options.session)}' is no session's id; allowed: the `sessionId` of a "
            f"start's answer, as in 5f0c1d2e-0a1b-4c2d-8e3f-405162738495"
        )
    outputs = Driver(CHECKOUT, options.stack, find).outputs()
    if "log" not in outputs:
        raise StackError(f"stack {options.stack} is not up; `make up STACK={options.stack}` brings it up")
    log = str(outputs["log"].value)
    if Path(log).is_absolute():
        machines = Path(str(outputs["data"].value)) / "dispatcher" / "machines"
        show_files(Files(Path(log), machines, options.session), once=options.once)
    else:
        bots = outputs["bots"].value if "bots" in outputs else []
        elsewhere = outputs["botsElsewhere"].value if "botsElsewhere" in outputs else {}
        tool = tool_of(log, bots, elsewhere, say)
        show_commands(tool, options.session, say, once=options.once)


def show_files(files: Files, *, once: bool) -> None:
    """Print the lines as they come, until interrupted.

    Raises:
        StackError: a session was named, and nothing is there of it.
    """
    try:
        shown = False
        while True:
            for source, line in files.lines():
                say(source, line)
                shown = True
            if files.lacks_session and not shown:
                raise StackError(no_log_of(files.session))
            if once:
                return
            time.sleep(POLL_SECONDS)
    finally:
        files.close()


def say(source: str, line: str) -> None:
    """Print a line."""
    print(formatted(source, line, colors=sys.stdout.isatty()), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
