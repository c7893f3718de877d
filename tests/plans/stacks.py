"""The stacks whose plans are committed: the examples, and common variants."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stacks.config import parse
from stacks.deployment import Environment
from stacks.plan.configured import environment
from stacks.plan.policies import Facts, violations
from stacks.plan.recording import record, reviews_of
from stacks.plan.render import FORMATS
from stacks.plan.sections import document
from tests.forked import preload, run_forked

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
SECONDS = 120.0

preload("tests.stacks.sdks", "sqlalchemy")
preload(*(f"stacks.{name}.program" for name in ("aws", "docker", "fly", "gcp", "local")), __name__)

KEY = {"name": "web", "hash": f"sha256:{'1' * 64}", "scope": "start"}
ECHO = {"echo": {"bot": "bot/agents/echo.py", "env": ["OPENAI_API_KEY"]}}
VOICE = {"voice": {"bot": "bot/agents/voice.py", "transports": ["daily"], "env": ["OPENAI_API_KEY"]}}

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "docker-domain": {
        "cloud": "docker",
        "keys": [KEY],
        "agents": ECHO,
        "docker": {"domain": "voice.example.com", "turn": True, "turnAddress": "192.0.2.1"},
    },
    "docker-and-fly": {
        "cloud": "docker",
        "keys": [KEY],
        "agents": ECHO,
        "docker": {"domain": "voice.example.com"},
        "placements": {
            "docker": {"cloud": "docker"},
            "overflow": {"cloud": "fly", "org": "personal", "regions": ["iad"]},
        },
    },
    "fly-daily": {
        "cloud": "fly",
        "keys": [KEY],
        "agents": VOICE,
        "daily": {"domain": "voice"},
        "fly": {"org": "personal", "regions": ["iad", "fra"]},
    },
    "aws": {"cloud": "aws", "keys": [KEY], "agents": ECHO},
    "aws-cheap": {
        "cloud": "aws",
        "throwaway": True,
        "keys": [KEY],
        "agents": ECHO,
        "aws": {"dispatchers": 1},
    },
    "aws-domain": {
        "cloud": "aws",
        "keys": [KEY],
        "agents": {**ECHO, **VOICE},
        "daily": {"domain": "voice"},
        "aws": {"domain": "voice.example.com", "zoneId": "Z0123456789ABC", "databaseMultiZone": True},
    },
    "mix": {
        "cloud": "aws",
        "keys": [KEY],
        "agents": {"echo": {**ECHO["echo"], "memoryMb": 2048}},
        "aws": {"domain": "voice.example.com", "zoneId": "Z0123456789ABC"},
        "placements": {
            "virginia": {"cloud": "aws", "region": "us-east-1"},
            "gcp": {"cloud": "gcp", "project": "my-project-1234", "region": "us-central1"},
            "overflow": {"cloud": "fly", "org": "personal", "regions": ["iad"]},
        },
    },
    "gcp": {
        "cloud": "gcp",
        "keys": [KEY],
        "agents": {"echo": {**ECHO["echo"], "memoryMb": 2048, "startTimeoutSeconds": 120}},
        "gcp": {"project": "my-project-1234", "region": "us-central1"},
    },
}
"""Stack → its config, for those that no file in stacks/ has."""

EXAMPLES = ("docker", "local")
"""Stacks whose files deploy as they are. The others have no keys, which are their user's."""


def rendered(stack: str) -> dict[str, str]:
    """Return a stack's plan in each format, rendered in a process of its own."""
    return run_forked(_rendered, stack, seconds=SECONDS)


def rendered_with(config: Mapping[str, Any], **environment: str) -> dict[str, str]:
    """Return the plan of the stack `prod` with this config, in this environment, in each format."""
    return run_forked(_rendered_with, dict(config), environment, seconds=SECONDS)


def golden(stack: str) -> Path:
    return HERE / f"{stack}.md"


def _rendered(stack: str) -> dict[str, str]:
    os.environ.clear()
    if stack in VARIANTS:
        return _of(variant_of(stack, VARIANTS[stack]))
    return _of(environment(CHECKOUT, stack))


def _rendered_with(config: dict[str, Any], variables: dict[str, str]) -> dict[str, str]:
    os.environ.clear()
    os.environ.update(variables)
    return _of(variant_of("prod", config))


def variant_of(stack: str, config: Mapping[str, Any]) -> Environment:
    """Return the environment of a stack with this config."""
    values = {
        f"switchboard:{name}": value if isinstance(value, str) else json.dumps(value)
        for name, value in config.items()
    }
    found = parse(values, project="switchboard", checkout=CHECKOUT, stack=stack)
    return Environment("switchboard", stack, CHECKOUT, found)


def _of(about: Environment) -> dict[str, str]:
    graph, plan = record(about)
    reviews = reviews_of(about)
    facts = Facts.of(graph, reviews.values(), throwaway=about.config.throwaway)
    made = document(plan, facts, reviews, violations(facts, about.config.policy_exceptions))
    return {name: render(made) for name, render in FORMATS.items()}


def write() -> None:
    """Write all golden plans."""
    for stack in (*EXAMPLES, *VARIANTS):
        golden(stack).write_text(rendered(stack)["markdown"])


if __name__ == "__main__":
    write()
