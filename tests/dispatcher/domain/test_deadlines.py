"""Policies of deadlines: when a machine counts as lost, and when as unresponsive."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dispatcher.domain import deadlines
from dispatcher.domain.deadlines import UNRESPONSIVE_PROBES
from dispatcher.domain.model import MachineState, MachineStatus
from tests.dispatcher.rows import rows

CREATED, ASKED_UNTIL, STARTED, SETTLING = 1000.0, 1030.0, 1020.0, 10.0
RUNS, GONE = (MachineStatus("m", state) for state in (MachineState.started, MachineState.gone))


@pytest.mark.parametrize(
    ("status", "started_at", "asked_at", "lost"),
    [
        # Before it has started, it may be asked for again until its time is up and has settled.
        (None, None, 2000.0, False),
        (RUNS, None, 2000.0, False),
        (GONE, None, ASKED_UNTIL + SETTLING - 0.1, False),
        (GONE, None, ASKED_UNTIL + SETTLING, True),
        # Once it has started, a provider's word counts at once, and its ignorance once it has settled.
        (RUNS, STARTED, 2000.0, False),
        (GONE, STARTED, STARTED, True),
        (None, STARTED, STARTED + SETTLING - 0.1, False),
        (None, STARTED, STARTED + SETTLING, True),
    ],
)
def test_machine_is_lost_by_its_providers_answer(
    status: MachineStatus | None, started_at: float | None, asked_at: float, lost: bool
) -> None:
    session, machine = rows(at=CREATED)
    session = replace(session, started_at=started_at)
    machine = replace(machine, placement="here", create_by=ASKED_UNTIL)
    assert deadlines.is_lost(status, machine, session, SETTLING, asked_at) is lost


@pytest.mark.parametrize(
    ("ready_at", "probes", "silent", "unresponsive"),
    [
        (CREATED, UNRESPONSIVE_PROBES, 60.0, True),
        (CREATED, UNRESPONSIVE_PROBES, 59.9, False),
        (CREATED, UNRESPONSIVE_PROBES - 1, 3600.0, False),
        (CREATED, 0, 0.0, False),
        (None, UNRESPONSIVE_PROBES, 3600.0, False),
    ],
)
def test_machine_is_unresponsive_when_silent_through_enough_probes(
    ready_at: float | None, probes: int, silent: float, unresponsive: bool
) -> None:
    session = replace(rows(at=CREATED)[0], ready_at=ready_at)
    assert deadlines.is_unresponsive(session, probes, silent, limit=60.0) is unresponsive
