"""What an agent's VM is made from: an instance template, a service account, and the agent's secret.

A template never changes: another image, size or variable makes a new one, and the old one goes at the end of
the run, when no dispatcher starts from it any more. VMs that run keep what they were made with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_gcp as gcp

from stacks.gcp import names, permissions
from stacks.gcp.bindings import custom_role
from stacks.gcp.identity import identity
from stacks.gcp.network import Network
from stacks.gcp.permissions import Grant
from stacks.gcp.registry import Registry
from stacks.gcp.secrets import Secret, SecretArgs
from stacks.gcp.startup import StartUp, user_data

SYSTEM_IMAGE = "projects/cos-cloud/global/images/family/cos-stable"
"""Container-Optimized OS: each VM starts from the newest stable release, with all security fixes."""

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
"""Scopes are the old way to limit a VM's account. The account's roles limit it here."""

METADATA = {
    # The script notes the bot's exit code there.
    "enable-guest-attributes": "TRUE",
    # What the script says before the bot's own log begins, such as an image that cannot be pulled.
    "serial-port-logging-enable": "TRUE",
    "block-project-ssh-keys": "TRUE",
    # A VM lives for one call: it downloads no new system in it.
    "cos-update-strategy": "update_disabled",
}


@dataclass(frozen=True)
class AgentMachine:
    """An agent's VMs: image, size and secrets."""

    image: pulumi.Input[str]
    """Reference with the digest."""
    built: bool
    """True if the image is in the placement's registry."""
    machine_type: str
    memory_mb: int
    """Limit of the bot's container."""
    variables: Mapping[str, pulumi.Input[str]]
    """Secret variables, by their names."""
    udp_ports: tuple[int, int] | None
    """Ports at which callers reach the bot; None where it offers no `webrtc`."""


@dataclass(frozen=True)
class BotTemplatesArgs:
    prefix: str
    deployment: str
    project: str
    region: str
    zones: Sequence[str]
    agents: Mapping[str, AgentMachine]
    network: Network
    public: bool
    """True if VMs have public addresses."""
    registry: Registry | None
    """Registry of the images that the stack builds; None if it builds none."""
    disk_gb: int
    spot: bool
    labels: Mapping[str, str]


