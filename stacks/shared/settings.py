"""The dispatcher's settings under a stack's config, with its placements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pulumi
from pydantic import ValidationError

from dispatcher.machines.settings import PlacementSettings
from dispatcher.settings import ENVIRONMENT_PREFIX, AgentSettings, Settings
from stacks import daily, ice, phones, webhooks
from stacks.core_config import PLAIN_SETTINGS, CoreConfig
from stacks.deployment import PlacedBots, PlannedBots, Site
from stacks.errors import ConfigError
from stacks.refusals import explain_settings


@dataclass(frozen=True)
class Placements:
    """The placements of a stack, as its dispatcher has them."""

    settings: Mapping[str, PlacementSettings] = field(default_factory=dict)
    by_agent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Agent → names in `settings`, in order. No entry: all of them."""
    shared: Mapping[str, Any] = field(default_factory=dict)
    """Deployment-wide settings of the providers."""

    @classmethod
    def of(cls, config: CoreConfig, planned: Sequence[PlannedBots]) -> Placements:
        """Put a stack's placements together.

        Raises:
            ConfigError: Two of them need one setting with different values, or one name at a cloud.
        """
        _refuse_shared_names(planned)
        settings: dict[str, PlacementSettings] = {}
        shared: dict[str, tuple[str, Any]] = {}
        for one in planned:
            if taken := settings.keys() & one.settings.keys():
                raise ConfigError(
                    f"switchboard:placements.{one.name}: gives the dispatcher a placement "
                    f"'{min(taken)}', which another one gives; allowed: another name"
                )
            settings |= one.settings
            for name, value in one.shared.items():
                first, had = shared.setdefault(name, (one.name, value))
                if had != value:
                    raise ConfigError(
                        f"switchboard:placements.{one.name}: needs {name} {value!r}, and placement "
                        f"'{first}' needs {had!r}; allowed: one value for all placements"
                    )
        by_agent = {
            name: tuple(
                there
                for one in _in_order(agent.placements, planned)
                for there in one.by_agent.get(name, tuple(one.settings))
            )
            for name, agent in config.agents.items()
            if agent.placements or any(one.by_agent for one in planned)
        }
        return cls(settings, by_agent, {name: value for name, (_, value) in shared.items()})


def _refuse_shared_names(planned: Sequence[PlannedBots]) -> None:
    """Raise ConfigError for two placements that would make one resource: each would delete the other's."""
    taken: dict[tuple[str, str], str] = {}
    for one in planned:
        for name in one.names:
            first = taken.setdefault((one.cloud, name), one.name)
            if first != one.name:
                raise ConfigError(
                    f"switchboard:placements.{one.name}: makes the {name}, and so does placement '{first}'; "
                    f"allowed: names of its own, by another name or prefix of the placement"
                )


def _in_order(names: Sequence[str], planned: Sequence[PlannedBots]) -> list[PlannedBots]:
    if not names:
        return list(planned)
    return [next(one for one in planned if one.name == name) for name in names]


def settings_of(config: CoreConfig, placements: Placements, **of_the_host: Any) -> Settings:
    """Return the dispatcher's settings. Raises ConfigError for what only the whole tells."""
    # What is not given must not come from the environment of whoever runs the engine: their
    # SWITCHBOARD_KEYS would end up in the stack's state.
    no_environment: dict[str, Any] = {"_env_prefix": "NOT_FROM_THE_ENVIRONMENT_"}
    agents = {
        name: agent.model_copy(update={"placements": placements.by_agent[name]})
        if name in placements.by_agent
        else agent
        for name, agent in of_the_host.pop("agents", config.agents).items()
    }
    given: dict[str, Any] = {
        "port": config.port,
        "max_sessions": config.max_sessions or None,
        "log_level": config.log_level,
        "log_format": config.log_format,
        "agents": agents,
        "keys": config.keys,
        "default_agent": config.default_agent or min(config.agents),
    }
    if placements.settings:
        given["placements"] = placements.settings
    # A default is not given: a new key must not change the environment of a stack that is up.
    for name in PLAIN_SETTINGS:
        if getattr(config, name) != CoreConfig.model_fields[name].default:
            given[name] = getattr(config, name)
    servers = ice.settings_of(config, of_the_host.get("ice_servers", ()))
    try:
        return Settings(
            **(
                given
                | daily.settings_of(config)
                | phones.settings_of(config)
                | webhooks.settings_of(config)
                | dict(placements.shared)
                | of_the_host
                | servers
                | no_environment
            )
        )
    except ValidationError as error:
        raise ConfigError(explain_settings(error, "switchboard", daily.keys_of(config))) from None


