"""Permissions: pure functions.

One table, `ROUTES`, maps each route to its action. A route that is missing there is for admins alone, so a
forgotten route is closed, not open; a test walks all routes of the app and requires each of them.

    scope     may
    start     start sessions; show, follow, stop and call those that keys of its name started
    read      list, show and follow sessions, with their logs; read the metrics
    admin     everything
    session   (a session's own token) show, follow, stop and call that session

A key that names agents is valid for these alone. An action that concerns no agent needs a key that names
none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from bot.protocol import CHANNEL_PATH, SOCKET_PATH
from dispatcher.domain.model import Session
from dispatcher.keys import KeyScope


class Action(StrEnum):
    """The action that a request asks for."""

    open = "open"
    """No key needed: health, the page and its files, the API's description."""
    channel = "channel"
    """A machine's channel; the machine has a token of its own."""
    notify = "notify"
    """A webhook of a service that the deployment uses, signed with that service's secret."""
    converse = "converse"
    """A client's WebSocket of its session; it has a token of its own."""
    start = "start"
    agents = "agents"
    list = "list"
    show = "show"
    follow = "follow"
    """Reading the session's timeline, at once or as a stream."""
    logs = "logs"
    """Reading the output of the session's bot: for its operator, not for its caller."""
    stop = "stop"
    call = "call"
    """Calling any route of the session's bot."""
    measure = "measure"
    """Reading the deployment's metrics."""
    operate = "operate"
    """Any other action."""


CALLS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"})
READS = frozenset({"GET", "HEAD"})
SOCKET = frozenset({"WEBSOCKET"})

ORGANIZATION = "/v1/organizations/{organization}"
"""The prefix of the routes that Pipecat Cloud's command line calls."""

ROUTES: tuple[tuple[frozenset[str], str, Action], ...] = (
    (READS, "/", Action.open),
    (READS, "/assets/{path:path}", Action.open),
    (READS, "/openapi.json", Action.open),
    (READS, "/healthz", Action.open),
    (READS, "/readyz", Action.open),
    (READS, "/metrics", Action.measure),
    (SOCKET, CHANNEL_PATH, Action.channel),
    (SOCKET, SOCKET_PATH, Action.channel),
    (SOCKET, "/sessions/{session_id}/ws", Action.converse),
    (SOCKET, "/sessions/{session_id}/ws/{token}", Action.converse),
    (frozenset({"GET", "POST"}), "/telephony/{carrier}/{agent}", Action.notify),
    (frozenset({"POST"}), "/telephony/{carrier}/{agent}/after", Action.notify),
    (frozenset({"POST"}), "/telephony/{carrier}/{agent}/status", Action.notify),
    (frozenset({"POST"}), "/webhooks/daily", Action.notify),
    (frozenset({"POST"}), "/webhooks/machines/{provider}", Action.notify),
    (frozenset({"POST"}), "/v1/webhooks/replay", Action.operate),
    (frozenset({"POST"}), "/start", Action.start),
    (frozenset({"POST"}), "/v1/public/{agent}/start", Action.start),
    (frozenset({"POST", "PATCH"}), "/api/offer", Action.start),
    (READS, "/status", Action.agents),
    (READS, "/v1/agents", Action.agents),
    (READS, "/v1/sessions", Action.list),
    (READS, "/v1/agents/{agent}/sessions", Action.list),
    (READS, "/v1/organizations", Action.list),
    (READS, f"{ORGANIZATION}/services", Action.list),
    (READS, f"{ORGANIZATION}/services/{{agent}}", Action.list),
    (READS, f"{ORGANIZATION}/services/{{agent}}/logs", Action.list),
    (READS, f"{ORGANIZATION}/services/{{agent}}/sessions", Action.list),
    (READS, f"{ORGANIZATION}/services/{{agent}}/sessions/{{session_id}}", Action.show),
    (frozenset({"DELETE"}), f"{ORGANIZATION}/services/{{agent}}/sessions/{{session_id}}", Action.stop),
    (READS, "/sessions/{session_id}", Action.show),
    (READS, "/v1/agents/{agent}/sessions/{session_id}", Action.show),
    (READS, "/v1/sessions/{session_id}/events", Action.follow),
    (READS, "/v1/sessions/{session_id}/logs", Action.logs),
    (frozenset({"DELETE"}), "/sessions/{session_id}", Action.stop),
    (frozenset({"DELETE"}), "/v1/agents/{agent}/sessions/{session_id}", Action.stop),
    (CALLS, "/sessions/{session_id}/{path:path}", Action.call),
    (CALLS, "/v1/public/{agent}/sessions/{session_id}/{path:path}", Action.call),
)
"""Methods, path as in the app's routes, and action."""


