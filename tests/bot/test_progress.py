"""Ready and the client are reported once each, in that order, whatever order the frames come in."""

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.outcome import Outcome
from bot.progress import Progress
from bot.protocol import LONGEST_MILLISECONDS, FromMachine, Latency, parse_from_machine


class Report:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.sent: list[FromMachine] = []

    def phase(self, phase) -> None: ...

    def mark(self, name) -> None: ...

    def ready(self) -> None:
        self.said.append("ready")

    def client_connected(self) -> None:
        self.said.append("connected")

    def client_disconnected(self) -> None:
        self.said.append("disconnected")

    def send(self, message) -> None:
        self.sent.append(message)


def unexpected(outcome: Outcome) -> None:
    raise AssertionError(f"ended: {outcome}")


EVENTS: dict[str, Callable[[Progress], None]] = {
    "pipeline": Progress.pipeline_started,
    "room": Progress.bot_in_room,
    "client": Progress.client_here,
    "gone": Progress.client_gone,
}


@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=12), st.booleans())
def test_every_order_of_events_makes_an_orderly_report(events, in_room):
    report = Report()
    progress = Progress(report, in_room=in_room, end=unexpected)
    for event in events:
        EVENTS[event](progress)

    needed = {"pipeline", "room"} if in_room else {"pipeline"}
    ready = needed <= set(events)
    assert report.said.count("ready") == ready
    assert progress.started == bool({"pipeline", "client"} & set(events))
    if not ready:
        assert report.said == []
        return
    assert report.said[0] == "ready"
    connections = report.said[1:]
    expected = ["connected", "disconnected"] * len(connections)
    assert connections == expected[: len(connections)]
    last = next((event for event in reversed(events) if event in ("client", "gone")), "gone")
    assert (len(connections) % 2 == 1) == (last == "client")


def test_the_error_that_ended_the_pipeline_is_the_one_that_counts():
    progress = Progress(Report(), in_room=False, end=unexpected)
    for error, fatal in [("no key", False), ("hung up", True), ("cancelled", True), ("later", False)]:
        progress.failed(error, fatal=fatal)

    assert (progress.error, progress.is_broken) == ("hung up", True)


@given(st.floats(allow_nan=False))
@example(-3.2)
@example(8 * 86_400_000.0)
def test_a_latency_is_one_that_the_dispatcher_takes_whatever_the_clocks_did(measured):
    report = Report()
    Progress(report, in_room=False, end=unexpected).latency("turn", measured)

    (latency,) = report.sent
    assert isinstance(latency, Latency)
    assert parse_from_machine(latency.model_dump_json()) == latency
    assert latency.milliseconds == pytest.approx(min(max(measured, 0.0), LONGEST_MILLISECONDS), abs=0.1)
