"""Permissions: values in, values out.

What a route does is said in one table, `ROUTES`. What is not in it is for admins alone, so a route that
somebody adds and forgets here is closed, not open; a test walks all routes of the app and wants each of them.

    scope     may
    start     start sessions; show, follow, stop and call those that keys of its name started
    read      list, show and follow sessions, with their logs; read the metrics
    admin     everything
    session   (a session's own token) show, follow, stop and call that session

A key that names agents is good for theirs alone, and one for what belongs to no agent must name none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from bot.protocol import CHANNEL_PATH
from dispatcher.domain.model import Session
from dispatcher.keys import KeyScope


class Action(StrEnum):
    """The action that a request asks for."""

    open = "open"
    """Nothing that needs a key: health, the page and its files, the API's description."""
    channel = "channel"
    """A machine's connection; the machine has a token of its own."""
    notify = "notify"
    """A message of a service that the deployment uses, signed with a secret of theirs."""
    start = "start"
    agents = "agents"
    list = "list"
    show = "show"
    follow = "follow"
    """The session's timeline, as it is or as it grows."""
    logs = "logs"
    """The output of the session's bot: its operator's to read, not its caller's."""
    stop = "stop"
    call = "call"
    """Whatever the session's bot answers."""
    measure = "measure"
    """The deployment's metrics."""
    operate = "operate"
    """Everything else."""


CALLS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"})
READS = frozenset({"GET", "HEAD"})
SOCKET = frozenset({"WEBSOCKET"})

ORGANIZATION = "/v1/organizations/{organization}"
"""Below it is what Pipecat Cloud's command line asks for."""

ROUTES: tuple[tuple[frozenset[str], str, Action], ...] = (
    (READS, "/", Action.open),
    (READS, "/assets/{path:path}", Action.open),
    (READS, "/openapi.json", Action.open),
    (READS, "/healthz", Action.open),
    (READS, "/readyz", Action.open),
    (READS, "/metrics", Action.measure),
    (SOCKET, CHANNEL_PATH, Action.channel),
    (frozenset({"POST"}), "/webhooks/daily", Action.notify),
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
"""Methods, path as the app's routes have it, and what is done there."""


def _expression(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)(:path)?\}", path)
    # Literal, name, ":path" or None, literal, …
    expression = re.escape(parts[0])
    for name, rest, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        expression += f"(?P<{name}>{'.*' if rest else '[^/]+'}){re.escape(literal)}"
    return re.compile(expression, re.DOTALL)


_ROUTES = tuple((methods, _expression(path), action) for methods, path, action in ROUTES)

FROM_OTHER_SITES = frozenset(
    {Action.start, Action.agents, Action.show, Action.follow, Action.stop, Action.call}
)
"""Actions that pages of other sites can be allowed: what a public key or a session's token is good for."""

Kind = KeyScope | Literal["session"]

_MAY: dict[Kind, frozenset[Action]] = {
    "start": FROM_OTHER_SITES,
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
    """The maker of a request, and what they may do at most."""

    by: str
    """For timelines: the key's name."""
    kind: Kind
    owner: str | None = None
    """The name under which the sessions that it starts are kept; None without a key."""
    agents: frozenset[str] = frozenset()
    """The agents that it is good for; empty for all."""
    session_id: str | None = None
    """The one session that a session's token is good for."""
    public: bool = False
    """Predicate: browsers hold its key, so that many people are this one caller."""

    @property
    def sees_all_sessions(self) -> bool:
        """True if no session has to be looked at to know if it is the caller's to see."""
        return self.kind == "session" or (self.kind in ("read", "admin") and not self.agents)


CLIENT = "its client"
LOCAL = Caller(CLIENT, "admin")
"""Everybody, where the dispatcher asks for no key: on loopback."""


def asked(method: str, path: str) -> Asked:
    """Return the target of a request with this method (WEBSOCKET for a WebSocket) and path."""
    for methods, expression, action in _ROUTES:
        if method in methods and (match := expression.fullmatch(path)):
            named = match.groupdict()
            return Asked(action, named.get("agent"), named.get("session_id"))
    return Asked(Action.operate)


def may(kind: Kind, action: Action) -> bool:
    """Return True if such a caller may do it at all."""
    return action in (Action.open, Action.channel, Action.notify) or action in _MAY[kind]


def refusal(caller: Caller, wanted: Asked, default_agent: str) -> str | None:
    """Say why the caller may not do it, for the person at the other end; None if nothing is known against it.

    Whose a session is only its row tells: see `sees`.
    """
    if not may(caller.kind, wanted.action):
        return f"{_subject(caller)} is not good for this; it may {_abilities(caller.kind)}."
    if caller.session_id is not None and wanted.session_id != caller.session_id:
        return "The session's token is good for its own session alone."
    if not caller.agents:
        return None
    if wanted.action in (Action.measure, Action.operate):
        return f"{_subject(caller)} is good for some agents only, and this belongs to no agent."
    agent = wanted.agent or (default_agent if wanted.action is Action.start else None)
    if agent is not None and agent not in caller.agents:
        return f"{_subject(caller)} is not good for {agent}; allowed: {', '.join(sorted(caller.agents))}."
    return None


def sees(caller: Caller, session: Session) -> bool:
    """Return True if the session is one of those that the caller is good for."""
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
