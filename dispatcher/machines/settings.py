"""The settings that a machine provider declares: for each placement, and for all its placements together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol

from pydantic import Field

from dispatcher.fields import ConfigModel
from dispatcher.keys import AgentName
from dispatcher.plugins import Plugin, SharedSettings

if TYPE_CHECKING:
    import httpx

    from dispatcher.clock import Clock
    from dispatcher.machines.provider import MachineProvider

PlacementName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
ImageName = Annotated[str, Field(min_length=1, max_length=512)]
"""An image's reference."""

URL_PATTERN = r"^(https?://[^/@?#\s]+(/[^@?#\s]*)?)?$"
"""A URL without a user, a query or a fragment; or nothing."""


class Agent(Protocol):
    """The part of an agent's settings that its machines depend on."""

    @property
    def image(self) -> str | None: ...
    @property
    def cpu(self) -> float: ...
    @property
    def memory_mb(self) -> int: ...
    @property
    def transports(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class ProviderContext:
    """Context from which a provider is built, beside its placement's settings."""

    clock: Clock
    shared: SharedSettings
    """The provider's deployment-wide settings, as the class that its placement names."""
    data_dir: Path
    """The dispatcher's directory; a provider that keeps files has a directory of its own in it."""
    private: Sequence[Path] = ()
    """Files and directories that no machine may read."""
    keep_machine_dirs: int = 100
    """Number of directories of gone machines that are kept, for their logs."""
    has_remote_callers: bool = False
    """True if callers on other hosts reach the dispatcher."""
    placement: str = ""
    """The placement's name."""
    http: httpx.AsyncBaseTransport | None = None
    """Answers instead of the provider's API, in tests."""


class Forged(Exception):
    """A message is not the provider's. The text says why, for the person who set it up."""


class MachineEvents(Protocol):
    """Reads events that a provider sends to the dispatcher. They are hints: machines are asked about."""

    def check(self, headers: Mapping[str, str]) -> None:
        """Check who sends a message, before its body is read.

        Raises:
            Forged: The message is not the provider's.
        """
        ...

    def read(self, body: bytes) -> str | None:
        """Return the machine that an event is about; None if it says nothing, or says it again."""
        ...


@dataclass(frozen=True)
class HostNotice:
    """A log line about this host, at the dispatcher's start."""

    level: int
    text: str


class PlacementSettings(Plugin, ConfigModel):
    """A placement of one provider. A provider's entry point names a class that derives from this one."""

    needs_image: ClassVar[bool] = True
    """True if machines run an image, which each agent must then name."""
    on_other_hosts: ClassVar[bool] = False
    """True if machines run on other hosts than the dispatcher, where its own address leads nowhere."""
    takes_images_file: ClassVar[bool] = False
    """True if images may come from `images_file` while the dispatcher runs."""
    has_reserve: ClassVar[bool] = False
    """True if machines of this provider may wait in a reserve."""
    only_one: ClassVar[str] = ""
    """Reason why there can be only one placement of this provider, such as `are all this host`;
    empty if not."""
    is_default: ClassVar[bool] = False
    """True if a dispatcher without `placements` gets one of this provider, with the provider's name."""

    provider: str
    """Machine provider of the placement."""
    images: dict[AgentName, ImageName] = Field(default={})
    """Agent → the image of its machines here, where this placement has a registry of its own; goes before the
    images that the deployment has for all placements."""
    machine_url: str = Field(default="", pattern=URL_PATTERN)
    """URL at which machines of this placement reach a dispatcher, if it is not the deployment's
    `machine_url`."""

    def check(self, name: str, shared: SharedSettings) -> None:
        """Check the placement against the provider's deployment-wide settings.

        Args:
            name: The placement's.

        Raises:
            ValueError: It is not usable; the text begins with the setting's name.
        """

    def check_agent(self, name: str, agent: Agent) -> None:
        """Check that this placement can run machines of the agent.

        Raises:
            ValueError: It cannot; the text says why.
        """

    def check_host(self, context: ProviderContext) -> Sequence[HostNotice]:
        """Check the dispatcher's host for what the provider needs, before serving.

        Raises:
            ValueError: The host lacks something; the text begins with the setting's name.
        """
        return ()

    @classmethod
    def events(cls, shared: SharedSettings, clock: Clock) -> MachineEvents | None:
        """Build what reads the provider's events about machines; None if it sends none, or none are taken."""
        return None

    def build(self, context: ProviderContext) -> MachineProvider:
        """Build the provider, without a call and without opening anything.

        Import the provider's client library here, so that a dispatcher without such a placement does not need
        it.
        """
        raise NotImplementedError
