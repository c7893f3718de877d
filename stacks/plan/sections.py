"""The sections of a plan, from a stack's graph and its clouds' reviews."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from stacks.assembly import Plan
from stacks.plan import changes
from stacks.plan.changes import Changes
from stacks.plan.document import NOTHING, Document, Section, Table
from stacks.plan.graph import Graph, Resource
from stacks.plan.policies import POLICIES, Facts, Violation
from stacks.plan.review import Cost, Grant, Review
from stacks.prices import DAYS

MINUTES_OF_A_SESSION = 3
SESSIONS = 1000

NOT_COUNTED = "Not counted: media (Daily, TURN), AI services, traffic, taxes."


def document(
    plan: Plan,
    facts: Facts,
    reviews: Mapping[str, Review],
    broken: Sequence[Violation],
    changed: Changes | None = None,
) -> Document:
    """Return the whole plan.

    Args:
        reviews: Cloud → its review.
        broken: Violations of policies, also those that the config allows.
        changed: What changes; None: the plan is of the stack alone.
    """
    config, graph = plan.environment.config, facts.graph
    every = list(reviews.values())
    return Document(
        f"Plan of stack {graph.stack}: dispatcher at {config.cloud}, bots at "
        + ", ".join(planned.name for planned in plan.planned),
        [
            *([] if changed is None else [changes.section(changed)]),
            live_calls(plan, graph, reviews),
            *_untold(reviews),
            resources(graph, every),
            permissions(facts),
            openings(facts, every),
            secrets(plan, graph, every),
            cost(plan, graph, every),
            start(plan, reviews),
            policies(broken),
        ],
    )


def live_calls(plan: Plan, graph: Graph, reviews: Mapping[str, Review]) -> Section:
    """Return what becomes of calls, and of starts, while a change is applied."""
    starts = reviews[plan.environment.config.cloud].replaced(graph)
    rows = [
        ("a changed bot", "finish with the image or code that they have", "get the new one"),
        ("a changed dispatcher", "go on, and their bots connect to the new one", starts or "unknown"),
        ("`make down`", "end", "are refused"),
    ]
    return Section("Live calls", Table(("what is applied", "live calls", "new calls"), rows))


def policies(broken: Sequence[Violation]) -> Section:
    """Return each policy, and what breaks it."""
    rows = []
    for policy in POLICIES:
        faults = [one for one in broken if one.policy == policy]
        told = [
            f"{one.subject} {one.fault}" + (f" (allowed: {one.justification})" if one.justification else "")
            for one in faults
        ]
        state = "BROKEN" if any(not one.justification for one in faults) else "allowed" if faults else "holds"
        rows.append((policy.name, state, policy.rule, "; ".join(told) or NOTHING))
    return Section("Policies", Table(("policy", "state", "rule", "broken by"), rows))


def _untold(reviews: Mapping[str, Review]) -> list[Section]:
    """Return a section that names the clouds whose packages have no review; none if all have one."""
    silent = [name for name, review in reviews.items() if type(review) is Review]
    told = "has no review: its permissions, openings, secrets, costs and start times are not in this plan."
    return (
        [Section("Not told", notes=[f"The package of cloud {name} {told}" for name in silent])]
        if silent
        else []
    )


def resources(graph: Graph, reviews: Sequence[Review]) -> Section:
    """Return a line for each resource, grouped by component."""
    ordered = sorted(graph, key=lambda one: (one.component, one.kind, one.name))
    rows = [
        (one.component or NOTHING, one.kind, one.name, _facts(one, reviews), _marks(one)) for one in ordered
    ]
    counted = ", ".join(
        f"{component or 'no component'} {sum(1 for _ in of)}"
        for component, of in groupby(ordered, key=lambda one: one.component)
    )
    return Section(
        "Resources",
        Table(("component", "kind", "name", "facts", "kept"), rows, grouped=True),
        [f"{len(rows)} resources: {counted}."],
    )


def permissions(facts: Facts) -> Section:
    """Return what each identity may do."""
    grants = sorted(facts.grants, key=lambda one: (one.identity, tuple(one.does), tuple(one.to)))
    rows = [
        (
            f"{one.identity}, for {one.assumed_by}",
            _listed(one.does) or "nothing",
            _listed(one.to) or NOTHING,
            _listed(one.only_if) or NOTHING,
            one.reason or "no reason is given",
        )
        for one in grants
    ]
    return Section(
        "Permissions",
        Table(("identity", "may", "on", "only if", "why"), rows, grouped=True),
        [_wildcard(one) for one in grants if one.wildcards],
    )


def openings(facts: Facts, reviews: Sequence[Review]) -> Section:
    """Return every port that somebody reaches, the internet's first, and where connections go."""
    found = sorted(facts.openings, key=lambda one: (not one.public, one.to, one.ports_shown, one.protocol))
    rows = [
        (one.reached_from, one.to, f"{one.protocol} {one.ports_shown}", one.reason, one.encrypted_by)
        for one in found
    ]
    out = sorted(line for review in reviews for line in review.egress(facts.graph))
    return Section(
        "Openings",
        Table(("from", "to", "ports", "why", "encrypted by"), rows),
        [f"Out: {line}" for line in out],
    )


