"""Traces by itself, as Pipecat's tracing example does; writes down its spans."""

import asyncio
import json
import os
from pathlib import Path

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pipecat.frames.frames import BotConnectedFrame, EndFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.utils.tracing.setup import setup_tracing
from pipecat.workers.runner import WorkerRunner

exporter = InMemorySpanExporter()
setup_tracing("my bot", exporter=exporter)


async def bot(runner_args):
    from opentelemetry import trace

    worker = PipelineWorker(Pipeline([IdentityFilter()]), enable_tracing=True)
    with trace.get_tracer("mine").start_as_current_span("mine"):
        pass
    await worker.queue_frames([BotConnectedFrame(), EndFrame()])
    runner = WorkerRunner()
    await runner.add_workers(worker)
    await runner.run()
    await asyncio.to_thread(trace.get_tracer_provider().force_flush)  # pyright: ignore[reportAttributeAccessIssue]
    spans = {
        span.name: [f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}" if span.parent else None]
        for span in exporter.get_finished_spans()
        if span.context is not None
    }
    Path("spans.json").write_text(json.dumps({"spans": spans, "variable": os.environ.get("TRACEPARENT")}))