def made_placements(
    known: Placements, placed: Sequence[PlacedBots]
) -> dict[str, dict[str, pulumi.Input[object]]]:
    """Return the variable of the placements, as `variables` takes it; nothing if all of it is known without.

    Args:
        known: The placements with stand-ins.
    """
    found = {name: value for one in placed for name, value in one.settings.items()}
    later = {name: value for name, value in found.items() if isinstance(value, pulumi.Output)}
    if not later:
        return {}
    # Their order counts: it is that in which they are asked.
    made = pulumi.Output.all(**later).apply(
        lambda made: replace(known, settings={**known.settings, **dict(made)})
    )
    return {f"{ENVIRONMENT_PREFIX}PLACEMENTS": {"placements": made}}


WHOLE = ""
"""Key of a variable's value that is no object."""


def secret_variables(placed: Sequence[PlacedBots]) -> dict[str, pulumi.Input[str]]:
    """Return the secret variables of all placements. A JSON object has what each of them adds.

    Raises:
        ConfigError: Two give one variable, or one key of an object.
    """
    found: dict[str, dict[str, pulumi.Input[str]]] = {}
    for one in placed:
        for name, value in one.secrets.items():
            parts = value if isinstance(value, Mapping) else {WHOLE: value}
            there = found.setdefault(name, {})
            repeated = there.keys() & parts.keys()
            if repeated or (there and WHOLE in (*there, *parts)):
                key = min(repeated, default=WHOLE)
                what = f"the key {key} of {name}" if key else name
                raise ConfigError(
                    f"switchboard:placements.{one.planned.name}: {what} comes from another placement too; "
                    "allowed: one placement that gives it"
                )
            there.update(parts)
    return {
        name: parts[WHOLE] if WHOLE in parts else pulumi.Output.json_dumps(parts, sort_keys=True)
        for name, parts in found.items()
    }


def logs_elsewhere(placed: Sequence[PlacedBots], host: str) -> dict[str, list[str]]:
    """Return where bots are at other clouds than the host's: cloud → names of its tool."""
    found: dict[str, list[str]] = {}
    for one in placed:
        if one.planned.cloud != host and one.logs:
            found.setdefault(one.planned.cloud, []).extend(one.logs)
    return found


def without_images(placement: PlacementSettings) -> PlacementSettings:
    """Return the settings of a placement without its images, which the dispatcher has from a table."""
    if not placement.takes_images_file or "images" not in placement.model_fields_set:
        return placement
    return type(placement).model_validate(placement.model_dump(exclude_unset=True, exclude={"images"}))


def url_for_machines(site: Site, cloud: str, name: str) -> str:
    """Return the URL at which machines of a cloud reach the dispatcher; empty if it is their own cloud's.

    Raises:
        ConfigError: They cannot reach it.
    """
    if site.cloud == cloud:
        return ""
    if site.machine_url is None:
        how = f", or a host with a public name ({site.reached_by})" if site.reached_by else ""
        raise ConfigError(
            f"switchboard:placements.{name}.cloud: {cloud!r} is refused, since machines there cannot reach a "
            f"dispatcher that has no public URL; allowed: {site.cloud}{how}"
        )
    return site.machine_url


def agents_at(config: CoreConfig, name: str) -> dict[str, AgentSettings]:
    """Return the agents whose machines may be at a placement."""
    return {agent: of for agent, of in config.agents.items() if not of.placements or name in of.placements}


def own_name(name: str, site: Site) -> bool:
    """Return True for the placement whose resources have the logical names of a stack with one placement."""
    return name == site.cloud


def bot_in_image(bot: Path, image: str | None) -> Path:
    """Return the bot file from `/app`: of an image that we build, in the directory that was copied there."""
    return bot if image is not None else Path(bot.name)


def agents_in_images(config: CoreConfig) -> dict[str, AgentSettings]:
    """Return the agents with their bot files as their images have them."""
    return {
        name: agent.model_copy(update={"bot": bot_in_image(agent.bot, agent.image)})
        for name, agent in config.agents.items()
    }