def _expression(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)(:path)?\}", path)
    # Literal, name, ":path" or None, literal, …
    expression = re.escape(parts[0])
    for name, rest, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        expression += f"(?P<{name}>{'.*' if rest else '[^/]+'}){re.escape(literal)}"
    return re.compile(expression, re.DOTALL)


_ROUTES = tuple((methods, _expression(path), action) for methods, path, action in ROUTES)

FROM_OTHER_SITES = frozenset(
    {Action.start, Action.agents, Action.show, Action.follow, Action.stop, Action.call, Action.converse}
)
"""Actions that pages of other sites can be allowed: those of a public key or a session's token."""

Kind = KeyScope | Literal["session"]

_MAY: dict[Kind, frozenset[Action]] = {
    "start": FROM_OTHER_SITES - {Action.converse},
    "read": frozenset({Action.agents, Action.list, Action.show, Action.follow, Action.logs, Action.measure}),
    "admin": frozenset(Action),
    "session": frozenset({Action.show, Action.follow, Action.stop, Action.call}),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request's target. `agent` and `session_id` are None where its path names none."""

    action: Action
    agent: str | None = None
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller, and the most that they may do."""

    by: str
    """The key's name, for timelines."""
    kind: Kind
    owner: str | None = None
    """The name that owns the sessions it starts; None without a key."""
    agents: frozenset[str] = frozenset()
    """The agents that its key is valid for; empty for all."""
    session_id: str | None = None
    """The only session that a session's token is valid for."""
    public: bool = False
    """True if browsers hold its key, so that many people share this caller."""

    @property
    def sees_all_sessions(self) -> bool:
        """True if the caller may see every session, so that no row need be read to decide."""
        return self.kind == "session" or (self.kind in ("read", "admin") and not self.agents)


CLIENT = "its client"
LOCAL = Caller(CLIENT, "admin")
"""The caller where the dispatcher needs no key: everybody, on loopback."""


def asked(method: str, path: str) -> Asked:
    """Return the target of a request with this method (WEBSOCKET for a WebSocket) and path."""
    for methods, expression, action in _ROUTES:
        if method in methods and (match := expression.fullmatch(path)):
            named = match.groupdict()
            return Asked(action, named.get("agent"), named.get("session_id"))
    return Asked(Action.operate)


def may(kind: Kind, action: Action) -> bool:
    """Return True if such a caller may do this at all."""
    return action in (Action.open, Action.channel, Action.notify, Action.converse) or action in _MAY[kind]


def refusal(caller: Caller, wanted: Asked, default_agent: str) -> str | None:
    """Return why the caller may not do it, in a sentence; None if nothing speaks against it yet.

    The owner of a session is known only from its row: see `sees`.
    """
    if not may(caller.kind, wanted.action):
        return f"{_subject(caller)} does not allow this; it may {_abilities(caller.kind)}."
    if caller.session_id is not None and wanted.session_id != caller.session_id:
        return "The session's token is valid for its own session alone."
    if not caller.agents:
        return None
    if wanted.action in (Action.measure, Action.operate):
        return f"{_subject(caller)} is valid for some agents only, and this belongs to no agent."
    agent = wanted.agent or (default_agent if wanted.action is Action.start else None)
    if agent is not None and agent not in caller.agents:
        return (
            f"{_subject(caller)} is not valid for agent {agent}; allowed: {', '.join(sorted(caller.agents))}."
        )
    return None


def sees(caller: Caller, session: Session) -> bool:
    """Return True if the caller may see the session."""
    if caller.agents and session.agent not in caller.agents:
        return False
    if caller.session_id is not None:
        return session.id == caller.session_id
    return caller.kind != "start" or (caller.owner is not None and session.owner == caller.owner)


def _subject(caller: Caller) -> str:
    return "The session's token" if caller.kind == "session" else f"The key '{caller.by}'"


def _abilities(kind: Kind) -> str:
    match kind:
        case "start":
            return "start sessions, and show, follow, stop and call its own"
        case "read":
            return "list, show and follow sessions, and read their logs and the metrics"
        case "session":
            return "show, follow, stop and call its session"
        case _:
            return "do everything"
