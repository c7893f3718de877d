"""Refusals of an agent's `reserve`: they name the field, the value and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dispatcher.settings import Settings

PROCESS = {"process": {"provider": "process"}}


def settings(reserve: dict[str, Any], **more: Any) -> Settings:
    agent = {"bot": "bot.py", "image": "bot@sha256:0", "reserve": reserve}
    return Settings(**{"agents": {"echo": agent}, "placements": PROCESS, **more})


@pytest.mark.parametrize(
    ("reserve", "refusal"),
    [
        (
            {"fixed": 1, "budget": 5},
            "agent 'echo': reserve: budget: 5 is refused, .*; allowed: none, and a max",
        ),
        ({}, "policy: none is refused; allowed: exactly one of fixed, percent, schedule, predictive"),
        ({"fixed": 1, "max_age_seconds": 5}, "max_age_seconds"),
        ({"fixed": 1, "min": 3, "max": 2}, r"min: 3 is refused; allowed: at most max \(2\)"),
    ],
)
def test_reserve_that_cannot_be_kept_is_refused(reserve, refusal):
    with pytest.raises(ValidationError, match=refusal):
        settings(reserve)


def test_reserve_is_refused_where_machines_cannot_wait():
    container = {"docker": {"provider": "container"}}
    with pytest.raises(
        ValidationError, match=r"reserve is refused, .*'container'.*; allowed: placements of process"
    ):
        settings({"fixed": 1}, placements=container)


@pytest.mark.parametrize("reserve", [{"fixed": 0}, {"percent": 10, "min": 1}, {"predictive": {}}])
def test_reserve_of_processes_is_accepted(reserve):
    assert settings(reserve).agents["echo"].reserve is not None
