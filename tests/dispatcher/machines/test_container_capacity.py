"""What an engine's host has for machines, and what the engine cannot limit."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from dispatcher.machines.container.capacity import LIMITS, Capacity


def capacity(**info: Any) -> Capacity:
    async def about_the_host() -> dict[str, Any]:
        return {"MemTotal": 2**33, **info}

    async def containers() -> list[dict[str, Any]]:
        return []

    return Capacity(about_the_host, containers)


# As Docker 20.10 without root answers on a host with cgroups of version 1.
@pytest.mark.parametrize(
    ("info", "words"),
    [
        (dict.fromkeys(LIMITS, False), "limits no container's memory, CPU, processes: a bot can take all"),
        ({**dict.fromkeys(LIMITS, True), "CpuCfsQuota": False}, "limits no container's CPU: a bot"),
        (dict.fromkeys(LIMITS, True), ""),
        ({}, ""),
    ],
)
async def test_an_engine_that_cannot_limit_is_said_once(
    caplog: pytest.LogCaptureFixture, info: dict[str, bool], words: str
) -> None:
    asked = capacity(**info)
    with caplog.at_level(logging.WARNING):
        for number in range(2):
            await asked.take(f"m-{number}", 512)
    assert [record.levelname for record in caplog.records] == (["WARNING"] if words else [])
    assert words in caplog.text
