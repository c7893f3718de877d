"""Writes spans. One trace covers a start from the click to the bot's first word.

The caller's `traceparent` is its root, else the start request is. The session's row stores the context of
that request, so that later steps, after any restart, are recorded under the same parent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from dispatcher.clock import Clock
from dispatcher.domain.model import Session
from dispatcher.log_context import about, current, read_traceparent
from dispatcher.machines.calls import ProviderCall
from dispatcher.telemetry.spans import Piece, told


@dataclass
class Served:
    """A request that is being served. Attributes set here are on its span when it ends."""

    traceparent: str | None
    """The context of the request's consequences; without tracing, the caller's own."""
    status: int = 500
    attributes: dict[str, str] = field(default_factory=dict)


class Traces:
    """The dispatcher's spans.

    Args:
        tracer: None if nothing is traced; callers' contexts still reach the bots.
    """

    def __init__(self, tracer: Tracer | None, clock: Clock) -> None:
        self._tracer = tracer
        self._clock = clock

    @contextlib.contextmanager
    def serve(self, method: str, route: str, header: str | None) -> Iterator[Served]:
        """Record a request for as long as the block runs.

        Args:
            header: The request's `traceparent`.
        """
        given = read_traceparent(header)
        if self._tracer is None:
            with about(traceparent=given):
                yield Served(given)
            return
        span = self._tracer.start_span(
            f"{method} {route}",
            _under(given),
            SpanKind.SERVER,
            {"http.request.method": method, "http.route": route},
            start_time=_nanoseconds(self._clock.now()),
        )
        served = Served(_traceparent(span))
        try:
            with about(traceparent=served.traceparent):
                yield served
        finally:
            span.set_attribute("http.response.status_code", served.status)
            span.set_attributes(served.attributes)
            if served.status >= 500:
                span.set_status(Status(StatusCode.ERROR))
            span.end(_nanoseconds(self._clock.now()))

    def session_changed(self, before: Session | None, after: Session) -> None:
        """Record a session's change. Called after each change that was written."""
        if self._tracer is None or after.traceparent is None:
            return
        for piece in told(before, after):
            self._write(self._tracer, piece, _under(after.traceparent), _attributes(after))

    def provider_called(self, call: ProviderCall) -> None:
        """Record a call to a provider, if it concerns a session with a trace.

        `get` and `list` are not recorded: the wait for a machine's end makes ten a second.
        """
        subject = current()
        if self._tracer is None or subject.traceparent is None or call.action not in ("create", "stop"):
            return
        attributes = {
            "switchboard.placement": call.placement,
            "switchboard.provider": call.provider,
            "switchboard.outcome": call.outcome,
        }
        if subject.session_id is not None:
            attributes["session.id"] = subject.session_id
        error = None if call.outcome == "ok" else call.error or call.outcome
        piece = Piece(f"provider {call.action}", call.began_at, call.ended_at, error, attributes)
        self._write(self._tracer, piece, _under(subject.traceparent), {}, SpanKind.CLIENT)

    def _write(
        self,
        tracer: Tracer,
        piece: Piece,
        parent: Context,
        attributes: dict[str, str],
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        span = tracer.start_span(
            piece.name,
            parent,
            kind,
            {**attributes, **piece.attributes},
            start_time=_nanoseconds(piece.since),
        )
        for name, at in piece.events:
            span.add_event(name, timestamp=_nanoseconds(at))
        for part in piece.parts:
            self._write(tracer, part, set_span_in_context(span, Context()), attributes)
        if piece.error is not None:
            span.set_status(Status(StatusCode.ERROR, piece.error))
        span.end(_nanoseconds(max(piece.since, piece.until)))


def _attributes(session: Session) -> dict[str, str]:
    return {
        "session.id": session.id,
        "switchboard.agent": session.agent,
        "switchboard.transport": session.transport,
        "switchboard.machine.id": session.machine_id,
    }


def _under(traceparent: str | None) -> Context:
    """Return the context below that span; without a span an empty one, never the caller's."""
    if traceparent is None:
        return Context()
    _, trace_id, span_id, flags = traceparent.split("-")
    parent = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _traceparent(span: Span) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
