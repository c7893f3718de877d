"""Invariants: at every step, at every answer, and once all is quiet."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dispatcher.domain.admission import Limits, Load, has_slot
from dispatcher.domain.errors import AtCapacity
from dispatcher.domain.model import ADMITTED, LIVE, OVER
from tests.chaos.clients import Attempt, Record
from tests.chaos.cloud import Instance, Site
from tests.chaos.rooms import Service

NEXT: Mapping[str, tuple[str, ...]] = {
    "queued": ("starting", "ended", "failed"),
    "starting": ("ready", "active", "ended", "failed"),
    "ready": ("active", "ended", "failed"),
    "active": ("ended", "failed"),
}
ORDER = ["queued", "starting", "machine-started", "ready", "active"]
ONCE = {*ORDER, "ended", "failed", "machine-gone", "stop-requested", "room-open", "room-gone"}
OF_MACHINES = {"machine-gone", "orphan-stopped", "room-gone"}
"""What may follow a session's end."""

START_TIMEOUT_SECONDS = 16.0
"""The longest of any agent here."""

ANSWERED_SECONDS = 60.0
"""Beyond its deadlines a start may be held by a dead reaper's lease, and by clouds that do not answer."""

ROOM_SECONDS = 100.0
"""So long after its session's end, in a calm world, a room may be there: until no call that was lost can
bring it back, a dead reaper's lease has run out, and the pause after an outage has passed."""

NOTICED_SECONDS = 60.0
"""So long after its time, in a calm world, a hung machine's session may be live: until a dead reaper's lease
has run out, and the longest pause between two looks at the machine has passed."""

MARGIN = 1.5
"""Seconds within which two sides may see a moment differently: reads and writes take their time."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Violation:
    """A promise that was broken."""

    invariant: str
    words: str
    at: float


MARKERS = """
CREATE TABLE markers (id TEXT PRIMARY KEY, marker TEXT);
CREATE TRIGGER mark AFTER INSERT ON sessions BEGIN
    INSERT INTO markers VALUES (new.id, json_extract(new.body, '$.marker'));
