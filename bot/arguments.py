"""The entrypoint's arguments and variables: `bot.protocol.entrypoint_arguments` writes what this reads."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import urllib.parse
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from bot.health import HEALTH_FILE_VARIABLE
from bot.protocol import (
    BOT_ARGUMENTS_VARIABLE,
    BOT_FILE_VARIABLE,
    MACHINE_TOKEN_VARIABLE,
    PRIVATE_ARGUMENTS_VARIABLE,
    PROTOCOL_VERSION,
    TRACEPARENT_VARIABLE,
    VARIABLES_FILE_VARIABLE,
    Assignment,
    IceServer,
)

USAGE_ERROR = 2
"""Exit status for arguments that cannot be used, as Unix commands have it."""

_MACHINE = ("protocol", "machine_id", "dispatcher", "max_wait")
_SESSION_ARGUMENTS = ("session_id", "agent", "transport", "max_duration")


class UsageError(Exception):
    """An argument or a variable that cannot be used; the text names it, its value and what is allowed."""


@dataclass(frozen=True)
class Arguments:
    """Identity of this machine, and the session it was started for, if any."""

    machine_id: str
    dispatcher: str
    """The dispatcher's URL, without a slash at the end."""
    assignment: Assignment | None
    is_told_of_room: bool = False
    """True if the dispatcher says when the bot may run: the session has a room, or the machine waits in the
    reserve."""
    max_wait: float | None = None
    """Limit on the wait for a session, in seconds; None unless the machine is of the reserve."""


@dataclass(frozen=True)
class Variables:
    """Values that the machine's environment gives."""

    token: str
    bot_file: Path
    bot_arguments: tuple[str, ...] = ()
    """The bot's own command line."""
    traceparent: str | None = None
    """The trace context of the session that the machine was started for."""
    health_file: Path | None = None
    """Touched every few seconds, for a container's health command."""


@dataclass(frozen=True)
class HostVariables:
    """Variables of a process that serves its session by HTTP (`bot.hosted`).

    Apart from Switchboard's own, the names are those of Pipecat Cloud's base image.
    """

    bot_file: Path
    port: int
    shutdown_seconds: float
    """Time that a session may go on after the process was told to exit."""
    ice_config_url: str
    """URL for STUN and TURN servers."""
    health_file: Path | None
    bot_arguments: tuple[str, ...] = ()
    """The bot's own command line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parse(arguments: Sequence[str]) -> Arguments:
    """Read the entrypoint's arguments; ignore those that only a newer dispatcher knows.

    Raises:
        UsageError: one is missing, unknown, or has a value that is not allowed.
    """
    parser = _parser()
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown and parsed.protocol <= PROTOCOL_VERSION:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    assignment = _assignment(parsed)
    if parsed.max_wait is not None and assignment is not None:
        parser.error("argument --max-wait is not allowed with --session-id: the machine has its session")
    # A machine of the reserve is told whatever its session's transport.
    is_told = parsed.room_url is not None or parsed.max_wait is not None
    return Arguments(
        parsed.machine_id, parsed.dispatcher, assignment, is_told_of_room=is_told, max_wait=parsed.max_wait
    )


def read_variables(environment: MutableMapping[str, str]) -> Variables:
    """Read the machine's variables, and remove the token, which the bot's own subprocesses must not inherit.

    Raises:
        UsageError: one is missing.
    """
    token = environment.pop(MACHINE_TOKEN_VARIABLE, "")
    if not token:
        raise UsageError(f"variable {MACHINE_TOKEN_VARIABLE} is not set: it must hold the machine's token")
    return Variables(
        token,
        _bot_file(environment),
        _bot_arguments(environment),
        environment.get(TRACEPARENT_VARIABLE),
        _health_file(environment),
    )


def take_variables(environment: MutableMapping[str, str]) -> None:
    """Add the variables of the file that is named, if any, and delete the file.

    Raises:
        UsageError: the file cannot be read, or is not a JSON object of texts.
    """
    path = environment.pop(VARIABLES_FILE_VARIABLE, "")
    if not path:
        return
    file = Path(path)
    try:
        found = TypeAdapter(dict[str, str]).validate_json(file.read_bytes())
    except OSError as error:
        raise UsageError(f"variable {VARIABLES_FILE_VARIABLE}: {error}") from None
    except ValidationError:
        raise UsageError(
            f"variable {VARIABLES_FILE_VARIABLE}: {path} must be a JSON object of texts"
        ) from None
    environment.update(found)
    try:
        file.unlink()
    except OSError as error:
        print(f"python -m bot: the file of variables stays: {error}", file=sys.stderr)


def pop_private(environment: MutableMapping[str, str]) -> list[str]:
    """Take the arguments that are not on the command line out of the environment.

    Raises:
        UsageError: they are not a JSON list of texts.
    """
    text = environment.pop(PRIVATE_ARGUMENTS_VARIABLE, "[]")
    try:
        return TypeAdapter(list[str]).validate_json(text)
    except ValidationError:
        raise UsageError(f"variable {PRIVATE_ARGUMENTS_VARIABLE} must be a JSON list of texts") from None


def is_hosted(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Return True if nothing says which machine this is: the image was then started as on Pipecat Cloud."""
    return not arguments and MACHINE_TOKEN_VARIABLE not in environment


