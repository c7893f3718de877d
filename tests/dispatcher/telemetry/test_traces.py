"""The traces, as an exporter gets them."""

import asyncio
import contextlib

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from bot import protocol
from dispatcher.log_context import read_traceparent
from dispatcher.machines.provider import NoCapacity
from dispatcher.telemetry import export
from tests.dispatcher.harness import START_OF_TIME, ScriptedProvider, deployment, eventually

CLICK = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collected:
    """Spans that the dispatchers of a test have exported."""

    def __init__(self) -> None:
        self._exporters: list[InMemorySpanExporter] = []

    def provider(self) -> TracerProvider:
        """One per dispatcher: it is shut down with it."""
        exporter = InMemorySpanExporter()
        self._exporters.append(exporter)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        return provider

    @property
    def spans(self) -> list[ReadableSpan]:
        return [span for exporter in self._exporters for span in exporter.get_finished_spans()]

    def named(self, name: str) -> ReadableSpan:
        found = [span for span in self.spans if span.name == name]
        assert len(found) == 1, f"{name}: {len(found)} of {[span.name for span in self.spans]}"
        return found[0]


def seconds(span: ReadableSpan) -> tuple[float, float]:
    """Beginning and end, after the beginning of the test's time."""
    assert span.start_time is not None
    assert span.end_time is not None
    since, until = (round(at / 1e9 - START_OF_TIME, 3) for at in (span.start_time, span.end_time))
    return since, until


def tree(spans: list[ReadableSpan]) -> dict[str, str | None]:
    """Span → the name of its parent; None where that is not one of these."""
    by_id = {span.context.span_id: span.name for span in spans if span.context is not None}
    return {span.name: by_id.get(span.parent.span_id) if span.parent else None for span in spans}


@pytest.fixture
def collected():
    return Collected()


async def test_one_trace_goes_from_the_click_to_the_first_word_also_over_a_restart(tmp_path, collected):
    provider = ScriptedProvider()

    async with deployment(tmp_path, provider=provider, tracer_provider=collected.provider()) as running:
        answer = await running.http.post("/start", headers={"traceparent": CLICK})
        session_id = answer.json()["sessionId"]
        running.clock.advance(2)
        machine = await running.machine_of(session_id)
        await machine.hello("loading")
        await machine.send(protocol.Heartbeat(phase="waiting", rss_bytes=1, cpu_seconds=1))
        await running.in_phase(session_id, "waiting")
    async with deployment(tmp_path, provider=provider, tracer_provider=collected.provider()) as running:
        running.clock.advance(3)
        machine = await running.machine_of(session_id)
        marks = {"connected": 100, "imported": 400, "loaded": 900, "offer": 950, "answer": 1000}
        await machine.hello("starting", timings=protocol.Timings(**marks))
        timings = protocol.Timings(**marks, pipeline=1500, ready=1600)
        await machine.send(protocol.Ready(timings=timings))
        await running.until(session_id, "ready")
        running.clock.advance(0.5)
        await machine.send(protocol.ClientConnected(timings=timings))
        await machine.send(protocol.Latency(kind="first_word", milliseconds=250))
        await eventually(
            lambda: running.session(session_id), lambda found: found["latency"]["firstWordMs"] is not None
        )
        running.clock.advance(60)
        await machine.send(protocol.Ended(reason="completed", message="Bye."))
        await running.until(session_id, "ended")
    # The machine's end goes on after the session's; an exit leaves it to the next dispatcher.
    assert tree([span for span in collected.spans if span.name != "provider stop"]) == {
        "POST /start": None,
        "queued": "POST /start",
        "machine": "POST /start",
        "provider create": "POST /start",
        "boot": "POST /start",
        "pipeline": "POST /start",
        "bot": "POST /start",
        "bot boot": "bot",
        "bot import": "bot",
        "bot pipeline": "bot",
        "client": "POST /start",
        "first word": "POST /start",
        "conversation": "POST /start",
    }
    root = collected.named("POST /start")
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == CLICK.split("-")[2]
    for span in collected.spans:
        assert span.context is not None
        assert f"{span.context.trace_id:032x}" == CLICK.split("-")[1]
        assert (span.attributes or {})["session.id"] == session_id
        assert span.status.status_code is not StatusCode.ERROR
    assert seconds(collected.named("boot")) == (0, 2)
    assert seconds(collected.named("pipeline")) == (2, 3)
    assert seconds(collected.named("bot")) == (1.4, 3)
    assert seconds(collected.named("bot boot")) == (1.4, 1.8)
    assert seconds(collected.named("bot import")) == (1.8, 2.3)
    assert seconds(collected.named("bot pipeline")) == (2.4, 2.9)
    assert [event.name for event in collected.named("bot").events] == ["connected", "offer", "answer"]
    assert seconds(collected.named("client")) == (3, 3.5)
    assert seconds(collected.named("first word")) == (3.5, 3.75)
    assert seconds(collected.named("conversation")) == (3.5, 63.5)


async def test_each_attempt_at_each_placement_is_a_span_with_its_outcome(tmp_path, collected):
    first, second = ScriptedProvider(), ScriptedProvider()
    first.fault = NoCapacity("no room in the near data centre")

    async with deployment(
        tmp_path, provider=first, second=second, tracer_provider=collected.provider()
    ) as running:
        await running.start()
    attempts = [span for span in collected.spans if span.name == "provider create"]
    told = [(span.attributes or {}) for span in attempts]
    assert [(one["switchboard.placement"], one["switchboard.outcome"]) for one in told] == [
        ("scripted", "no_capacity"),
        ("second", "ok"),
    ]
    assert [span.kind for span in attempts] == [SpanKind.CLIENT, SpanKind.CLIENT]
    assert attempts[0].status.description == "no room in the near data centre"
    assert attempts[1].status.status_code is StatusCode.UNSET


