"""The session's trace, for a bot that traces by itself (Pipecat's `enable_tracing`).

A bot needs no exporter for the session's trace: the dispatcher makes its spans. What the bot adds joins it.
"""

from __future__ import annotations

import os

from bot.protocol import TRACEPARENT_VARIABLE


def join(traceparent: str | None) -> None:
    """Make the spans that this task and its tasks start part of the session's trace.

    Costs nothing where OpenTelemetry is not installed; where it is, Pipecat has imported it already.
    """
    if traceparent is None:
        return
    # For the bot's subprocesses, also on a machine that was started before its session.
    os.environ[TRACEPARENT_VARIABLE] = traceparent
    try:
        from opentelemetry import context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:
        return
    context.attach(TraceContextTextMapPropagator().extract({"traceparent": traceparent}))
