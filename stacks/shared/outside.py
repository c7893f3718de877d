"""Variables that a stack takes from the environment of whoever runs the engine.

A run without one of them is no wish to take it from a stack that has it: it is refused by name.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

from pulumi.dynamic import CheckFailure


def refusals_of_removal(
    deployed: Any, wanted: Any, outside: Mapping[str, str], holder: str
) -> list[CheckFailure]:
    """Return a failure for each variable that is deployed, wanted no more, and not set here.

    Args:
        deployed: Variable → value; anything else where nothing was there.
        wanted: Likewise; anything else where it is not known yet.
        outside: Patterns of the variables that come from the environment (`*` is any end) → their names
            there, or "" where they have the same.
        holder: What has the variables, as a refusal names it.
    """
    if not isinstance(deployed, Mapping) or not isinstance(wanted, Mapping):
        return []
    return [
        # Of no property: the engine would show its value.
        CheckFailure(
            "",
            f"{variable or name}: is not set here, and {holder} has it; "
            "allowed: its value in the environment (set it empty to do without)",
        )
        for name in sorted(set(deployed) - set(wanted))
        for pattern, variable in outside.items()
        if fnmatch.fnmatchcase(name, pattern)
    ]
