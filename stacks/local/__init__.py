"""The cloud `local`: the dispatcher and its bots are processes of this machine."""

from __future__ import annotations

from stacks.clouds import Cloud, Host, Placement, load_program
from stacks.deployment import Environment
from stacks.local.review import LocalReview
from stacks.plan.review import Review


class Local(Cloud):
    """This machine."""

    summary = "processes of this machine"
    reads = ("process_isolation", "data_dir")
    bots_in_images = False

    def host(self) -> Host:
        return load_program("stacks.local.program", self.name).LocalHost()

    def placement(self) -> Placement:
        return load_program("stacks.local.program", self.name).LocalPlacement()

    def check_before_run(self, environment: Environment) -> None:
        load_program("stacks.local.program", self.name).check_port(environment.config)

    def review(self) -> Review:
        return LocalReview()