def secrets(plan: Plan, graph: Graph, reviews: Sequence[Review]) -> Section:
    """Return the secrets and who reads them, never a value."""
    found = sorted(
        (one for review in reviews for one in review.secrets(plan.environment, graph)),
        key=lambda one: one.name,
    )
    rows = [(one.name, one.kept_in, one.read_by, one.rotated) for one in found]
    variables = [
        f"Variables of agent {name}, which its bots get: {', '.join(agent.env)}"
        for name, agent in plan.environment.config.agents.items()
        if agent.env
    ]
    return Section("Secrets", Table(("secret", "kept in", "read by", "changed by"), rows), variables)


def cost(plan: Plan, graph: Graph, reviews: Sequence[Review]) -> Section:
    """Return the cost of a month without calls, and of sessions."""
    idle = [one for review in reviews for one in review.idle(graph)]
    rows = [("a month without calls", one.what, _usd(one.usd_month), one.source) for one in idle]
    if len(idle) > 1:
        rows.append(("a month without calls", "all of it", _usd(_total(idle)), "the sum"))
    if idle:
        total = _total(idle)
        day = None if total is None else total / DAYS
        rows.append(("a day without calls", "all of it", _usd(day), f"a month's, by {DAYS}"))
    for agent, placement, price in plan.prices_by_placement():
        minute = price.per_second * 60
        whole = minute * MINUTES_OF_A_SESSION * SESSIONS
        what = f"agent {agent} at {placement}"
        rows.append(("a session-minute", what, f"${minute:.5f}", price.of))
        rows.append((f"{SESSIONS} sessions of {MINUTES_OF_A_SESSION} min", what, f"${whole:.2f}", "the same"))
    return Section("Cost", Table(("of", "what", "USD", "source"), rows), [NOT_COUNTED])


def start(plan: Plan, reviews: Mapping[str, Review]) -> Section:
    """Return what a caller waits for at each placement, from nothing."""
    rows = [
        (planned.name, wait.step, f"{wait.least_seconds:g}–{wait.most_seconds:g} s", wait.source)
        for planned in plan.planned
        for wait in reviews[planned.cloud].start()
    ]
    return Section("Start of a session", Table(("placement", "step", "takes", "source"), rows))


def _facts(resource: Resource, reviews: Iterable[Review]) -> str:
    found = (review.facts(resource) for review in reviews)
    return next((one for one in found if one is not None), NOTHING)


def _marks(resource: Resource) -> str:
    if resource.protected:
        return "stays after `make down`, unless it is confirmed by name"
    return "stays after `make down`" if resource.retained else NOTHING


def _wildcard(grant: Grant) -> str:
    stars = ", ".join(grant.wildcards)
    return f"Wildcard: {grant.identity} may {_listed(grant.does)} on {stars}. {grant.reason}"


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts)


def _usd(value: float | None) -> str:
    return "unknown" if value is None else f"${value:.2f}"


def _total(parts: Sequence[Cost]) -> float | None:
    # As they are shown, so that a reader's sum is ours.
    known = [round(one.usd_month, 2) for one in parts if one.usd_month is not None]
    return sum(known) if len(known) == len(parts) else None
