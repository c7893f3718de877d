"""The cloud `docker`: the dispatcher and its bots are containers of one Docker engine, here or over SSH."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from dispatcher.settings import is_loopback
from stacks.clouds import Cloud, Host, Placement, load_program
from stacks.core_config import CoreConfig
from stacks.docker.config import DockerKeys, DockerPlacementConfig
from stacks.docker.review import DockerReview
from stacks.errors import ConfigError
from stacks.log_sources import Tool
from stacks.plan.review import Review
from stacks.stateful import PROVIDER, STORE, DataTypes, State

ANSWER_SECONDS = 20

VOLUME = "docker:index/volume:Volume"
"""Type of a volume's resource."""


class Docker(Cloud):
    """One Docker engine."""

    summary = "containers of one Docker engine"
    keys = DockerKeys
    reads = ("drain_seconds",)
    placement_keys = DockerPlacementConfig
    namespaces = ("docker", "docker-build")
    data_types: ClassVar[DataTypes] = {VOLUME: lambda one: f"the Docker volume {one.inputs.get('name')}"}

    def check_config(self, config: CoreConfig) -> None:
        docker = DockerKeys.of(config).docker
        if config.cloud != self.name:
            return
        if not config.keys and not is_loopback(docker.address):
            raise ValueError(
                f"docker.address: {docker.address} is reachable from other machines, so keys must be set; "
                "without keys only 127.0.0.1 or ::1 is allowed"
            )
        if not config.keys and docker.domain:
            raise ValueError(
                f"docker.domain: {docker.domain} is reachable from other machines, so keys must be set"
            )
        if config.turn_urls and docker.turn:
            raise ValueError("turnUrls: is there, and docker.turn is on; allowed: one of them")

    def host(self) -> Host:
        return load_program("stacks.docker.program", self.name).DockerHost()

    def placement(self) -> Placement:
        return load_program("stacks.docker.placement", self.name).DockerPlacement()

    def logs(self, words: Sequence[str], bots: Sequence[str]) -> Tool | None:
        if Path(words[0]).name != "docker":
            return None
        from stacks.docker.logs import DockerLogs

        return DockerLogs(words, bots[0] if bots else "")

    def check_reachable(self, state: State, values: Mapping[str, str], project: str) -> None:
        from stacks.docker.host import call  # loaded only where a stack has an engine

        for host in sorted(_engines(state)):
            call(host, "GET", "version", timeout=ANSWER_SECONDS)

    def check_store_stays(self, config: CoreConfig, state: State, stack: str) -> None:
        wanted = DockerKeys.of(config).docker.host
        if config.cloud == self.name and (elsewhere := _engines(state) - {wanted}):
            raise ConfigError(
                f"switchboard:docker.host: {wanted!r} is refused; allowed: {', '.join(sorted(elsewhere))}, "
                f"where the store is (make down STACK={stack} CONFIRM={STORE} deletes it there)"
            )

    def review(self) -> Review:
        return DockerReview()


def _engines(state: State) -> frozenset[str]:
    """Return the addresses of the Docker engines that the resources are on."""
    found = (one.inputs.get("host") for one in state.resources if one.type == f"{PROVIDER}docker")
    return frozenset(str(host) for host in found if host)
