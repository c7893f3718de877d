"""The spans of a session, derived from the session as it was and as it is: values in, values out.

    POST /start                          the request that asked for the session; all others are below it
    ├── queued, machine, boot, …         a span for each phase, as in the metrics; the last one of a session
    │                                    that failed has the reason
    ├── provider create, provider stop   each such call to a machines API (not derived here)
    ├── bot                              the machine's process, until the bot is ready, by its own clock
    │   └── bot boot, bot import, …
    ├── first word                       from the client's connection to the bot's first audio
    └── conversation                     until the end

No machine needs an exporter: the dispatcher makes the spans, from what machines report. Each belongs to one
change of the row, so after a restart, and whichever replica hears of the next step, none is made twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dispatcher.domain.model import Session, SessionState
from dispatcher.telemetry.measures import phase_of, phases

CONVERSATION = "conversation"


@dataclass(frozen=True, slots=True)
class Piece:
    """A finished span. Times are Unix seconds."""

    name: str
    since: float
    until: float
    error: str | None = None
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)
    events: Sequence[tuple[str, float]] = ()
    parts: Sequence[Piece] = ()


def told(before: Session | None, after: Session) -> Iterator[Piece]:
    """Return the spans that ended with this change."""
    if before is None:
        return
    for phase, since, until in phases(before, after):
        yield Piece(phase, since, until)
    if before.ready_at is None and after.ready_at is not None:
        yield from _bot(after, after.ready_at)
    since = after.active_at or after.ready_at
    if before.first_word_ms is None and after.first_word_ms is not None and since is not None:
        yield Piece("first word", since, since + after.first_word_ms / 1000)
    if after.over and not before.over and after.ended_at is not None:
        phase, since = phase_of(after)
        error = after.message or "" if after.state is SessionState.failed else None
        reason = {"switchboard.reason": after.reason or ""}
        yield Piece(phase or CONVERSATION, since, after.ended_at, error, reason)


def _bot(session: Session, ready_at: float) -> Iterator[Piece]:
    """Return the spans of the machine's process.

    Its marks are milliseconds since its beginning, by its own clock; both clocks are known at the bot's
    `ready`.
    """
    marks = session.timings
    ready = marks.get("ready", marks.get("pipeline"))
    if ready is None:
        return
    began = ready_at - ready / 1000

    def at(mark: str, otherwise: float = 0.0) -> float:
        return began + min(marks.get(mark, otherwise), ready) / 1000

    parts = []
    if "imported" in marks:
        parts.append(Piece("bot boot", began, at("imported")))
    if "loaded" in marks:
        parts.append(Piece("bot import", at("imported"), at("loaded")))
    if "pipeline" in marks:
        # The bot's function runs once its file is loaded and, peer to peer, its client's offer is answered.
        since = max(at("loaded"), at("answer"))
        parts.append(Piece("bot pipeline", min(since, at("pipeline")), at("pipeline")))
    events = [(mark, at(mark)) for mark in ("connected", "offer", "answer") if mark in marks]
    yield Piece("bot", began, ready_at, events=events, parts=parts)
