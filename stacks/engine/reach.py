"""Ask each API that deletes a stack's resources, before the first of them is deleted.

A down that ends half-way has taken away what the rest stands on: an engine that was unreachable once left the
network and the bots, and had lost the store.
"""

from __future__ import annotations

from collections.abc import Mapping

from stacks import clouds
from stacks.errors import EngineError, StackError
from stacks.stateful import State


def check_reachable(state: State, values: Mapping[str, str], project: str) -> None:
    """Raise StackError if an API does not answer, or refuses the credentials.

    Args:
        values: The config, decrypted.
    """
    try:
        for cloud in clouds.importable().values():
            cloud.check_reachable(state, values, project)
    except StackError as error:
        raise EngineError(f"{error}; nothing was deleted") from None
