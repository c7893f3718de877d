"""Variables of agents, whose values come from the environment of whoever runs the engine."""

from __future__ import annotations

import os

from stacks.core_config import CoreConfig
from stacks.errors import ConfigError
from stacks.refusals import masked

UNSET_VARIABLE = "SWITCHBOARD_UNSET"
"""Names the variables that bots are to do without, for this run: `make up UNSET=…`, or with `pulumi up`."""


def meant_unset() -> frozenset[str]:
    """Return the names of variables that are not set here, and are not to be."""
    return frozenset(os.environ.get(UNSET_VARIABLE, "").replace(",", " ").split())


def refuse_missing(config: CoreConfig) -> None:
    """Refuse an agent's variables that are not set where the engine runs.

    An empty one is not set: a CI gives a secret that it does not have as that. Bots would be started
    without, and an up from another shell would take them from a stack that has them.

    Raises:
        ConfigError: a variable is missing; or UNSET names one that no agent has, or that is set.
    """
    named = {variable for agent in config.agents.values() for variable in agent.env}
    meant = meant_unset()
    if unknown := sorted(meant - named):
        allowed = ", ".join(sorted(named)) or "nothing, since no agent has variables"
        shown = ", ".join(map(masked, unknown))
        raise ConfigError(f"UNSET: {shown}: no agent's env names it; allowed: {allowed}")
    if given := sorted(name for name in meant if os.environ.get(name)):
        raise ConfigError(
            f"UNSET: {', '.join(given)}: set here, so the bots would get it; allowed: without it in UNSET, "
            f"or without it in the environment (unset {' '.join(given)})"
        )
    lines = []
    for name, agent in config.agents.items():
        if missing := [one for one in agent.env if not os.environ.get(one) and one not in meant]:
            names = ",".join(missing)
            lines.append(
                f"switchboard:agents.{name}.env: not set here, or empty: {', '.join(missing)}; allowed: "
                f"the value in the environment, or UNSET={names} (with pulumi: "
                f"{UNSET_VARIABLE}={names}) to do without"
            )
    if lines:
        raise ConfigError("\n".join(lines))
