"""The cloud `aws`: the dispatcher is an ECS service, and bots are Fargate tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from stacks.aws.config import AwsKeys, AwsPlacementConfig
from stacks.aws.review import AwsReview
from stacks.clouds import Cloud, Host, Placement, load_program
from stacks.core_config import KEYS_WORDS, CoreConfig
from stacks.log_sources import Tool
from stacks.plan.review import Review
from stacks.stateful import DataTypes


class Aws(Cloud):
    """Amazon Web Services."""

    summary = "AWS Fargate"
    keys = AwsKeys
    reads = ("drain_seconds", "database_url")
    placement_keys = AwsPlacementConfig
    namespaces = ("aws", "docker-build")
    data_types: ClassVar[DataTypes] = {"aws:rds/instance:Instance": lambda one: f"the RDS instance {one.id}"}

    def check_config(self, config: CoreConfig) -> None:
        if config.cloud == self.name and not config.keys:
            raise ValueError(f"keys: is missing, and a dispatcher at AWS is public; allowed: {KEYS_WORDS}")

    def host(self) -> Host:
        return load_program("stacks.aws.program", self.name).AwsHost()

    def placement(self) -> Placement:
        return load_program("stacks.aws.placement", self.name).AwsPlacement()

    def review(self) -> Review:
        return AwsReview()

    def logs(self, words: Sequence[str], bots: Sequence[str]) -> Tool | None:
        if list(words[:3]) != ["aws", "logs", "tail"]:
            return None
        return load_program("stacks.aws.logs", self.name).AwsLogs(words, bots)
