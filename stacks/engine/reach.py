"""Ask each API that deletes a stack's resources, before the first of them is deleted.

A down that ends half-way has taken away what the rest stands on: an engine that was unreachable once left the
network and the bots, and had lost the store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from stacks.errors import EngineError, StackError
from stacks.stateful import State

FLY_APP = "pulumi-python:dynamic/switchboard:FlyApp"

ANSWER_SECONDS = 20


def check_reachable(state: State, values: Mapping[str, str], project: str) -> None:
    """Raise StackError if an API does not answer, or refuses the token.

    Args:
        values: The config, decrypted.
    """
    apps = [one.id for one in state.resources if one.type == FLY_APP]
    try:
        for host in sorted(state.docker_hosts):
            _ask_docker(host)
        if apps:
            _ask_fly(apps[0], values, project)
    except StackError as error:
        raise EngineError(f"{error}; nothing was deleted") from None


def _ask_docker(host: str) -> None:
    from stacks.docker.host import call  # loaded only where a stack has it, as is Fly's

    call(host, "GET", "version", timeout=ANSWER_SECONDS)


def _ask_fly(app: str, values: Mapping[str, str], project: str) -> None:
    from stacks.fly.api import part
    from stacks.fly.resource import TOKEN_KEY, client

    given = json.loads(values.get(f"{project}:fly") or "{}")
    fly = client(values.get(f"{project}:{TOKEN_KEY}"), given.get("apiUrl"))
    try:
        fly.get(f"apps/{part(app)}")
    finally:
        fly.close()
