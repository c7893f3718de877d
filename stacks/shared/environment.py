"""Variables that a dispatcher's environment takes from whoever runs the engine."""

from __future__ import annotations

import os
from collections.abc import Iterable

from stacks import daily
from stacks.core_config import CoreConfig

TRACING_PREFIX = "OTEL_"
"""Begins variables that say where the dispatcher sends its traces, headers with a key among them: they are
secret in the state."""

USER_PATH_VARIABLE = "SWITCHBOARD_USER_PATH"
"""The driver puts the engine's own directories before the user's PATH, and keeps that here."""


def given(names: Iterable[str]) -> dict[str, str]:
    """Return the variables that are set where the engine runs."""
    return {name: os.environ[name] for name in sorted(names) if name in os.environ}


def tracing_names() -> list[str]:
    """Return the variables of tracing that are set where the engine runs."""
    return [name for name in os.environ if name.startswith(TRACING_PREFIX)]


def outside(config: CoreConfig) -> dict[str, str]:
    """Return the variables that come from outside the config, in the form of `refusals_of_removal`."""
    return {**daily.not_set_here(config), f"{TRACING_PREFIX}*": ""}