END;
"""
"""Keeps whose request each session is: at its end the dispatcher forgets its body."""


class Invariants:
    """Watches the database with eyes of its own, and the clouds.

    Args:
        violated: Called with the name of an invariant and what happened.
    """

    def __init__(
        self,
        database: Path,
        sites: Mapping[str, Site],
        rooms: Service,
        limits: Limits,
        ending_seconds: float,
        unresponsive_seconds: float,
        record: Record,
        now: Callable[[], float],
        violated: Callable[[str, str], None],
    ) -> None:
        self._connection = sqlite3.connect(database, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._sites = sites
        self._rooms = rooms
        self._limits = limits
        self._ending_seconds = ending_seconds
        self._unresponsive_seconds = unresponsive_seconds
        self._hung: dict[str, float] = {}
        """Machine → when it began to stand still."""
        self._record = record
        self._now = now
        self._violated = violated
        self._live: dict[str, Row] = {}
        self._over: dict[str, Row] = {}
        self._machines: dict[str, Row] = {}
        self._ending: list[Row] = []
        """Sessions that are over and have their lines still."""
        self._version = -1

    def close(self) -> None:
        self._connection.close()

    def rows(self, query: str, *values: Any) -> list[Row]:
        return [dict(row) for row in self._connection.execute(query, values)]

    def running(self, machine_id: str) -> list[Instance]:
        return [instance for site in self._sites.values() for instance in site.here(machine_id)]

    # At every step.

    def transaction(self) -> None:
        """A transaction was committed, perhaps one that wrote nothing."""
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return
        self._version = version
        marks = ",".join("?" * len(LIVE))
        live = {
            row["id"]: row for row in self.rows(f"SELECT * FROM sessions WHERE state IN ({marks})", *LIVE)
        }
        ended = [self._session(session_id) for session_id in self._live if session_id not in live]
        ending = self.rows("SELECT * FROM sessions WHERE line_until IS NOT NULL")
        self._limits_hold(live, ending)
        for session_id, row in live.items():
            self._moved(self._live.get(session_id), row)
        for row in ended:
            if row is None:
                self._violated("nothing is forgotten", "the row of a live session vanished")
                continue
            self._moved(self._live[row["id"]], row)
            self._has_its_reason(row)
            if row["body"] is not None:
                self._violated("forgotten", f"session {row['id']} is over, and its body is there")
            self._over[row["id"]] = row
        taken = self._slots(self._live, self._ending)
        before, self._live, self._ending = self._live, live, ending
        self._first_come_first_served(before, taken)
        self._machines_are_as_written()

    def _slots(self, live: Mapping[str, Row], ending: Sequence[Row]) -> Counter[str]:
        """Agent → its lines that are taken on record."""
        admitted = Counter(row["agent"] for row in live.values() if row["state"] in ADMITTED)
        return admitted + Counter(row["agent"] for row in ending)

    def _limits_hold(self, live: Mapping[str, Row], ending: Sequence[Row]) -> None:
        admitted = self._slots(live, ending)
        queued = Counter(row["agent"] for row in live.values() if row["state"] == "queued")
        for agent, limit in self._limits.agents.items():
            if admitted[agent] > limit:
                self._violated(
                    "limits", f"{admitted[agent]} sessions of {agent} have slots; allowed: {limit}"
                )
            if queued[agent] > self._limits.queues[agent]:
                self._violated("limits", f"{queued[agent]} sessions of {agent} are queued")
        whole = self._limits.deployment
        if whole is not None and admitted.total() > whole:
            self._violated("limits", f"{admitted.total()} sessions have slots; allowed: {whole}")
        for row in self.rows("SELECT * FROM loads WHERE agent <> ''"):
            counted = (admitted[row["agent"]], queued[row["agent"]])
            if (row["live"], row["queued"]) != counted:
                self._violated(
                    "counters", f"loads of {row['agent']} say {row['live']}, {row['queued']}: {counted}"
                )

    def _moved(self, before: Row | None, after: Row) -> None:
        name = after["id"]
        if before is None:
            if after["state"] not in ("queued", "starting"):
                self._violated("lifecycle", f"session {name} begins as {after['state']}")
            return
        if before["state"] != after["state"] and after["state"] not in NEXT.get(before["state"], ()):
            self._violated("lifecycle", f"session {name}: {before['state']} → {after['state']}")
        for column in ("admitted_at", "started_at", "waiting_at", "ready_at", "active_at", "ended_at"):
            if before[column] is not None and before[column] != after[column]:
                self._violated("lifecycle", f"session {name}: {column} changed")

    def _first_come_first_served(self, before: Mapping[str, Row], taken: Mapping[str, int]) -> None:
        new = [
            row
            for name, row in self._live.items()
            if row["state"] in ADMITTED and (name not in before or before[name]["state"] == "queued")
        ]
        for row in new:
            for other in before.values():
                still = self._live.get(other["id"])
                if (
                    still is None
                    or still["state"] != "queued"
                    or not self._waits_for_line_of(row, other, taken)
                ):
                    continue
                if (other["created_at"], other["id"]) < (row["created_at"], row["id"]):
                    self._violated("first come, first served", f"{row['id']} overtook {other['id']}")

    def _waits_for_line_of(self, row: Row, other: Row, taken: Mapping[str, int]) -> bool:
        if self._now() > other["created_at"] + other["queue_seconds"] - MARGIN:
            return False
        if other["agent"] == row["agent"]:
            return True
        agent = other["agent"]
        return self._limits.deployment is not None and taken.get(agent, 0) < self._limits.agents[agent]

    def _has_its_reason(self, row: Row) -> None:
        """A session ended for a reason that was one."""
        at, reason, name = row["ended_at"], row["reason"], row["id"]
        early = False
        match reason:
            case "queue_timeout":
                early = row["admitted_at"] is not None or at < row["created_at"] + row["queue_seconds"]
            case "start_timeout":
                since = row["waiting_at"] or row["admitted_at"]
                limit = row["client_timeout_seconds"] if row["waiting_at"] else row["start_timeout_seconds"]
                early = row["ready_at"] is not None or since is None or at < since + limit
            case "no_client":
                since = row["waiting_at"] or at
                early = row["active_at"] is not None or at < since + row["client_timeout_seconds"]
            case "idle_timeout":
                early = row["idle_since"] is None or at < row["idle_since"] + row["idle_timeout_seconds"]
            case "machine_lost" | "machine_exited" | "machine_killed":
                asked_for = any(site.is_asked_for(row["machine_id"]) for site in self._sites.values())
                early = bool(self.running(row["machine_id"])) or (row["started_at"] is None and asked_for)
            case "unresponsive":
                since = row["ready_at"] or at
                early = not self.running(row["machine_id"]) or at < since + self._unresponsive_seconds
            case "stopped":
                machines = [one for site in self._sites.values() for one in site.instances]
                told = any(one.id == row["machine_id"] and one.told_to_stop.is_set() for one in machines)
                early = name not in self._record.stopped and not told
        if early:
            self._violated(
                "reasons", f"session {name} was closed with {reason}, which was not so: {_short(row)}"
            )

    def _machines_are_as_written(self) -> None:
        rows = {row["id"]: row for row in self.rows("SELECT * FROM machines WHERE state <> 'gone'")}
        for machine_id in self._machines:
            if machine_id not in rows and self.running(machine_id):
                self._violated("gone is gone", f"machine {machine_id} is gone on record, and runs")
        self._machines = rows

    def machine_created(self, instance: Instance) -> None:
        """A machine came into being."""
        if len(self.running(instance.id)) > 1:
            places = [one.site for one in self.running(instance.id)]
            self._violated("one machine", f"{instance.id} runs more than once: {places}")
        row = next(iter(self.rows("SELECT * FROM machines WHERE id = ?", instance.id)), None)
        if row is None:
            self._violated("intent first", f"{instance.id} is created, and no row says so")
        elif row["state"] == "gone":
            self._violated("gone is gone", f"machine {instance.id} is gone on record, and was created")
        elif row["placement"] != instance.site:
            self._violated(
                "intent first", f"{instance.id} is created at {instance.site}, not {row['placement']}"
            )
        elif row["session_id"] in self._live and self._live[row["session_id"]]["state"] == "queued":
            self._violated("limits", f"{instance.id} is created for a session that waits for a slot")
        self._machines_keep_the_limits()

    def _machines_keep_the_limits(self) -> None:
        """Machines that are there, but for those whose sessions ended longer ago than the grace."""
        there = {one.id for site in self._sites.values() for one in site.instances if one.here}
        alive: Counter[str] = Counter()
        for machine_id in there:
            of_machine = "SELECT agent, ended_at FROM sessions WHERE machine_id = ?"
            for row in self.rows(of_machine, machine_id):
                if row["ended_at"] is None or self._now() < row["ended_at"] + self._ending_seconds:
                    alive[row["agent"]] += 1
        for agent, limit in self._limits.agents.items():
            if alive[agent] > limit:
                self._violated("machines", f"{alive[agent]} machines of {agent} are alive; allowed: {limit}")
        whole = self._limits.deployment
        if whole is not None and alive.total() > whole:
            self._violated("machines", f"{alive.total()} machines are alive; allowed: {whole}")

    def room_changed(self, what: str, name: str) -> None:
        """A room came into being, or was deleted."""
        session_id = name.removeprefix("switchboard-")
        row = self._session(session_id)
        if row is None or row["room_state"] is None:
            self._violated("intent first", f"room {name} is {what}, and no row says so")
        elif what == "created" and row["room_state"] == "closed":
            self._violated("gone is gone", f"room {name} is gone on record, and was created")
        elif what == "created" and row["state"] == "queued":
            self._violated("limits", f"room {name} is created for a session that waits for a slot")
        elif what == "deleted" and row["state"] not in OVER:
            self._violated("rooms", f"room {name} is deleted, and its session is {row['state']}")

    def rooms_are_deleted(self, calm_at: float) -> None:
        """The rooms of sessions that are over are deleted by now."""
        for name in self._rooms.fake.rooms:
            row = self._session(name.removeprefix("switchboard-"))
            since = None if row is None else row["ended_at"]
            if since is not None and self._now() > max(since, calm_at) + ROOM_SECONDS:
                self._violated("rooms", f"room {name} is still there, and its session ended long ago")

    def machine_hung(self, instance: Instance) -> None:
        """It stands still from now on."""
        self._hung[instance.id] = self._now()

    def the_hung_are_ended(self, calm_at: float) -> None:
        """Sessions whose bots were ready, by now."""
        for row in self._live.values():
            since = self._hung.get(row["machine_id"])
            if since is None or row["ready_at"] is None:
                continue
            if self._now() > max(since, calm_at) + self._unresponsive_seconds + NOTICED_SECONDS:
                self._violated("silence", f"session {row['id']} is live, and its machine hangs since {since}")

    # At every answer to a start.

    def answered(self, attempt: Attempt) -> None:
        plan = attempt.plan
        longest = plan.queue_seconds + START_TIMEOUT_SECONDS + ANSWERED_SECONDS
        if self._now() > attempt.sent_at + longest and not attempt.lost:
            self._violated("answers", f"{attempt.marker} waited {self._now() - attempt.sent_at:.0f} s")
        found = self._by_marker(attempt.marker)
        if len(found) > 1:
            self._violated("one session", f"request {attempt.marker} has {len(found)} sessions")
        if attempt.hung_up:
            row = self._session(attempt.session_id or "")
            if row is not None and row["state"] == "queued" and attempt.released and attempt.plan.key is None:
                self._violated("hang-ups", f"session {row['id']} waits for a caller who has hung up")
        elif attempt.session_id is not None:
            row = self._session(attempt.session_id)
            if row is None:
                self._violated(
                    "answers", f"{attempt.marker} was given session {attempt.session_id}, which is none"
                )
            elif (
                attempt.plan.wait != "none"
                and not attempt.early
                and row["started_at"] is None
                and row["state"] not in OVER
            ):
                self._violated("answers", f"{attempt.marker} was answered before its machine started")
            elif (
                attempt.plan.wait == "started"
                and not attempt.early
                and row["room_state"] == "wanted"
                and row["state"] not in OVER
            ):
                self._violated("answers", f"{attempt.marker} was answered before there was a room to join")
        elif attempt.error is not None and attempt.error.startswith(("StartFailed", "NotStarted")):
            if not found or found[0]["state"] != "failed":
                self._violated(
                    "answers", f"{attempt.marker} was told of a failure, and its session did not fail"
                )
        elif attempt.error == AtCapacity.__name__ and attempt.plan.key is None:
            # Who waited in vain has a session that says so; who was refused has none.
            for row in found:
                if row["reason"] != "queue_timeout":
                    self._violated("answers", f"{attempt.marker} was refused, and has a session")

    def slot_is_free(self) -> bool:
        """True if a session waits although a slot is free.

        A session that is over has none once its machine is gone on record, or its grace is over.
        """
        ending = [
            row
            for row in self._ending
            if row["machine_id"] in self._machines and self._now() < row["ended_at"] + self._ending_seconds
        ]
        taken = self._slots(self._live, ending)
        loads = {agent: Load(taken[agent], 0) for agent in self._limits.agents}
        return any(
            row["state"] == "queued"
            and self._now() < row["created_at"] + row["queue_seconds"]
            and has_slot(row["agent"], loads, self._limits)
            for row in self._live.values()
        )

    # Once all is quiet.

    def unsettled(self) -> list[str]:
        """List all that is not as it must be in the end."""
        left = [f"session {row['id']} is {row['state']}" for row in self._live.values()]
        left += [f"machine {row['id']} is {row['state']} on record" for row in self._machines.values()]
        for site in self._sites.values():
            left += [f"machine {one.id} runs at {site.name}" for one in site.instances if one.here]
        left += [f"room {name} is there" for name in self._rooms.fake.rooms]
        left += [f"session {row['id']} is over, and has its slot" for row in self._ending]
        wanted = self.rows("SELECT id, room_state FROM sessions WHERE room_due_at IS NOT NULL")
        return left + [f"the room of session {row['id']} is {row['room_state']} on record" for row in wanted]

    def at_the_end(self) -> None:
        sessions = self.rows("SELECT * FROM sessions")
        for row in sessions:
            self._timeline_holds(row)
            known = self._over.get(row["id"])
            if known is not None and (known["state"], known["reason"]) != (row["state"], row["reason"]):
                self._violated(
                    "first reason", f"session {row['id']}: {known['reason']} became {row['reason']}"
                )
        for session_id, followers in self._record.followed.items():
            timeline = [(one["number"], one["kind"]) for one in self._timeline(session_id)]
            timeline = [event for event in timeline if event[1] not in OF_MACHINES]
            for seen in followers:
                heard = [event for event in seen if event[1] not in OF_MACHINES]
                if heard != timeline:
                    self._violated("followers", f"session {session_id}: {heard} is not {timeline}")
        markers = Counter(row["marker"] for row in self.rows("SELECT marker FROM markers"))
        for marker, number in markers.items():
            if number > 1:
                self._violated("one session", f"request {marker} has {number} sessions")
        given: dict[str, set[str]] = {}
        for attempt in self._record.attempts:
            if attempt.session_id is not None:
                given.setdefault(attempt.marker, set()).add(attempt.session_id)
        for marker, ids in given.items():
            if len(ids) > 1:
                self._violated("one session", f"request {marker} was given the sessions {sorted(ids)}")
        for session_id in self._record.stop_answered:
            row = self._session(session_id)
            if row is None or row["state"] not in OVER:
                self._violated("answers", f"session {session_id} was stopped, and is not over")

    def _timeline_holds(self, row: Row) -> None:
        timeline = self._timeline(row["id"])
        kinds = [event["kind"] for event in timeline]
        if [event["number"] for event in timeline] != list(range(1, len(timeline) + 1)):
            self._violated("timeline", f"session {row['id']}: its events are not numbered 1 to n")
        if not kinds or kinds[0] != "queued":
            self._violated("timeline", f"session {row['id']} does not begin with 'queued': {kinds}")
        twice = [kind for kind, number in Counter(kinds).items() if number > 1 and kind in ONCE]
        if twice:
            self._violated("timeline", f"session {row['id']} has {twice} more than once: {kinds}")
        in_order = [kind for kind in kinds if kind in ORDER]
        if in_order != sorted(in_order, key=ORDER.index):
            self._violated("timeline", f"session {row['id']} goes backwards: {kinds}")
        ends = [kind for kind in kinds if kind in ("ended", "failed")]
        if ends != [row["state"]]:
            self._violated(
                "timeline", f"session {row['id']} is {row['state']}, and its timeline says {kinds}"
            )
        own = [kind for kind in kinds if kind not in OF_MACHINES]
        if own and own[-1] not in ("ended", "failed"):
            self._violated("timeline", f"session {row['id']} went on after its end: {kinds}")
        if "machine-gone" not in kinds:
            self._violated("timeline", f"session {row['id']} does not say that its machine is gone: {kinds}")
        reached = {state for state in ("ready", "active") if row[f"{state}_at"] is not None}
        if reached != {kind for kind in kinds if kind in ("ready", "active")}:
            self._violated("timeline", f"session {row['id']} reached {sorted(reached)}: {kinds}")

    def _timeline(self, session_id: str) -> list[Row]:
        return self.rows("SELECT * FROM events WHERE session_id = ? ORDER BY number", session_id)

    def _session(self, session_id: str) -> Row | None:
        return next(iter(self.rows("SELECT * FROM sessions WHERE id = ?", session_id)), None)

    def _by_marker(self, marker: str) -> list[Row]:
        return self.rows("SELECT * FROM sessions JOIN markers USING (id) WHERE marker = ?", marker)


def _short(row: Row) -> dict[str, Any]:
    return {
        name: value for name, value in row.items() if name.endswith("_at") or name in ("state", "idle_since")
    }
