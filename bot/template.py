"""A template: a process that has imported a bot's packages, and forks machines that need not import them.

`python -P -m bot.template BOT_FILE` imports Pipecat and the installed packages that the bot file names,
prints `{}`, and then forks a machine for each line on its standard input. It never runs a line of the user's
own code, so the next machine reads an edited bot file anew. When its standard input ends, it exits; its
machines go on.

A machine of a template is two processes in a group of their own: the bot, and its leader (see `leader.py`),
which waits for it and records how it ended. Linux only: other systems' libraries do not survive a fork.
"""

from __future__ import annotations

import ast
import gc
import importlib
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from setproctitle import setproctitle

from bot import lazy, leader
from bot.confinement import confine
from bot.preload import preload
from bot.protocol import Launch, Launched

LEADER_TITLE = "switchboard-machine"


def main() -> None:
    """Import, then fork on request until standard input ends."""
    bot_file = Path(sys.argv[1])
    replies = os.dup(1)
    os.dup2(2, 1)  # output of an import must not be read as a reply
    importlib.import_module("bot.logs")  # first: it imports loguru without its default handler
    lazy.install()
    preload()
    _import_packages_of(bot_file)
    gc.collect()
    gc.freeze()  # else a collection in a machine would copy every page shared with the template
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps leaders
    # Some packages start a thread on import. It is idle, and a machine does not need it.
    warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
    setproctitle(f"switchboard-template {bot_file}")
    _reply(replies, Launched())
    for line in sys.stdin:
        _reply(replies, _fork(Launch.model_validate_json(line), replies))


def _import_packages_of(bot_file: Path) -> None:
    """Import the installed packages that the bot file imports at its top, but not the modules beside the
    file.

    Such a module may have the name of an installed package, and comes first in a machine.
    """
    neighbours = {entry.name.partition(".")[0] for entry in bot_file.resolve().parent.iterdir()}
    for name in _imports_of(bot_file):
        if name.partition(".")[0] in neighbours:
            continue
        try:
            if importlib.util.find_spec(name) is not None:
                importlib.import_module(name)
        except Exception:  # noqa: BLE001 - the machine will meet the same error, and reports it
            traceback.print_exc()


def _imports_of(bot_file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(bot_file.read_bytes())
    except (OSError, SyntaxError):  # the machine reports what is wrong with the file
        return
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def _reply(replies: int, launched: Launched) -> None:
    os.write(replies, launched.model_dump_json(exclude_none=True).encode() + b"\n")


def _fork(launch: Launch, replies: int) -> Launched:
    """Fork a machine's leader, and wait until the machine is on record."""

    def settle() -> None:
        os.close(replies)
        setproctitle(f"{LEADER_TITLE} {launch.machine_id} {launch.directory}")

    directory, user = Path(launch.directory), launch.confinement.user
    wrong = leader.begin(directory, user, lambda: _run(launch), settle)
    return Launched(error=wrong or None)


def _run(launch: Launch) -> NoReturn:
    """Become the bot, as `python -m bot` would in this environment."""
    code = 1
    try:
        os.environ.clear()
        os.environ.update(launch.environment)
        os.chdir(Path(launch.directory) / "work")
        tempfile.tempdir = None  # looked up again, from the machine's own TMPDIR
        setproctitle(f"python -m bot {' '.join(launch.arguments)}")
        leader.limit(resource.RLIMIT_CORE, 0)
        leader.limit(resource.RLIMIT_DATA, launch.memory_kib * 1024)
        leader.limit(resource.RLIMIT_CPU, launch.cpu_seconds)
        confine(launch.confinement)
        _seed()
        # A process that multiprocessing spawns imports the main module again, unless a package owns it.
        sys.modules["__main__"].__spec__ = importlib.machinery.ModuleSpec("bot.__main__", None)
        from bot.runtime import main as run_bot

        run_bot(launch.arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - a fork must never go on as the template
        traceback.print_exc()
    os._exit(code)


def _seed() -> None:
    """Give the machine random numbers of its own. Python's own generator reseeds itself in a fork."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


if __name__ == "__main__":
    main()
