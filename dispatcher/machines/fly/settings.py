"""The settings of placements at Fly, and Fly's tokens: their form in settings and in headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from dispatcher.header_secret import HeaderSecret
from dispatcher.machines.fly.protocol import FlyTokens
from dispatcher.machines.fly.sizes import CpuKind, guest
from dispatcher.machines.settings import Agent, PlacementSettings, ProviderContext
from dispatcher.plugins import SharedSettings

if TYPE_CHECKING:
    from dispatcher.machines.provider import MachineProvider

FlyAppName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class FlyShared(SharedSettings):
    """Settings that all placements at Fly share."""

    api_token: HeaderSecret | None = None
    """Token for machines at Fly: a deploy token of the app, as `fly tokens create` prints it; for several
    apps a JSON object of app → token. All placements at Fly share it."""
    api_url: str = Field(default="https://api.machines.dev", pattern=r"^https?://[^/@?#]+$")
    """Fly's Machines API. From inside a private network at Fly it is `http://_api.internal:4280` too."""


class FlyPlacement(PlacementSettings):
    """Machines are Fly Machines. What an agent's `env` names must be secrets of the apps."""

    shared: ClassVar[type[SharedSettings]] = FlyShared
    on_other_hosts: ClassVar[bool] = True
    takes_images_file: ClassVar[bool] = True

    provider: Literal["fly"]  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    """Machine provider of the placement."""
    apps: tuple[FlyAppName, ...] = Field(min_length=1, max_length=100)
    """The apps that machines are spread over. Fly creates one machine a second in each, three at once."""
    draining_apps: tuple[FlyAppName, ...] = Field(default=(), max_length=100)
    """Apps to be given up: they get no new machines, and their existing ones are still managed. Remove an app
    from this list once it is empty."""
    region: str = Field(default="", pattern=r"^([a-z]{2,3}(,[a-z]{2,3})*)?$")
    """A region of Fly's, or several in order of preference, separated by commas; groups too (`us`, `eu`). By
    default the one nearest to the dispatcher."""
    cpu_kind: CpuKind = "performance"
    """`performance`: the CPUs are the machine's own. Of a `shared` CPU it may use 6.25 % in the long run (5
    ms in every 80), and more for a few seconds: a voice pipeline needs more, and stutters. Sizes are rounded
    up to those that Fly has: with `performance` to 1, 2, 4, 8 or 16 CPUs and whole 2048 MiB."""
    deployment: str = Field(default="switchboard", pattern=r"^[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?$")
    """Distinguishes this deployment's machines from others in the same apps; their names begin with it."""

    @model_validator(mode="after")
    def _apps_are_either(self) -> Self:
        for app in self.draining_apps:
            if app in self.apps:
                raise ValueError(
                    f"drainingApps: '{app}' is in apps, too; allowed: an app that gets no new machines"
                )
        return self

    def check(self, name: str, shared: SharedSettings) -> None:
        """Check that every app has a token."""
        given = FlyShared.of(shared).api_token
        if given is None:
            raise ValueError(
                f"fly_api_token is missing, and placement '{name}' is at Fly; "
                "allowed: a deploy token of its apps"
            )
        try:
            tokens = FlyTokens.parse(given.get_secret_value())
        except ValueError as error:
            raise ValueError(f"fly_api_token {error}") from error
        for app in (*self.apps, *self.draining_apps):
            if not tokens.of(app):
                raise ValueError(
                    f"fly_api_token has none for app '{app}' of placement '{name}'; "
                    "allowed: one token, or one for each app"
                )

    def check_agent(self, name: str, agent: Agent) -> None:
        # None is of `images_file`, and is checked when it comes. Fly would resolve a tag for each machine.
        if agent.image is not None and "@sha256:" not in agent.image:
            raise ValueError(
                f"image '{agent.image}' has no digest; allowed: an image by its digest, such as "
                "registry.fly.io/bots@sha256:…"
            )
        guest(self.cpu_kind, agent.cpu, agent.memory_mb)

    def build(self, context: ProviderContext) -> MachineProvider:
        # Imported here: the client takes a tenth of the time of all imports.
        from dispatcher.machines.fly.provider import FlyProvider

        shared = FlyShared.of(context.shared)
        if shared.api_token is None:
            raise AssertionError("no placement at Fly comes through the settings without a token")
        return FlyProvider(
            url=shared.api_url,
            tokens=FlyTokens.parse(shared.api_token.get_secret_value()),
            deployment=self.deployment,
            apps=self.apps,
            draining_apps=self.draining_apps,
            region=self.region,
            cpu_kind=self.cpu_kind,
            clock=context.clock,
            transport=context.http,
        )
