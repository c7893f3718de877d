"""Ends of sessions whose machine is gone or silent: reasons and messages."""

from __future__ import annotations

import signal

from dispatcher.domain.model import End, MachineStatus, Session

CLOCKS_APART_SECONDS = 5.0
"""Time before its `exp`, by the dispatcher's clock, at which a room's service may close it already."""


def end_by_loss(status: MachineStatus | None) -> End:
    """Return the end of a session whose machine is gone and had not reported why."""
    if status is None:
        return End("machine_lost", "The machine is gone, and the provider has no record of it.")
    if status.out_of_memory_mb is not None:
        message = f"The bot used all of its machine's memory, {status.out_of_memory_mb} MiB, and was ended."
        return End("out_of_memory", message, status.output or None, status.exit_code)
    if status.exit_code is None:
        message = "The machine is gone; its bot's exit status is not known."
        return End("machine_lost", message, status.output or None)
    number = status.exit_code - 128
    if number not in set(signal.Signals):
        return End(
            "machine_exited",
            f"The bot's process ended with exit status {status.exit_code} before it could say why.",
            status.output or None,
            exit_code=status.exit_code,
        )
    if number == signal.SIGTERM:
        message = "The machine was stopped from outside: its host or engine ended it, or somebody did."
        return End("machine_stopped", message, status.output or None, status.exit_code)
    name = signal.Signals(number).name
    message = f"The bot's process was killed with signal {number} ({name})."
    if name == "SIGKILL":
        message += " The system does that when memory runs out."
    return End("machine_killed", message, status.output or None, status.exit_code)


def end_by_silence(seconds: float) -> End:
    """Return the end of a session whose bot has been silent for these seconds while its provider says that
    the machine runs."""
    message = f"The bot has not reported for {seconds:g} s, although its machine runs; it is ended."
    return End("unresponsive", message)


def end_at_exp(session: Session, end: End, now: float) -> End:
    """Return the end of a session by its bot's report, or `max_duration` if its room's `exp` has passed.

    When the room closes as its start asked for, the bot fails or ends itself, whichever is first.
    """
    exp = (session.room or {}).get("properties", {}).get("exp")
    if end.reason not in ("bot_error", "max_duration") or exp is None or now < exp - CLOCKS_APART_SECONDS:
        return end
    why = "The room closed at its `exp`, as the start request asked for."
    return End("max_duration", why, f"{end.message}\n{end.detail or ''}".strip(), end.exit_code)