async def test_a_start_that_fails_says_in_which_phase_and_why(tmp_path, collected):
    provider = ScriptedProvider()

    async with deployment(tmp_path, provider=provider, tracer_provider=collected.provider()) as running:
        session_id = (await running.start())["sessionId"]
        await running.look(31)
        await running.until(session_id, "failed")
    boot = collected.named("boot")
    assert boot.status.status_code is StatusCode.ERROR
    assert "not ready within 30 s" in (boot.status.description or "")
    assert (boot.attributes or {})["switchboard.reason"] == "start_timeout"
    root = collected.named("POST /start")
    assert root.parent is None
    assert (root.attributes or {})["http.response.status_code"] == 200


async def test_a_refused_start_is_a_trace_of_one_span(tmp_path, collected):
    async with deployment(tmp_path, tracer_provider=collected.provider()) as running:
        answer = await running.http.post("/v1/public/nobody/start", headers={"traceparent": "rubbish"})
        assert answer.status_code == 404
    (span,) = collected.spans
    assert span.name == "POST /v1/public/{agent}/start"
    assert span.parent is None
    assert (span.attributes or {})["http.response.status_code"] == 404


async def test_a_trace_that_its_caller_does_not_sample_is_not_sampled(tmp_path, collected):
    async with deployment(tmp_path, tracer_provider=collected.provider()) as running:
        await running.http.post("/start", headers={"traceparent": CLICK[:-2] + "00"})
        (spec,) = running.provider.specs.values()
        # The bot is told so too.
        assert spec.environment[protocol.TRACEPARENT_VARIABLE].endswith("-00")
    assert collected.spans == []


async def test_the_bot_gets_the_trace_with_its_machine_or_with_its_session(tmp_path, collected):
    async with deployment(tmp_path, tracer_provider=collected.provider()) as running:
        session_id = (await running.start())["sessionId"]
        given = running.provider.specs[f"m-{session_id}"].environment[protocol.TRACEPARENT_VARIABLE]
        root = collected.named("POST /start").context
        assert root is not None
        assert given == f"00-{root.trace_id:032x}-{root.span_id:016x}-{root.trace_flags:02x}"
        warm = await running.connect(f"m-{session_id}")
        assert isinstance(await warm.hello("idle"), protocol.Welcome)
        assign = await warm.receive()
        assert isinstance(assign, protocol.Assign)
        assert assign.assignment.traceparent == given


async def test_without_an_exporter_the_callers_trace_still_reaches_the_bot(tmp_path):
    async with deployment(tmp_path) as running:
        await running.http.post("/start", headers={"traceparent": CLICK})
        await running.http.post("/start")
        traced, untraced = running.provider.specs.values()
        assert traced.environment[protocol.TRACEPARENT_VARIABLE] == CLICK
        assert protocol.TRACEPARENT_VARIABLE not in untraced.environment


@pytest.mark.parametrize(
    ("header", "read"),
    [
        (CLICK, CLICK),
        (f" {CLICK} ", CLICK),
        (f"cc{CLICK[2:]}-what-the-future-will-be-like", CLICK),
        (f"cc{CLICK[2:]}", CLICK),
        (f"{CLICK}-more", None),
        (f"cc{CLICK[2:]}.more", None),
        (f"ff{CLICK[2:]}", None),
        (CLICK.upper(), None),
        ("00-" + "0" * 32 + CLICK[35:], None),
        (CLICK[:36] + "0" * 16 + CLICK[52:], None),
        (CLICK[:-1], None),
        ("", None),
        (None, None),
    ],
)
def test_a_traceparent_is_read_as_the_specification_says(header, read):
    assert read_traceparent(header) == read


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, False),
    ],
)
async def test_the_standard_variables_turn_traces_on(environment, on):
    provider = export.tracer_provider(environment)
    assert (provider is not None) == on
    if provider is not None:
        assert provider.resource.attributes["service.name"] == export.SERVICE
        await export.close(provider)


async def test_the_operators_own_name_of_the_service_stands(monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "voice")
    provider = export.tracer_provider({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SERVICE_NAME": "voice"})
    assert provider is not None
    assert provider.resource.attributes["service.name"] == "voice"
    await export.close(provider)


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ],
)
def test_what_is_not_supported_is_refused_with_what_is(environment):
    with pytest.raises(export.InvalidExport, match=r"is not supported; allowed: "):
        export.tracer_provider(environment)


async def test_spans_arrive_at_a_collector(tmp_path, monkeypatch):
    """The real exporter, against a collector that is one socket."""
    received: list[bytes] = []

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        received.append(head.splitlines()[0] + b"\n" + await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with contextlib.AsyncExitStack() as stack:
        collector = await stack.enter_async_context(await asyncio.start_server(collect, "127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{collector.sockets[0].getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        provider = export.tracer_provider({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
        async with deployment(tmp_path, tracer_provider=provider) as running:
            await running.start()
    assert received, "nothing came before the dispatcher had exited"
    assert received[0].startswith(b"POST /v1/traces HTTP/1.1\n")
    assert b"POST /start" in received[0].partition(b"\n")[2]
