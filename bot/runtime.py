"""The entrypoint: reads the arguments, starts the control thread, runs one session, and exits.

The order serves the first second. The channel opens before any heavy import, so that the dispatcher can pass
on the client's offer; the imports that the answer needs come next; the bot file is imported while the peers
connect.

A process without arguments and token was not started as a machine: its session comes by HTTP (`bot.hosted`).
"""

from __future__ import annotations

import asyncio
import gc
import io
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, NoReturn

from bot import lazy, logs, outcome
from bot.arguments import (
    USAGE_ERROR,
    Arguments,
    HostVariables,
    UsageError,
    Variables,
    is_hosted,
    parse,
    pop_private,
    read_host_variables,
    read_variables,
    take_variables,
)
from bot.control import Control, Limits
from bot.outcome import Outcome
from bot.process import ProcessClock, leave
from bot.session import Session
from bot.sockets import open_socket

_SWITCH_SECONDS = 0.001
"""Time that a thread may keep Python's lock while the bot file is imported; 0.005 is Python's default.

The event loops answer the client meanwhile, and each of their steps may wait that long.
"""

_CLOUD_LEVEL_VARIABLE = "PIPECAT_LOG_LEVEL"
"""Pipecat Cloud's name for the level of the log."""


def main(arguments: Sequence[str] | None = None, limits: Limits | None = None) -> None:
    """Run the machine that the arguments and the environment describe, and end the process."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        take_variables(os.environ)
        if is_hosted(given, os.environ):
            host(read_host_variables(os.environ), limits or Limits())
        parsed = parse([*given, *pop_private(os.environ)])
        variables = read_variables(os.environ)
    except UsageError as error:
        print(f"python -m bot: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    run(parsed, variables, limits or Limits())


def run(arguments: Arguments, variables: Variables, limits: Limits) -> NoReturn:
    """Run one machine to its end. Does not return: the process exits.

    Also for a process just forked from one in which `bot.preload.preload` has run.
    """
    clock = ProcessClock()
    loop = _prepare(os.environ.get(logs.LEVEL_VARIABLE, logs.DEFAULT_LEVEL))
    control = Control(
        machine_id=arguments.machine_id,
        dispatcher=arguments.dispatcher,
        token=variables.token,
        assignment=arguments.assignment,
        clock=clock,
        limits=limits,
        health_file=variables.health_file,
        max_wait=arguments.max_wait,
    )
    session = Session(
        loop,
        control,
        variables.bot_file,
        limits.grace,
        variables.traceparent,
        bot_arguments=variables.bot_arguments,
        open_socket=partial(open_socket, arguments.dispatcher, variables.token),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: control.stop(_signalled(received)))
    control.start(session)
    running = session.run(arguments.assignment, is_told_of_room=arguments.is_told_of_room)
    leave(control.finish(_run(loop, session, running)))


def host(variables: HostVariables, limits: Limits) -> NoReturn:
    """Serve one session by HTTP. Does not return: the process exits.

    Raises:
        UsageError: the port is taken or not allowed.
    """
    level = os.environ.get(logs.LEVEL_VARIABLE) or os.environ.get(_CLOUD_LEVEL_VARIABLE) or logs.DEFAULT_LEVEL
    loop = _prepare(level)
    # Imports FastAPI and a server, which takes half a second; a machine needs neither.
    from bot.hosted import Host, take_port

    served = Host(loop, variables, take_port(variables.port), limits.grace)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(served.told_to_leave))
    result = _run(loop, served.session, served.serve())
    log = logs.logger.info if result.exit_code == 0 else logs.logger.error
    log(f"{result.message}\n{result.detail}".strip())
    leave(result.exit_code)


def _prepare(level: str) -> asyncio.AbstractEventLoop:
    # Imports leave no garbage; the collector runs again once the bot is loaded.
    gc.disable()
    lazy.install()
    logs.configure(level)
    # As in Pipecat's runner; otherwise its examples load Krisp's filter, which only Pipecat Cloud has.
    os.environ.setdefault("ENV", "local")
    # A machine may be killed at any moment, so every line must reach the log at once.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    return asyncio.new_event_loop()


def _run(loop: asyncio.AbstractEventLoop, session: Session, running: Coroutine[Any, Any, Outcome]) -> Outcome:
    asyncio.set_event_loop(loop)
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        return loop.run_until_complete(running)
    except SystemExit as error:
        # Raised by one of the bot's tasks: asyncio lets it through, and the event loop has ended.
        return outcome.exited(error.code, session.returned(), logs.recent_errors())
    except Exception as error:  # noqa: BLE001 - a bot that stops our event loop ends with a word all the same
        return outcome.raised(error)


def _signalled(number: int) -> str:
    return f"The machine was told to stop by {signal.Signals(number).name}."
