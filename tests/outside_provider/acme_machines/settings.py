"""The settings of placements at Acme."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dispatcher.header_secret import HeaderSecret
from dispatcher.machines.settings import Agent, PlacementSettings, ProviderContext
from dispatcher.plugins import SharedSettings

if TYPE_CHECKING:
    from dispatcher.machines.provider import MachineProvider


class AcmeShared(SharedSettings):
    """Settings of all placements at Acme."""

    api_token: HeaderSecret | None = None
    """The account's token."""


class AcmePlacement(PlacementSettings):
    """Machines are Acme's."""

    shared: ClassVar[type[SharedSettings]] = AcmeShared

    provider: Literal["acme"]  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    region: str = Field(pattern=r"^[a-z]+-[0-9]+$")
    """The region of the machines."""
    deployment: str = Field(default="switchboard", pattern=r"^[a-z0-9-]{1,24}$")
    """Tells this deployment's machines from others in the same region; their names begin with it."""

    def check(self, name: str, shared: SharedSettings) -> None:
        if AcmeShared.of(shared).api_token is None:
            raise ValueError(
                f"acme_api_token is missing, and placement '{name}' is at Acme; allowed: the account's token"
            )

    def check_agent(self, name: str, agent: Agent) -> None:
        if agent.cpu > 8:
            raise ValueError(f"cpu {agent.cpu:g} is more than Acme has; allowed: up to 8")

    def build(self, context: ProviderContext) -> MachineProvider:
        from acme_machines.provider import REGIONS, AcmeProvider, Region

        region = REGIONS.setdefault(self.region, Region())
        return AcmeProvider(region, self.deployment, context.clock)
