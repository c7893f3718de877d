"""The settings of placements whose machines are containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dispatcher.machines.settings import PlacementName, PlacementSettings, ProviderContext

if TYPE_CHECKING:
    from dispatcher.machines.provider import MachineProvider


class ContainerPlacement(PlacementSettings):
    """Machines are containers of a Docker engine, or of Podman's service."""

    takes_images_file: ClassVar[bool] = True

    provider: Literal["container"]  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    """Machine provider of the placement."""
    engine_url: str = Field(default="unix:///var/run/docker.sock", pattern=r"^(unix|tcp|http)://.+$")
    """The engine's API."""
    deployment: PlacementName = "switchboard"
    """Distinguishes this deployment's machines from others on the same engine; their names begin with it."""
    network: str = Field(default="bridge", min_length=1)
    """The engine's network for machines. They must reach a dispatcher (`machine_url`) from there."""
    models: str | None = Field(default=None, min_length=1)
    """A volume's name, or a directory of the engine's host, that machines see read-only at /mnt/models."""

    def build(self, context: ProviderContext) -> MachineProvider:
        # Imported here: the client takes a sixth of the time of all imports, and most deployments need none.
        from dispatcher.machines.container.provider import ContainerProvider

        return ContainerProvider(
            url=self.engine_url,
            deployment=self.deployment,
            network=self.network,
            models=self.models or "",
        )
