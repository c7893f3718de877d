"""An app without machines: its registry holds a placement's images where the dispatcher is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from stacks.fly.apps import App
from stacks.fly.tokens import DeployToken


@dataclass(frozen=True)
class RegistryAppArgs:
    logical: str
    """Logical name of the app."""
    name: str
    org: str
    token_days: int
    token_period: str
    adopt: Mapping[str, str]


class RegistryApp(pulumi.ComponentResource):
    """The app, and a token that pushes to its registry."""

    push_token: pulumi.Output[str]

    def __init__(self, name: str, args: RegistryAppArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:fly:RegistryApp", name, None, opts)
        within = pulumi.ResourceOptions(parent=self)
        app = App(
            f"{args.logical}-app",
            name=args.name,
            org=args.org,
            network=args.name,
            adopt=args.adopt.get(f"{args.logical}-app"),
            opts=within,
        )
        self.push_token = DeployToken(
            f"{args.logical}-push-token",
            app=app.name,
            days=args.token_days,
            period=args.token_period,
            opts=within,
        ).token
        self.register_outputs({})
