"""The typed stack config, and the one place where it is read. `stacks.refusals` words what is refused."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_origin

from pydantic import Field, ValidationError, create_model, model_validator

from stacks import clouds
from stacks.bot_files import with_bot_files
from stacks.clouds import Cloud
from stacks.core_config import DEFAULT_CLOUD, CoreConfig
from stacks.errors import ConfigError
from stacks.refusals import explain, masked, sections

CLOUDS: Mapping[str, Cloud] = clouds.importable()
"""Name → cloud, of all that are installed."""

ENGINE_NAMESPACE = "pulumi"
"""Namespace of keys that the engine itself reads, such as `pulumi:disable-default-providers`."""


class _Checked(CoreConfig):
    @model_validator(mode="after")
    def _for_its_clouds(self) -> Self:
        used = {self.cloud, *(entry.cloud for entry in self.placements.values())}
        for name, cloud in CLOUDS.items():
            if name in used:
                cloud.check_config(self)
        return self


def _config_class() -> type[CoreConfig]:
    """Return the class of a stack's config, with the keys of the clouds that are installed."""
    summaries = ", ".join(f"`{name}` ({cloud.summary})" for name, cloud in CLOUDS.items())
    fields: dict[str, Any] = {
        name: (info.annotation, info)
        for cloud in CLOUDS.values()
        for name, info in cloud.keys.model_fields.items()
    }
    fields["cloud"] = (
        Literal[tuple(CLOUDS)],
        Field(default=DEFAULT_CLOUD, description=f"Cloud that the dispatcher runs on: {summaries}."),
    )
    return create_model(
        "StackConfig",
        __base__=_Checked,
        __module__=__name__,
        __doc__="The config of one stack, as in `stacks/Pulumi.<stack>.yaml`.",
        **fields,
    )


def _only_with() -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for name, cloud in CLOUDS.items():
        for field in (*cloud.keys.model_fields, *cloud.reads):
            key = StackConfig.model_fields[field].alias or field
            found.setdefault(key, []).append(name)
    return {key: tuple(names) for key, names in found.items()}


if TYPE_CHECKING:

    class StackConfig(CoreConfig): ...
else:
    StackConfig = _config_class()

STRUCTURED = (
    *sections(StackConfig),
    *(
        field.alias or name
        for name, field in StackConfig.model_fields.items()
        if get_origin(field.annotation) in (tuple, dict)
    ),
)
"""Keys whose values are YAML mappings and lists; the engine hands them to a program as JSON."""

ONLY_WITH = _only_with()
"""Keys that only some clouds have → these."""


def parse(values: Mapping[str, str], *, project: str, checkout: Path, stack: str) -> StackConfig:
    """The stack config from the engine's values (`switchboard:port` → text; objects as JSON).

    Keys of the cloud's providers, such as `docker-build:host`, and of the engine pass.
    Raises ConfigError with a line for each value that is refused.
    """
    prefix = f"{project}:"
    raw: dict[str, Any] = {
        key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)
    }
    for key in STRUCTURED:
        if key in raw:
            raw[key] = _structure(raw[key])
    cloud = raw.get("cloud", DEFAULT_CLOUD)
    used = _clouds_used(raw, cloud)
    _refuse_unknown_namespaces(values, project, cloud, used)
    defaults = {field.alias: str(field.default) for field in StackConfig.model_fields.values()}
    for key, of_clouds in ONLY_WITH.items():
        # The engine hands over every default of Pulumi.yaml.
        given = raw.get(key) and raw[key] != defaults[key]
        if given and cloud in CLOUDS and not used.intersection(of_clouds):
            allowed = " and ".join(of_clouds)
            raise ConfigError(f"{prefix}{key}: is there, and cloud is {cloud}; allowed: only with {allowed}")
    raw["dataDir"] = _data_dir(raw.get("dataDir") or f".switchboard/stacks/{stack}", prefix, checkout)
    try:
        config = StackConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(error, StackConfig, project)) from None
    _check_placements(config, prefix)
    for index, key in enumerate(config.keys):
        for place, agent in enumerate(key.agents):
            _known_agent(config, agent, f"{prefix}keys[{index}].agents[{place}]")
    if config.default_agent:
        _known_agent(config, config.default_agent, f"{prefix}defaultAgent")
    return config.model_copy(
        update={"agents": with_bot_files(config.agents, prefix, checkout, in_images=_in_images(config))}
    )