class BotTemplates(pulumi.ComponentResource):
    """An instance template for each agent, and the dispatcher's permissions."""

    templates: dict[str, gcp.compute.RegionInstanceTemplate]
    accounts: dict[str, gcp.serviceaccount.Account]
    grants: list[Grant]
    """The dispatcher's permissions here."""

    def __init__(self, name: str, args: BotTemplatesArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:gcp:BotTemplates", name, None, opts)
        self._name, self._args = name, args
        self._within = pulumi.ResourceOptions(parent=self)
        self.accounts, self.templates = {}, {}
        for agent, machine in args.agents.items():
            self.accounts[agent], self.templates[agent] = self._agent(agent, machine)
        self.grants = self._grants()
        self.register_outputs({})

    def references(self) -> dict[str, pulumi.Output[str]]:
        """Return each agent's template as the provider is told of it."""
        region = self._args.region
        return {
            agent: pulumi.Output.concat(f"regions/{region}/instanceTemplates/", one.name)
            for agent, one in self.templates.items()
        }

    def _agent(
        self, agent: str, machine: AgentMachine
    ) -> tuple[gcp.serviceaccount.Account, gcp.compute.RegionInstanceTemplate]:
        name, args = f"{self._name}-{agent}", self._args
        labels = {**args.labels, "agent": agent}
        registry = args.registry if machine.built else None
        words = f"VMs of the agent {agent}"
        own = identity(name, args.prefix, args.project, args.region, agent, registry, words, self._within)
        account, ready = own.account, list(own.granted)
        version: pulumi.Input[str] = ""
        if machine.variables:
            secret = Secret(
                f"{name}-secret",
                SecretArgs(
                    project=args.project,
                    region=args.region,
                    called=f"{args.prefix}-{agent}",
                    value=pulumi.Output.json_dumps(dict(machine.variables), sort_keys=True),
                    reader=account.member,
                    labels=labels,
                ),
                self._within,
            )
            version = secret.version
            ready += secret.written
        template = self._template(name, agent, machine, account, version, ready, labels)
        return account, template

    def _template(
        self,
        name: str,
        agent: str,
        machine: AgentMachine,
        account: gcp.serviceaccount.Account,
        version: pulumi.Input[str],
        ready: Sequence[pulumi.Resource],
        labels: Mapping[str, str],
    ) -> gcp.compute.RegionInstanceTemplate:
        args = self._args
        registry = args.registry.host if machine.built and args.registry is not None else ""

        def told(known: Sequence[str]) -> str:
            image, secret = known
            return user_data(
                StartUp(
                    agent=agent,
                    image=image,
                    registry=registry,
                    secret=secret,
                    memory_mb=machine.memory_mb,
                    udp_ports=machine.udp_ports,
                )
            )

        public = [gcp.compute.RegionInstanceTemplateNetworkInterfaceAccessConfigArgs(network_tier="PREMIUM")]
        return gcp.compute.RegionInstanceTemplate(
            f"{name}-template",
            project=args.project,
            region=args.region,
            name_prefix=names.template(args.prefix, agent),
            description=f"Switchboard: VMs of the agent {agent}",
            machine_type=machine.machine_type,
            disks=[
                gcp.compute.RegionInstanceTemplateDiskArgs(
                    source_image=SYSTEM_IMAGE,
                    boot=True,
                    auto_delete=True,
                    disk_size_gb=args.disk_gb,
                    disk_type="pd-balanced",
                    labels=labels,
                )
            ],
            network_interfaces=[
                gcp.compute.RegionInstanceTemplateNetworkInterfaceArgs(
                    subnetwork=args.network.subnetwork, access_configs=public if args.public else []
                )
            ],
            scheduling=gcp.compute.RegionInstanceTemplateSchedulingArgs(
                # A call that broke off does not go on in a VM that starts again.
                automatic_restart=False,
                on_host_maintenance="TERMINATE" if args.spot else "MIGRATE",
                provisioning_model="SPOT" if args.spot else "STANDARD",
                preemptible=args.spot,
                instance_termination_action="DELETE" if args.spot else None,
            ),
            service_account=gcp.compute.RegionInstanceTemplateServiceAccountArgs(
                email=account.email, scopes=[SCOPE]
            ),
            shielded_instance_config=gcp.compute.RegionInstanceTemplateShieldedInstanceConfigArgs(
                enable_secure_boot=True, enable_vtpm=True, enable_integrity_monitoring=True
            ),
            tags=[args.network.tag],
            metadata={**METADATA, "user-data": pulumi.Output.all(machine.image, version).apply(told)},
            labels=labels,
            # A VM starts as soon as there is a template: by then it may read what it names.
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(ready)),
        )

    def _role(self, part: str, allowed: Sequence[str], title: str) -> gcp.projects.IAMCustomRole:
        args = self._args
        return custom_role(self._name, args.prefix, args.project, part, allowed, title, self._within)

    def _grants(self) -> list[Grant]:
        args = self._args
        here = {"project": args.project, "region": args.region}
        subnet = [*permissions.SUBNET, *(permissions.EXTERNAL if args.public else ())]
        roles = {
            "machines": self._role("machines", permissions.MACHINES, "make and end bots"),
            "templates": self._role("templates", permissions.TEMPLATES, "use bots' templates"),
            "looks": self._role("looks", permissions.LOOKS, "list bots"),
            "subnet": self._role("subnet", subnet, "put bots into the subnet"),
        }
        conditions = {
            "machines": permissions.on_machines(args.zones, args.deployment),
            "templates": permissions.on_templates(args.prefix),
            "looks": "",
        }
        found = [
            Grant(f"{self._name}-{part}", "project", args.project, roles[part].name, condition=one, **here)
            for part, one in conditions.items()
        ]
        found.append(
            Grant(
                f"{self._name}-subnet",
                "subnetwork",
                args.network.subnetwork_name,
                roles["subnet"].name,
                **here,
            )
        )
        found += [
            Grant(f"{self._name}-{agent}-account", "account", one.name, permissions.ACT_AS, **here)
            for agent, one in self.accounts.items()
        ]
        return found
