"""The cloud `fly`: machines at Fly.io, of the dispatcher and of bots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from stacks.clouds import Cloud, Host, Placement, load_program
from stacks.core_config import KEYS_WORDS, CoreConfig
from stacks.fly.config import TOKEN_VARIABLE, FlyKeys, FlyPlacementConfig
from stacks.fly.review import FlyReview
from stacks.log_sources import Tool
from stacks.plan.review import Review
from stacks.stateful import DataTypes, State

FLY_APP = "pulumi-python:dynamic/switchboard:FlyApp"
FLY_VOLUME = "pulumi-python:dynamic/switchboard:FlyVolume"


class Fly(Cloud):
    """Fly.io."""

    summary = "Fly.io"
    keys = FlyKeys
    reads = ("drain_seconds", "database_url")
    placement_keys = FlyPlacementConfig
    namespaces = ("docker-build",)
    data_types: ClassVar[DataTypes] = {
        FLY_VOLUME: lambda one: f"the Fly volume {one.id} of the app {one.inputs.get('app')}"
    }
    variables: ClassVar[Mapping[str, str]] = {"flyApiToken": TOKEN_VARIABLE}

    def check_config(self, config: CoreConfig) -> None:
        if config.cloud != self.name:
            return
        if not config.keys:
            raise ValueError(f"keys: is missing, and a dispatcher at Fly is public; allowed: {KEYS_WORDS}")
        fly = FlyKeys.of(config).fly
        if fly.dispatchers > 1 and not config.database_url.get_secret_value():
            raise ValueError(
                f"fly.dispatchers: {fly.dispatchers} is refused, since one SQLite is one dispatcher's; "
                "allowed: 1, or more with databaseUrl, the URL of a PostgreSQL"
            )

    def host(self) -> Host:
        return load_program("stacks.fly.program", self.name).FlyHost()

    def placement(self) -> Placement:
        return load_program("stacks.fly.placement", self.name).FlyPlacement()

    def logs(self, words: Sequence[str], bots: Sequence[str]) -> Tool | None:
        if Path(words[0]).name != "fly":
            return None
        from stacks.fly.logs import FlyLogs

        return FlyLogs(words, bots)

    def bot_logs(self, bots: Sequence[str]) -> Tool:
        from stacks.fly.logs import FlyLogs

        return FlyLogs(["fly", "logs", "--app", ""], bots)

    def check_reachable(self, state: State, values: Mapping[str, str], project: str) -> None:
        apps = [one.id for one in state.resources if one.type == FLY_APP]
        if not apps:
            return
        # Loaded only where a stack has apps.
        from stacks.fly.api import part
        from stacks.fly.resource import TOKEN_KEY, client

        given = json.loads(values.get(f"{project}:fly") or "{}")
        fly = client(values.get(f"{project}:{TOKEN_KEY}"), given.get("apiUrl"))
        try:
            fly.get(f"apps/{part(apps[0])}")
        finally:
            fly.close()

    def review(self) -> Review:
        return FlyReview()