def read_host_variables(environment: Mapping[str, str]) -> HostVariables:
    """Read the variables of a process that serves its session by HTTP.

    Raises:
        UsageError: one is missing, or has a value that is not allowed.
    """
    return HostVariables(
        _bot_file(environment),
        int(_number(environment, "PORT", 8080, 65535)),
        _number(environment, "SHUTDOWN_TIMEOUT", 7200, 86400),
        environment.get("ICE_CONFIG_URL", "http://localhost:9090/ice-servers"),
        _health_file(environment),
        _bot_arguments(environment),
    )


def _bot_arguments(environment: Mapping[str, str]) -> tuple[str, ...]:
    text = environment.get(BOT_ARGUMENTS_VARIABLE) or "[]"
    try:
        return TypeAdapter(tuple[str, ...]).validate_json(text)
    except ValidationError:
        raise UsageError(
            f"variable {BOT_ARGUMENTS_VARIABLE} is {text!r}: it must be a JSON list of texts"
        ) from None


def _bot_file(environment: Mapping[str, str]) -> Path:
    file = environment.get(BOT_FILE_VARIABLE, "")
    if not file:
        raise UsageError(f"variable {BOT_FILE_VARIABLE} is not set: it must be the path of the bot file")
    return Path(file)


def _health_file(environment: Mapping[str, str]) -> Path | None:
    file = environment.get(HEALTH_FILE_VARIABLE, "")
    return Path(file) if file else None


def _number(environment: Mapping[str, str], name: str, default: int, highest: float) -> float:
    value = environment.get(name) or str(default)
    if not re.fullmatch(r"[0-9]+", value) or not 1 <= int(value) <= highest:
        raise UsageError(f"variable {name} is '{value}': it must be a whole number from 1 to {highest:.0f}")
    return int(value)


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m bot", description="Run one Pipecat bot for one session.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--protocol", type=_protocol, default=PROTOCOL_VERSION, help="the dispatcher's protocol version")
    add("--machine-id", required=True, type=_text, help="this machine's id")
    add("--dispatcher", required=True, type=_url, help="the dispatcher's URL")
    add("--max-wait", type=_seconds, metavar="SECONDS", help="wait in the reserve, so long at most")
    add("--session-id", type=_text, help="the session to serve; without it the machine waits for one")
    add("--agent", type=_text, help="the session's agent")
    add("--transport", type=_text, help="webrtc, daily, …")
    add("--max-duration", type=_seconds, metavar="SECONDS", help="the machine ends itself after this time")
    add("--body", type=_json, metavar="JSON", help="the start request's body")
    add("--ice-servers", type=_ice_servers, metavar="JSON", help="STUN and TURN servers")
    add("--room-url", type=_text, help="the room to join (daily)")
    add("--token", type=_text, help="the token for the room (daily)")
    return parser


def _assignment(parsed: argparse.Namespace) -> Assignment | None:
    given = [name for name, value in vars(parsed).items() if value is not None and name not in _MACHINE]
    if not given:
        return None
    for name in _SESSION_ARGUMENTS:
        if name not in given:
            flag, others = _flag(name), ", ".join(sorted(map(_flag, given)))
            raise UsageError(f"argument {flag} is missing: a session ({others}) needs it")
    return Assignment(
        session_id=parsed.session_id,
        agent=parsed.agent,
        transport=parsed.transport,
        max_duration_seconds=parsed.max_duration,
        body=parsed.body,
        ice_servers=parsed.ice_servers or (),
        room_url=parsed.room_url,
        token=parsed.token,
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _refuse(value: str, allowed: str) -> argparse.ArgumentTypeError:
    shown = value if len(value) <= 80 else value[:80] + "…"
    return argparse.ArgumentTypeError(f"'{shown}' is not allowed: it must be {allowed}")


def _text(value: str) -> str:
    if not value.strip():
        raise _refuse(value, "a text that is not empty")
    return value


def _protocol(value: str) -> int:
    lowest, highest = PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1
    if not re.fullmatch(r"[0-9]{1,9}", value) or not lowest <= int(value) <= highest:
        raise _refuse(value, f"a version from {lowest} to {highest}")
    return int(value)


def _url(value: str) -> str:
    allowed = "an http:// or https:// URL"
    try:
        parts = urllib.parse.urlsplit(value)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise _refuse(value, allowed)
    return value.rstrip("/")


def _seconds(value: str) -> float:
    allowed = "a number of seconds over 0"
    try:
        seconds = float(value)
    except ValueError:
        raise _refuse(value, allowed) from None
    if not (math.isfinite(seconds) and seconds > 0):
        raise _refuse(value, allowed)
    return seconds


def _json(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise _refuse(value, f"JSON ({error})") from None


def _ice_servers(value: str) -> tuple[IceServer, ...]:
    try:
        return TypeAdapter(tuple[IceServer, ...]).validate_json(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the value"
        allowed = f'JSON like [{{"urls":["stun:host:3478"]}}] ({where}: {first["msg"]})'
        raise _refuse(value, allowed) from None
