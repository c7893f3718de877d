"""The entrypoint: reads who it is, starts the control thread, runs one session, and leaves.

The order is made for the first second. The channel comes before any heavy import, so that the dispatcher can
hand over the client's offer; what the answer needs is imported next; the bot file's own imports go on while
the peers find each other.
"""

from __future__ import annotations

import asyncio
import gc
import io
import os
import signal
import sys
from collections.abc import Sequence

from bot import logs, outcome
from bot.arguments import USAGE_ERROR, Arguments, UsageError, Variables, parse, read_variables
from bot.control import Control, Limits
from bot.outcome import Outcome
from bot.process import ProcessClock, leave
from bot.protocol import Assignment
from bot.session import Session

_SWITCH_SECONDS = 0.001
"""How long a thread may keep Python's lock while the bot file is imported; 0.005 is Python's default. The
event loops answer the client meanwhile, and each of their steps would else wait that long."""


def main(arguments: Sequence[str] | None = None, limits: Limits | None = None) -> None:
    """Run the machine that the arguments and the environment describe, and end the process."""
    try:
        parsed = parse(sys.argv[1:] if arguments is None else arguments)
        variables = read_variables(os.environ)
    except UsageError as error:
        print(f"python -m bot: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    run(parsed, variables, limits or Limits())


def run(arguments: Arguments, variables: Variables, limits: Limits) -> None:
    """Run one machine to its end. Does not return: the process ends.

    Also for a process that has just been forked from one in which `bot.preload.preload` has run.
    """
    clock = ProcessClock()
    # Nothing that is imported is garbage; the collector runs again once the bot is loaded.
    gc.disable()
    logs.configure(os.environ.get(logs.LEVEL_VARIABLE, logs.DEFAULT_LEVEL))
    loop = asyncio.new_event_loop()
    # A machine may be killed at any moment; what its bot has printed is in the log by then.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    control = Control(
        machine_id=arguments.machine_id,
        dispatcher=arguments.dispatcher,
        token=variables.token,
        assignment=arguments.assignment,
        clock=clock,
        limits=limits,
        health_file=variables.health_file,
    )
    session = Session(loop, control, variables.bot_file, limits.grace, variables.traceparent)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: control.stop(_signalled(received)))
    control.start(session)
    result = _run_session(loop, session, arguments.assignment)
    leave(control.finish(result))


def _run_session(loop: asyncio.AbstractEventLoop, session: Session, assignment: Assignment | None) -> Outcome:
    asyncio.set_event_loop(loop)
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        return loop.run_until_complete(session.run(assignment))
    except SystemExit as error:
        # Raised by one of the bot's tasks: asyncio lets it through, and the event loop has ended.
        return outcome.exited(error.code, session.returned(), logs.recent_errors())
    except Exception as error:  # noqa: BLE001 - a bot that stops our event loop ends with a word all the same
        return outcome.raised(error)


def _signalled(number: int) -> str:
    return f"The machine was told to stop by {signal.Signals(number).name}."
