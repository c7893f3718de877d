"""The cloud `gcp`: the dispatcher is a Cloud Run service, and bots are Compute Engine VMs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from stacks.clouds import Cloud, Host, Placement, load_program
from stacks.core_config import KEYS_WORDS, CoreConfig
from stacks.gcp.config import GcpKeys, GcpPlacementConfig
from stacks.gcp.review import GcpReview
from stacks.log_sources import Tool
from stacks.plan.review import Review
from stacks.stateful import DataTypes


class Gcp(Cloud):
    """Google Cloud."""

    summary = "Google Cloud"
    keys = GcpKeys
    reads = ("database_url",)
    placement_keys = GcpPlacementConfig
    namespaces = ("gcp", "docker-build")
    data_types: ClassVar[DataTypes] = {
        "gcp:sql/databaseInstance:DatabaseInstance": lambda one: f"the Cloud SQL instance {one.id}"
    }

    def check_config(self, config: CoreConfig) -> None:
        if config.cloud != self.name:
            return
        if not config.keys:
            raise ValueError(
                f"keys: is missing, and a dispatcher at Google Cloud is public; allowed: {KEYS_WORDS}"
            )

    def host(self) -> Host:
        return load_program("stacks.gcp.program", self.name).GcpHost()

    def placement(self) -> Placement:
        return load_program("stacks.gcp.placement", self.name).GcpPlacement()

    def review(self) -> Review:
        return GcpReview()

    def logs(self, words: Sequence[str], bots: Sequence[str]) -> Tool | None:
        from stacks.gcp.logs import COMMAND, GcpLogs

        return GcpLogs(words, bots) if tuple(words[: len(COMMAND)]) == COMMAND else None

    def bot_logs(self, bots: Sequence[str]) -> Tool:
        from stacks.gcp.logs import GcpLogs

        return GcpLogs((), bots)
