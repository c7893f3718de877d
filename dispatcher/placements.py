"""The settings of placements: a provider, and what it must know."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from dispatcher.machines.fly_sizes import CpuKind, guest

PlacementName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]

FlyAppName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class _Placement(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


class ProcessPlacement(_Placement):
    """Machines are processes of this host."""

    provider: Literal["process"]
    """Machine provider of the placement."""


class ContainerPlacement(_Placement):
    """Machines are containers of a Docker engine, or of Podman's service."""

    provider: Literal["container"]
    """Machine provider of the placement."""
    engine_url: str = Field(default="unix:///var/run/docker.sock", pattern=r"^(unix|tcp|http)://.+$")
    """The engine's API."""
    deployment: PlacementName = "switchboard"
    """Tells this deployment's machines from those of others on the same engine; their names begin with it."""
    network: str = Field(default="bridge", min_length=1)
    """The engine's network that machines are in. They must reach a dispatcher (`machine_url`) from there."""
    models: str | None = Field(default=None, min_length=1)
    """A volume's name, or a directory of the engine's host, that machines see read-only at /mnt/models."""


class FlyPlacement(_Placement):
    """Machines are Fly Machines. What an agent's `env` names must be secrets of the apps."""

    provider: Literal["fly"]
    """Machine provider of the placement."""
    apps: tuple[FlyAppName, ...] = Field(min_length=1, max_length=100)
    """The apps that machines are spread over. Fly creates a machine a second in each, three at once."""
    draining_apps: tuple[FlyAppName, ...] = Field(default=(), max_length=100)
    """Apps that are to be given up: they get no new machines, and those that they have are still seen to. One
    is taken from here once it is empty."""
    region: str = Field(default="", pattern=r"^([a-z]{2,3}(,[a-z]{2,3})*)?$")
    """A region of Fly's, or several with commas, in the order in which they are tried; groups too (`us`,
    `eu`). By default the one that is nearest to the dispatcher."""
    cpu_kind: CpuKind = "performance"
    """`performance`: the machine's CPUs are its own. Of a `shared` one it may use 6.25 % in the long run (5
    ms in every 80), and more for a few seconds: a voice pipeline needs more, and stutters. Sizes are rounded
    up to what Fly has: with `performance` to 1, 2, 4, 8 or 16 CPUs and whole 2048 MiB."""
    deployment: str = Field(default="switchboard", pattern=r"^[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?$")
    """Tells this deployment's machines from others in the same apps; their names begin with it."""

    @model_validator(mode="after")
    def _apps_are_either(self) -> Self:
        for app in self.draining_apps:
            if app in self.apps:
                raise ValueError(
                    f"drainingApps: '{app}' is among apps too; allowed: an app that gets no new machines"
                )
        return self

    def check(self, image: str, cpu: float, memory_mb: int) -> None:
        """Whether machines like that can be had here.

        Raises:
            ValueError: They cannot; it says why.
        """
        if "@sha256:" not in image:
            # Fly would look up a tag anew for each machine.
            raise ValueError(
                f"image '{image}' has no digest; allowed: an image by its digest, such as "
                "registry.fly.io/bots@sha256:…"
            )
        guest(self.cpu_kind, cpu, memory_mb)


PlacementSettings = Annotated[
    ProcessPlacement | ContainerPlacement | FlyPlacement, Field(discriminator="provider")
]
"""A place for machines: a provider, and what it must know."""
