"""The metrics, in Prometheus' conventions. `docs/operations.md` says what each means and what to do.

Each dispatcher has a registry of its own. Labels have bounded values: agents, transports and placements
come from the settings, everything else from closed sets; no id of a session or a machine is ever one.
"""

from __future__ import annotations

import platform

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from dispatcher.admissions import Limit
from dispatcher.domain.model import Session
from dispatcher.machines.calls import ProviderCall
from dispatcher.store.database import Access
from dispatcher.telemetry.measures import Measured, measured
from dispatcher.transports.calls import RoomCall
from dispatcher.version import VERSION

PREFIX = "switchboard"

# Off: a `_created` series for each series would double their number, and nothing here reads them.
disable_created_metrics()

# A forked machine takes 0.1 s to boot, one of a cloud 1 to 60 s; an agent may allow 600 s for a start.
START_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)

# People leave 0.2 s between turns, and hear over 0.8 s as hesitation: the buckets are finest there.
LATENCY_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 5, 10)

# From a caller who hangs up at once to the day that an agent may allow.
DURATION_BUCKETS = (5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 86_400)

# A call of a process takes milliseconds, of a cloud 0.1 to 10 s; a create is given up after 20 s.
CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)

# A transaction on a local disk takes under a millisecond; SQLite's write lock is waited for 5 s at most.
STORE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """Metrics of this dispatcher since its process began."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        started = ("agent", "transport")

        def counter(name: str, help_: str, *labels: str) -> Counter:
            return Counter(name, help_, labels, namespace=PREFIX, registry=registry)

        def histogram(name: str, help_: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, help_, labels, namespace=PREFIX, registry=registry, buckets=buckets)

        self._starts = counter("starts", "Starts, once their outcome is known.", *started, "outcome")
        self._ends = counter("sessions_ended", "Sessions that are over.", *started, "reason")
        self._phases = histogram(
            "start_phase_seconds", "How long each phase of a start took.", START_BUCKETS, *started, "phase"
        )
        self._whole_starts = histogram(
            "start_seconds", "From the start request until the bot is ready.", START_BUCKETS, *started
        )
        self._durations = histogram(
            "session_duration_seconds", "From the bot's being ready to the end.", DURATION_BUCKETS, *started
        )
        self._first_words = histogram(
            "first_word_seconds", "From the client's connection to the bot's first audio.", LATENCY_BUCKETS,
            *started,
        )  # fmt: skip
        self._turns = histogram(
            "turn_latency_seconds", "From the end of the user's speech to the bot's.", LATENCY_BUCKETS,
            *started,
        )  # fmt: skip
        self._calls = histogram(
            "provider_call_seconds", "Calls to the machines APIs.", CALL_BUCKETS,
            "placement", "action", "outcome",
        )  # fmt: skip
        self._room_calls = histogram(
            "room_call_seconds", "Calls to the API that rooms come from.", CALL_BUCKETS, "action", "outcome"
        )
        self._assigned = counter(
            "reserve_starts", "Starts of agents with a reserve, by what the reserve had for them.",
            "agent", "result",
        )  # fmt: skip
        self._webhooks = counter(
            "webhook_attempts", "Attempts to deliver a webhook to the deployment's back end.", "outcome"
        )
        self._orphans = counter("orphans", "Machines that were found without an owner.", "placement")
        self._rounds = counter("reaper_rounds", "Rounds of the reaper.", "outcome")
        self._round_seconds = histogram("reaper_round_seconds", "How long a round took.", CALL_BUCKETS)
        self._transactions = histogram(
            "store_seconds", "Reads and transactions of the store.", STORE_BUCKETS, "access"
        )
        self._store_errors = counter("store_errors", "Those that the database did not answer.", "access")
        self._connections_refused = counter(
            "connections_refused",
            "Connections beyond a limit, channels too: closed, or answered 503.",
            "limit",
        )
        info = Gauge(
            "build_info", "1, with what runs as labels.", ("version", "python"),
            namespace=PREFIX, registry=registry,
        )  # fmt: skip
        info.labels(VERSION, platform.python_version()).set(1)

    def session_changed(self, before: Session | None, after: Session) -> None:
        """Record a session's change. Called after each change that was written."""
        for one in measured(before, after):
            self._measure(after, one)

    def refused(self, agent: str, transport: str, outcome: str) -> None:
        """Record a start that was refused before there was a session."""
        self._starts.labels(agent, transport, outcome).inc()

    def connection_refused(self, limit: Limit) -> None:
        self._connections_refused.labels(limit).inc()

    def provider_called(self, call: ProviderCall) -> None:
        self._calls.labels(call.placement, call.action, call.outcome).observe(call.seconds)

    def room_called(self, call: RoomCall) -> None:
        self._room_calls.labels(call.action, call.outcome).observe(call.seconds)

    def store_used(self, access: Access, answered: bool, seconds: float) -> None:
        self._transactions.labels(access).observe(seconds)
        if not answered:
            self._store_errors.labels(access).inc()

    def assigned(self, agent: str, result: str) -> None:
        """Record what the reserve had for a start: `claimed`, `none_idle` or `unanswered`."""
        self._assigned.labels(agent, result).inc()

    def webhook_attempted(self, outcome: str) -> None:
        self._webhooks.labels(outcome).inc()

    def orphan_found(self, placement: str) -> None:
        self._orphans.labels(placement).inc()

    def reaper_round(self, finished: bool, seconds: float) -> None:
        self._rounds.labels("ok" if finished else "failed").inc()
        self._round_seconds.observe(max(0.0, seconds))

    def _measure(self, session: Session, one: Measured) -> None:
        labels = (session.agent, session.transport)
        match one.measure:
            case "starts":
                self._starts.labels(*labels, one.kind).inc(one.value)
            case "ends":
                self._ends.labels(*labels, one.kind).inc(one.value)
            case "phase":
                self._phases.labels(*labels, one.kind).observe(one.value)
            case "start":
                self._whole_starts.labels(*labels).observe(one.value)
            case "duration":
                self._durations.labels(*labels).observe(one.value)
            case "first_word":
                self._first_words.labels(*labels).observe(one.value)
            case "turn":
                self._turns.labels(*labels).observe(one.value)
