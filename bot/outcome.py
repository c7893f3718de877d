"""The end of a bot, in the words of `ended`."""

from __future__ import annotations

import signal
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bot.protocol import Ended, EndReason

_MESSAGE_CHARACTERS = 500
_DETAIL_CHARACTERS = 8000
_SEE = " See 'Before the first call' in docs/daily.md."
_JOIN_ADVICE: dict[tuple[str, ...], str] = {
    ("missing-payment-method",): (
        "Daily lets nobody join a room of an account without a payment method, though it makes rooms and "
        "tokens: add a card at https://dashboard.daily.co under Billing." + _SEE
    ),
    ("not-allowed", "not allowed"): (
        "Daily did not take the token. If it refuses every join, daily.domainId is not the id of the API "
        "key's domain, with which the dispatcher signs tokens (`GET https://api.daily.co/v1/` tells it)."
        + _SEE
    ),
    ("meeting-full", "meeting is full"): (
        "As many are in the room as `max_participants` lets in, or as the account's plan does; the bot is "
        "one of them."
    ),
    ("exp-room", "nbf-room", "no-room"): (
        "The room was over, or was deleted, before the bot was there. If no room can be joined, see whether "
        "the dispatcher's clock is right: a room's `exp` is the end of its session."
    ),
    ("exp-token", "nbf-token"): "The dispatcher signs tokens by its clock: see whether that is right.",
    ("lookup", "connection"): (
        "The bot's machine could not reach Daily: it needs DNS and a way out to *.daily.co and "
        "*.wss.daily.co, port 443."
    ),
}
"""Advice for a refused join, by parts of Daily's message in lower case; the first that fits is used.

The messages are the types of the event `error` (docs.daily.co, daily-js, "Error events"), and daily-python's
own for a server that it cannot reach.
"""

_OURS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Outcome:
    """The reason why a session is over.

    `message` is a sentence; `detail` is the end of a traceback or of the log.
    """

    reason: EndReason
    message: str
    detail: str = ""

    @property
    def exit_code(self) -> int:
        """Exit status of a machine whose end could not be reported."""
        if self.reason == "machine_stopped":
            # As if no signal were handled: a dispatcher that gets no `ended` sees the signal in the status.
            return 128 + signal.SIGTERM
        return 0 if self.reason in ("completed", "stopped") else 1

    def to_message(self) -> Ended:
        return Ended(
            reason=self.reason,
            message=self.message[:_MESSAGE_CHARACTERS],
            detail=self.detail[-_DETAIL_CHARACTERS:],
            exit_code=self.exit_code,
        )


class InvalidBot(Exception):
    """The bot file cannot be run at all. The text is a sentence for the user."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.outcome = Outcome("invalid_bot", message, detail)


def returned(started: bool, errors: str, *, failure: str = "", fatal: bool = False) -> Outcome:
    """Return the outcome of a bot function that returned, or left through `sys.exit()`.

    Args:
        started: Whether its pipeline had started or a client was there.
        errors: The lines it logged as errors.
        failure: The reason why a part of its pipeline could not do its job.
        fatal: Whether the pipeline ended for that reason.
    """
    if fatal:
        return Outcome("bot_error", f"The bot's pipeline failed: {_sentence(failure)}", errors)
    if started:
        return Outcome("completed", "The bot ended the session.", failure)
    return Outcome("never_ready", "The bot returned before its pipeline had started.", errors)


def raised(error: BaseException) -> Outcome:
    """Return the outcome of a bot function that raised."""
    return Outcome("bot_error", f"The bot raised {describe(error)}", traceback_of(error))


def exited(code: object, otherwise: Outcome, errors: str) -> Outcome:
    """Return the outcome of a bot that called `sys.exit(code)`.

    Args:
        otherwise: The outcome had it returned; exit status 0 means no more than that.
    """
    if code is None or code == 0:
        return otherwise
    return Outcome("bot_error", f"The bot called sys.exit({code!r}).", errors)


def join_refused(words: str) -> Outcome:
    """Return the outcome of a bot that its room's service did not let in.

    Args:
        words: The service's own message.
    """
    known = (told for parts, told in _JOIN_ADVICE.items() if any(part in words.lower() for part in parts))
    advice = next(known, "Words that this release does not know." + _SEE)
    return Outcome("join_refused", f"Daily refused the bot's join: {_sentence(words)}", advice)


def removed_from_room() -> Outcome:
    """Return the outcome of a bot whose call the room's service ended."""
    return Outcome(
        "bot_error",
        "Daily ended the bot's call: the bot was ejected, its room was deleted or closed, or its connection "
        "was lost for good.",
    )


def stopped(message: str = "The session was stopped.") -> Outcome:
    return Outcome("stopped", message)


def describe(error: BaseException) -> str:
    """Return `TypeName: text` on one line, with a full stop."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return _sentence(text)


def _sentence(text: str) -> str:
    text = " ".join(text.split())[: _MESSAGE_CHARACTERS - 100]
    return text if text.endswith((".", "!", "?")) else text + "."


def traceback_of(error: BaseException) -> str:
    """Return the traceback from the first frame that belongs neither to the runtime nor to the
    import system."""
    frame: TracebackType | None = error.__traceback__
    while frame is not None and _is_plumbing(frame):
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame))


def _is_plumbing(frame: TracebackType) -> bool:
    file = frame.tb_frame.f_code.co_filename
    return file.startswith("<frozen importlib") or Path(file).parent == _OURS