def _refuse_unknown_namespaces(
    values: Mapping[str, str], project: str, cloud: str, used: Collection[str]
) -> None:
    """A key that nobody reads is a mistake: `switchbord:port`, or `aws:region` where there is no AWS."""
    known = list(
        dict.fromkeys(
            (project, ENGINE_NAMESPACE, *(one for name in sorted(used) for one in CLOUDS[name].namespaces))
        )
    )
    lines = []
    for key in values:
        namespace, _, name = key.partition(":")
        if namespace in known or cloud not in CLOUDS:
            continue
        alike = difflib.get_close_matches(namespace, known, n=1)
        allowed = (
            f"{alike[0]}:{name}" if alike else f"keys that begin with {', '.join(f'{one}:' for one in known)}"
        )
        lines.append(
            f"{masked(key)}: nothing of a stack of cloud {cloud} reads {namespace}:…; allowed: {allowed}"
        )
    if lines:
        raise ConfigError("\n".join(lines))


def _clouds_used(raw: Mapping[str, Any], cloud: str) -> set[str]:
    """Return the host's cloud and those of the placements, as far as they are known."""
    entries = raw.get("placements")
    of_entries = entries.values() if isinstance(entries, dict) else ()
    named = [one.get("cloud") for one in of_entries if isinstance(one, dict)]
    return {one for one in (cloud, *named) if isinstance(one, str) and one in CLOUDS}


def _in_images(config: CoreConfig) -> bool:
    return any(placement.cloud.bots_in_images for placement in clouds.placements_of(config))


def _check_placements(config: CoreConfig, prefix: str) -> None:
    """Refuse a placement that its cloud does not have or no agent uses, and an agent's that is not there."""
    for name, entry in config.placements.items():
        path = f"{prefix}placements.{name}"
        cloud = CLOUDS.get(entry.cloud)
        able = [one for one, of in CLOUDS.items() if of.placement_keys is not None]
        if cloud is None or cloud.placement_keys is None:
            raise ConfigError(f"{path}.cloud: {masked(entry.cloud)!r} is refused; allowed: {', '.join(able)}")
        if name in CLOUDS and name != entry.cloud:
            raise ConfigError(
                f"{path}.cloud: {entry.cloud!r} is refused, since the placement is called as another cloud; "
                f"allowed: {name}, or another name"
            )
        try:
            clouds.keys_of(config, name)
        except ValidationError as error:
            raise ConfigError(
                explain(error, cloud.placement_keys, prefix.rstrip(":"), within=f"placements.{name}")
            ) from None
    known = [placement.name for placement in clouds.placements_of(config)]
    for agent, of in config.agents.items():
        for index, name in enumerate(of.placements):
            if name not in known:
                raise ConfigError(
                    f"{prefix}agents.{agent}.placements[{index}]: {masked(name)!r} is not a placement of the "
                    f"stack; allowed: {', '.join(known)}"
                )
    wanted = {name for of in config.agents.values() for name in of.placements or known}
    if unused := [name for name in known if name not in wanted]:
        raise ConfigError(
            f"{prefix}placements.{unused[0]}: no agent's machines may be there; allowed: a placement that an "
            f"agent's placements name ({', '.join(sorted(wanted))}), or no such entry"
        )


def _data_dir(given: str, prefix: str, checkout: Path) -> Path:
    # The engine hands over `dataDir: 5` and `dataDir: true` as text.
    found = _structure(given)
    if not isinstance(found, str):
        shown = f" {given}" if isinstance(found, (bool, int, float)) else ""
        raise ConfigError(
            f"{prefix}dataDir:{shown} has the wrong type; allowed: the path of a directory, absolute or "
            "from the checkout (./5 for one that is called 5)"
        )
    return checkout / Path(given).expanduser()


def _known_agent(config: StackConfig, agent: str, key: str) -> None:
    if agent not in config.agents:
        raise ConfigError(f"{key}: {masked(agent)!r} is not an agent; allowed: {', '.join(config.agents)}")


def _structure(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # the type is refused with the rest
