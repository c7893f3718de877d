"""The settings of the engine's proxy, and the only place that reads its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from dispatcher.machines.settings import PlacementName
from dispatcher.settings import EnvironmentName, LogFormat, LogLevel, variables

PROXY_PREFIX = "SWITCHBOARD_PROXY_"


def repository_of(image: str) -> str:
    """Return an image's name without tag and digest."""
    name = image.partition("@")[0]
    path, slash, last = name.rpartition("/")
    return f"{path}{slash}{last.partition(':')[0]}"


def full_name(repository: str) -> str:
    """Return a repository with its registry, as Docker reads it: `bots/echo` is `docker.io/bots/echo`."""
    first, slash, _ = repository.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return repository
    return f"docker.io/{repository}" if slash else f"docker.io/library/{repository}"


def _repository(name: str) -> str:
    if repository_of(name) != name or name == "sha256":
        raise ValueError("allowed: an image's name without tag and digest")
    return name


Repository = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=512), AfterValidator(_repository)
]


class ProxySettings(BaseSettings):
    """Read from `SWITCHBOARD_PROXY_…` environment variables."""

    model_config = SettingsConfigDict(
        env_prefix=PROXY_PREFIX, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    socket: Path = Path("/var/run/docker.sock")
    """The engine's socket. In a container, mount its directory: a restarted engine makes a new socket, which
    a mount of the old one would not show."""
    firewall: Path | None = None
    """Socket of the stack's firewall, which keeps the bots' network. No bot is started that it does not keep;
    without one the network is open."""
    host: str = "0.0.0.0"  # noqa: S104 - in a network of its own, with the dispatcher alone
    """Address that the proxy listens on."""
    port: int = Field(default=2375, ge=1, le=65535)
    """TCP port that the proxy listens on."""
    deployment: PlacementName
    """Deployment whose containers may be created, read and stopped."""
    network: str = Field(min_length=1)
    """The network that containers are in."""
    models: str = ""
    """Volume, or directory of the host, that containers see at /mnt/models."""
    images: tuple[str, ...] = ()
    """Images that containers may run; references are compared literally."""
    repositories: tuple[Repository, ...] = ()
    """Repositories of which containers may run any image, by tag or digest: a new bot image needs no new
    proxy. Whoever can push there controls the bots in any case."""
    variables: tuple[EnvironmentName, ...] = ()
    """Names of the variables that agents' `env` passes to bots. A container gets these, with any value, the
    provider's own, and no others.

    A bot uses a variable inside its container only, and a compromised dispatcher controls bots in any case.
    But some variables are read on the host: where NVIDIA's runtime is the engine's default,
    NVIDIA_VISIBLE_DEVICES grants devices, and LD_PRELOAD has led to root (CVE-2025-23266).
    """
    max_cpu: float = Field(gt=0, le=64)
    """vCPUs of one container."""
    max_memory_mb: int = Field(ge=4, le=131072)
    """MiB of one container."""
    max_seconds: int = Field(ge=1)
    """Longest lifetime of a container."""
    max_containers: int = Field(default=500, ge=1)
    """Limit on containers, counting those that have ended and are not removed yet."""
    log_level: LogLevel = "info"
    """Level of the proxy's log lines."""
    log_format: LogFormat = "json"
    """Format of the proxy's log lines."""

    def to_environment(self) -> dict[str, str]:
        """Return the environment variables that give a proxy these settings."""
        return variables(PROXY_PREFIX, self.model_dump(mode="json", exclude_unset=True))
