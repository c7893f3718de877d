"""Policies: what must hold of a stack, each a pure function over its graph as the clouds' reviews tell it.

A stack's config allows an exception, with a justification in words:

    switchboard:policyExceptions:
      no-public-ingress:
        dispatcher: "the load balancer of our own in front needs port 8443"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from stacks.errors import ConfigError
from stacks.plan.graph import SECRET, Graph
from stacks.plan.review import Grant, Kept, Opening, Review, Runs

Finding = tuple[str, str]
"""Resource or identity, and its fault in words."""


@dataclass(frozen=True)
class Facts:
    """A stack as policies see it."""

    graph: Graph
    grants: Sequence[Grant]
    openings: Sequence[Opening]
    kept: Sequence[Kept]
    runs: Sequence[Runs]
    throwaway: bool

    @classmethod
    def of(cls, graph: Graph, reviews: Iterable[Review], *, throwaway: bool) -> Facts:
        """Ask each review."""
        reviews = list(reviews)
        return cls(
            graph,
            [one for review in reviews for one in review.grants(graph)],
            [one for review in reviews for one in review.openings(graph)],
            [one for review in reviews for one in review.kept(graph)],
            [one for review in reviews for one in review.runs(graph)],
            throwaway,
        )


@dataclass(frozen=True)
class Policy:
    """A rule, and why it is one."""

    name: str
    rule: str
    reason: str
    check: Callable[[Facts], Iterator[Finding]]


@dataclass(frozen=True)
class Violation:
    """A resource or identity that breaks a policy."""

    policy: Policy
    subject: str
    fault: str
    justification: str = ""
    """Words of the stack's config that allow it; empty: nothing does."""


PUBLIC_TCP = frozenset({80, 443, 3478})
"""Ports that the internet may reach over TCP: HTTPS, its redirect, and TURN. Over UDP media may come too."""


def _wildcards(facts: Facts) -> Iterator[Finding]:
    for grant in facts.grants:
        if grant.wildcards and not grant.reason:
            yield (
                grant.identity,
                f"may {', '.join(grant.does)} on {', '.join(grant.to)}, and no reason is given",
            )


def _ingress(facts: Facts) -> Iterator[Finding]:
    for opening in facts.openings:
        if not opening.public:
            continue
        ports = {port for of in opening.ports for port in of}
        allowed = opening.protocol == "udp" or ports <= PUBLIC_TCP
        if not allowed or not ports or not opening.reason:
            yield opening.to, f"{opening.protocol} {opening.ports_shown} is open to the internet"


def _encryption(facts: Facts) -> Iterator[Finding]:
    for one in facts.kept:
        if one.encrypted is False:
            yield one.name, f"holds {one.holds}, and is not encrypted"


def _digests(facts: Facts) -> Iterator[Finding]:
    built = {tag for one in facts.graph.of("docker-build:index:Image") for tag in one.inputs.get("tags", ())}
    for one in facts.runs:
        # A stack on one machine runs what it built there: its tag is the fingerprint of the sources.
        if "@sha256:" not in one.image and one.image not in built:
            yield one.name, f"runs {one.image}, which has no digest"


_SECRET_NAME = re.compile(r"(^|_)(SECRET|SECRETS|TOKEN|TOKENS|PASSWORD|CREDENTIAL|API_KEY)(_|$)")


def _plain_secrets(facts: Facts) -> Iterator[Finding]:
    for one in facts.runs:
        for name, value in one.variables.items():
            if _SECRET_NAME.search(name) and value and value != SECRET:
                yield one.name, f"has {name} as a variable in clear"


def _retention(facts: Facts) -> Iterator[Finding]:
    for one in facts.kept:
        if one.logs and one.days is None:
            yield one.name, "keeps log lines for ever"


def _protection(facts: Facts) -> Iterator[Finding]:
    if facts.throwaway:
        return
    for one in facts.kept:
        resource = facts.graph.named(one.name)
        if one.store and not (resource.protected and resource.retained):
            yield one.name, f"holds {one.holds}, and is not protected and retained"


def _tags(facts: Facts) -> Iterator[Finding]:
    for one in facts.graph:
        if one.tagged is False:
            yield one.name, "has no tags `project` and `stack`"


POLICIES = (
    Policy(
        "no-wildcard",
        "no action or resource that stands for all, without a reason",
        "An identity that may do everything is an attacker's whole account.",
        _wildcards,
    ),
    Policy(
        "no-public-ingress",
        "the internet reaches HTTPS, its redirect, TURN, and media over UDP",
        "A port that nobody needs is one that somebody tries.",
        _ingress,
    ),
    Policy(
        "encrypted-at-rest",
        "stores, logs and registries are encrypted",
        "Disks and backups leave the building.",
        _encryption,
    ),
    Policy(
        "image-by-digest",
        "images are named by digest, or built by this stack",
        "A tag can be moved to another image after the review.",
        _digests,
    ),
    Policy(
        "no-plain-secret",
        "no secret is a variable in clear",
        "Consoles, logs and states show variables to everybody who may look.",
        _plain_secrets,
    ),
    Policy(
        "log-retention",
        "log lines are kept for a number of days",
        "They hold what callers said, and cost money.",
        _retention,
    ),
    Policy(
        "protected-data",
        "what holds data is protected and retained, outside of throw-away stacks",
        "A rename must not delete the record of every call.",
        _protection,
    ),
    Policy(
        "tagged",
        "what can have tags names its project and stack",
        "Bills and searches go by tags.",
        _tags,
    ),
)

Exceptions = Mapping[str, Mapping[str, str]]
"""Policy → resource or identity → justification."""


def violations(facts: Facts, exceptions: Exceptions) -> list[Violation]:
    """Return every violation, also those that the config allows.

    Raises:
        ConfigError: An exception names no policy, or nothing that breaks it.
    """
    known = {policy.name for policy in POLICIES}
    for name in exceptions:
        if name not in known:
            raise ConfigError(
                f"switchboard:policyExceptions.{name}: is no policy; allowed: {', '.join(sorted(known))}"
            )
    found = []
    for policy in POLICIES:
        given = dict(exceptions.get(policy.name, {}))
        faults = list(policy.check(facts))
        for subject, fault in faults:
            found.append(Violation(policy, subject, fault, given.get(subject, "")))
        if unused := sorted(given.keys() - {subject for subject, _ in faults}):
            breaks = ", ".join(sorted({subject for subject, _ in faults})) or "nothing does"
            raise ConfigError(
                f"switchboard:policyExceptions.{policy.name}.{unused[0]}: does not break the policy; "
                f"allowed: what does ({breaks})"
            )
    return found
