"""An agent's apps: where its machines are, with its variables as secrets, and a token for each.

Agents share no app: all machines of an app see all of its secrets. And an agent may have several, because Fly
limits the creates in one. Each is in a private network of its own, so that bots reach neither the dispatcher
nor others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

from stacks.fly.apps import App
from stacks.fly.bots import Machines
from stacks.fly.secrets import Secrets
from stacks.fly.tokens import DeployToken


@dataclass(frozen=True)
class AgentAppsArgs:
    agent: str
    names: Sequence[str]
    """Names of the apps."""
    org: str
    variables: Sequence[str]
    """The agent's variables, by their names."""
    environment: Mapping[str, str]
    """Those of its variables that are set here."""
    token_days: int
    token_period: str
    adopt: Mapping[str, str]


class AgentApps(pulumi.ComponentResource):
    """The apps of one agent."""

    tokens: dict[str, pulumi.Output[str]]
    """App → what is good for it."""
    swept: list[pulumi.Resource]
    """Deleted after the dispatcher: they end every machine that is left."""

    def __init__(self, name: str, args: AgentAppsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:fly:AgentApps", name, None, opts)
        self.tokens, self.swept = {}, []
        for number, app_name in enumerate(args.names):
            logical = f"{args.agent}-app-{number}"
            app = App(
                logical,
                name=app_name,
                org=args.org,
                network=app_name,
                adopt=args.adopt.get(logical),
                opts=pulumi.ResourceOptions(parent=self),
            )
            within = pulumi.ResourceOptions(parent=self)
            if args.variables:
                secrets = Secrets(
                    f"{args.agent}-secrets-{number}",
                    app=app.name,
                    values=args.environment,
                    opts=within,
                )
                self.swept.append(secrets)
            token = DeployToken(
                f"{args.agent}-token-{number}",
                app=app.name,
                days=args.token_days,
                period=args.token_period,
                opts=within,
            )
            self.tokens[app_name] = token.token
            self.swept.append(Machines(f"{args.agent}-machines-{number}", app=app.name, opts=within))
        self.register_outputs({})
