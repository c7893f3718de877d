"""The dispatcher: its app with addresses and certificate, its secrets, its machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from stacks.fly.addresses import AddressType, Certificate, IpAddress
from stacks.fly.apps import App
from stacks.fly.bots import Machines
from stacks.fly.ending import STOP_SECONDS
from stacks.fly.machines import Machine
from stacks.fly.secrets import Secrets
from stacks.fly.settings import DATA_DIR, PORT
from stacks.fly.tokens import DeployToken
from stacks.fly.volumes import Volume
from stacks.stateful import marked

PYTHON = "/opt/venv/bin/python"
"""Python in the image (images/dispatcher.Dockerfile)."""

SERVE = (PYTHON, "-P", "-m", "dispatcher")

UNPRIVILEGED = (PYTHON, "-P", "-m", "dispatcher.unprivileged")
"""Before it, where there is a volume: such a disk belongs to root."""

CONNECTIONS = (8000, 10000)
"""At which Fly's proxy prefers another machine, and takes no more. Each bot's channel is one, and each event
stream; `fly launch` would write 25."""


@dataclass(frozen=True)
class DispatcherAppArgs:
    name: str
    org: str
    network: str
    domain: str
    token_days: int
    token_period: str
    adopt: Mapping[str, str]
    holds_data: bool
    """True if the store's volume is in it and may not go without a word."""


class DispatcherApp(pulumi.ComponentResource):
    """The app, and what leads to it. Its registry holds all images of the stack."""

    app: App
    push_token: pulumi.Output[str]
    """Good for this app, to whose registry images are pushed. The dispatcher does not get it."""
    records: pulumi.Output[list[str]] | None
    """DNS records that the domain needs."""

    def __init__(
        self, name: str, args: DispatcherAppArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("switchboard:fly:DispatcherApp", name, None, opts)
        self.app = App(
            "dispatcher-app",
            name=args.name,
            org=args.org,
            network=args.network,
            adopt=args.adopt.get("dispatcher-app"),
            opts=pulumi.ResourceOptions.merge(
                marked(throwaway=not args.holds_data), pulumi.ResourceOptions(parent=self)
            ),
        )
        within = pulumi.ResourceOptions(parent=self)
        # Both cost nothing; an IPv4 of one's own would be for protocols other than HTTP.
        kinds: dict[str, AddressType] = {"shared-ipv4": "shared_v4", "ipv6": "v6"}
        ips = [
            IpAddress(logical, app=self.app.name, type_=kind, adopt=args.adopt.get(logical), opts=within)
            for logical, kind in kinds.items()
        ]
        self.push_token = DeployToken(
            "push-token", app=self.app.name, days=args.token_days, period=args.token_period, opts=within
        ).token
        self.records = None
        if args.domain:
            # Which records are right, Fly knows once there are addresses.
            after = pulumi.ResourceOptions(parent=self, depends_on=[*ips])
            self.records = Certificate(
                "certificate", app=self.app.name, hostname=args.domain, opts=after
            ).records
        self.register_outputs({})


@dataclass(frozen=True)
class DispatcherArgs:
    app: App
    app_name: str
    region: str
    number: int
    """Number of machines."""
    image: pulumi.Input[str]
    environment: Mapping[str, pulumi.Input[str]]
    secrets: Mapping[str, pulumi.Input[str]]
    outside: Mapping[str, str]
    """As of `Secrets`."""
    cpu_kind: str
    cpus: int
    memory_mb: int
    store: Volume | None
    """None where the store is a PostgreSQL."""
    tags: Mapping[str, str]
    adopt: Mapping[str, str]


class Dispatcher(pulumi.ComponentResource):
    """The machines. One after the other gets a new image: the others serve meanwhile."""

    machines: list[Machine]

    def __init__(self, name: str, args: DispatcherArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:fly:Dispatcher", name, None, opts)
        within = pulumi.ResourceOptions(parent=self)
        secrets = Secrets(
            "dispatcher-secrets",
            app=args.app.name,
            values=args.secrets,
            outside=args.outside,
            opts=within,
        )
        # What a run that failed has left is not in the state, and would keep volume and app from their end.
        left = Machines(
            "dispatcher-machines",
            app=args.app.name,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[args.store] if args.store else []),
        )
        config = machine_config(args, args.store.id if args.store else None)
        self.machines, before = [], left
        for number in range(args.number):
            logical = f"dispatcher-{number}"
            machine = Machine(
                logical,
                app=args.app.name,
                name=f"{args.app_name}-{number}",
                region=args.region,
                config=config,
                secrets_version=secrets.version,
                adopt=args.adopt.get(logical),
                opts=pulumi.ResourceOptions(parent=self, depends_on=[before]),
            )
            self.machines.append(machine)
            before = machine
        self.register_outputs({})


def machine_config(args: DispatcherArgs, volume: pulumi.Input[str] | None) -> dict[str, Any]:
    """A machine's configuration, in Fly's words. Its secrets are the app's, and not in here.

    What is not known before images and volume are made is an output by itself: a plan shows all else.
    """
    ready = {"type": "http", "method": "GET", "path": "/readyz"}
    often = {"interval": "10s", "timeout": "5s", "grace_period": "20s"}
    config: dict[str, Any] = {
        "image": args.image,
        "env": dict(args.environment),
        "init": {"entrypoint": [*(UNPRIVILEGED if volume is not None else ()), *SERVE]},
        "guest": {"cpu_kind": args.cpu_kind, "cpus": args.cpus, "memory_mb": args.memory_mb},
        "restart": {"policy": "always"},
        "stop_config": {"signal": "SIGTERM", "timeout": f"{STOP_SECONDS}s"},
        "metadata": dict(args.tags),
        "services": [
            {
                "protocol": "tcp",
                "internal_port": PORT,
                # It is never idle: bots' channels, deadlines, rooms to be deleted.
                "autostop": "off",
                "autostart": False,
                "concurrency": {
                    "type": "connections",
                    "soft_limit": CONNECTIONS[0],
                    "hard_limit": CONNECTIONS[1],
                },
                "ports": [
                    {"port": 80, "handlers": ["http"], "force_https": True},
                    {"port": 443, "handlers": ["tls", "http"]},
                ],
                # Fly's proxy sends nobody to one that does not pass, as while it drains or has no database.
                "checks": [{**ready, **often}],
            }
        ],
        "checks": {"alive": {**ready, **often, "path": "/healthz", "port": PORT}},
    }
    if volume is not None:
        config["mounts"] = [{"volume": volume, "path": str(DATA_DIR)}]
    return config
