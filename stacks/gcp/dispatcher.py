"""The dispatcher: a Cloud Run service that always runs, with its secrets and permissions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_gcp as gcp

from stacks.gcp import bindings
from stacks.gcp.secrets import Secret, SecretArgs

PORT = 7860
"""Port of the dispatcher, in its container."""

REQUEST_SECONDS = 3600
"""Cloud Run's longest request, and so the longest life of a channel, an event stream or a WebSocket. They
connect anew, and a session goes on."""

REQUESTS = 1000
"""Cloud Run's most requests at the same time in one instance. Each machine's channel is one."""

START_SECONDS = 240
"""For an instance to answer its first check; Cloud Run's most. Migrations run then."""


@dataclass(frozen=True)
class DispatcherArgs:
    prefix: str
    project: str
    region: str
    service: str
    """Name of the service, which is in its URL."""
    account: gcp.serviceaccount.Account
    number: int
    cpu: int
    memory_mb: int
    image: pulumi.Input[str]
    environment: Mapping[str, pulumi.Input[str]]
    variables: Mapping[str, pulumi.Input[str]]
    """Secret variables."""
    grants: Sequence[Mapping[str, Any]]
    """Its permissions in the placements."""
    connection: pulumi.Input[str] | None
    """Connection name of its Cloud SQL instance; None if its database is elsewhere."""
    domain: str
    """Public name; empty: Cloud Run's own."""
    needed: Sequence[pulumi.Resource]
    """Resources that it starts after."""
    labels: Mapping[str, str]


class Dispatcher(pulumi.ComponentResource):
    """The service. A new revision gets the calls once it answers its check, and the old one ends then."""

    service: gcp.cloudrunv2.Service
    records: pulumi.Output[list[str]] | None
    """DNS records that the domain needs."""

    def __init__(self, name: str, args: DispatcherArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:gcp:Dispatcher", name, None, opts)
        self._name, self._args = name, args
        self._within = pulumi.ResourceOptions(parent=self)
        secrets = {variable: self._secret(variable, value) for variable, value in args.variables.items()}
        granted = [bindings.grant(name, args.account.member, one, self._within) for one in args.grants]
        if args.connection is not None:
            granted.append(self._connects())
        ready = [*granted, *args.needed, *(one for of in secrets.values() for one in of.written)]
        self.service = gcp.cloudrunv2.Service(
            f"{name}-service",
            project=args.project,
            location=args.region,
            name=args.service,
            ingress="INGRESS_TRAFFIC_ALL",
            # It checks its callers' keys itself. (An organization may forbid bindings of `allUsers`.)
            invoker_iam_disabled=True,
            # The engine deletes what a down deletes. Nothing is stored in it.
            deletion_protection=False,
            template=self._template(secrets),
            traffics=[
                gcp.cloudrunv2.ServiceTrafficArgs(type="TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", percent=100)
            ],
            labels=args.labels,
            opts=pulumi.ResourceOptions(parent=self, depends_on=ready),
        )
        self.records = self._mapped() if args.domain else None
        self.register_outputs({})

    def _secret(self, variable: str, value: pulumi.Input[str]) -> Secret:
        part = variable.lower().replace("_", "-")
        return Secret(
            f"{self._name}-{part}",
            SecretArgs(
                project=self._args.project,
                region=self._args.region,
                called=f"{self._args.prefix}-dispatcher-{part}",
                value=value,
                reader=self._args.account.member,
                labels=self._args.labels,
            ),
            self._within,
        )

    def _connects(self) -> pulumi.Resource:
        return gcp.projects.IAMMember(
            f"{self._name}-connects",
            project=self._args.project,
            # A role on a project alone, whose condition may name an instance only under a tag.
            role="roles/cloudsql.client",
            member=self._args.account.member,
            opts=self._within,
        )

    def _template(self, secrets: Mapping[str, Secret]) -> gcp.cloudrunv2.ServiceTemplateArgs:
        run, args = gcp.cloudrunv2, self._args
        sql = [args.connection] if args.connection is not None else []
        return run.ServiceTemplateArgs(
            service_account=args.account.email,
            execution_environment="EXECUTION_ENVIRONMENT_GEN2",
            timeout=f"{REQUEST_SECONDS}s",
            max_instance_request_concurrency=REQUESTS,
            scaling=run.ServiceTemplateScalingArgs(
                min_instance_count=args.number, max_instance_count=args.number
            ),
            containers=[
                run.ServiceTemplateContainerArgs(
                    name="dispatcher",
                    image=args.image,
                    ports=run.ServiceTemplateContainerPortsArgs(container_port=PORT, name="http1"),
                    resources=run.ServiceTemplateContainerResourcesArgs(
                        limits={"cpu": str(args.cpu), "memory": f"{args.memory_mb}Mi"},
                        # It works between requests: channels, deadlines, the orphan scan.
                        cpu_idle=False,
                        startup_cpu_boost=True,
                    ),
                    envs=[
                        *(
                            run.ServiceTemplateContainerEnvArgs(name=name, value=value)
                            for name, value in sorted(args.environment.items())
                        ),
                        *(
                            run.ServiceTemplateContainerEnvArgs(
                                name=name,
                                value_source=run.ServiceTemplateContainerEnvValueSourceArgs(
                                    secret_key_ref=run.ServiceTemplateContainerEnvValueSourceSecretKeyRefArgs(
                                        secret=secret.secret_id, version=secret.number
                                    )
                                ),
                            )
                            for name, secret in sorted(secrets.items())
                        ),
                    ],
                    volume_mounts=[
                        run.ServiceTemplateContainerVolumeMountArgs(name="cloudsql", mount_path="/cloudsql")
                        for _ in sql
                    ],
                    startup_probe=run.ServiceTemplateContainerStartupProbeArgs(
                        http_get=run.ServiceTemplateContainerStartupProbeHttpGetArgs(
                            path="/readyz", port=PORT
                        ),
                        period_seconds=5,
                        timeout_seconds=4,
                        failure_threshold=START_SECONDS // 5,
                    ),
                    liveness_probe=run.ServiceTemplateContainerLivenessProbeArgs(
                        http_get=run.ServiceTemplateContainerLivenessProbeHttpGetArgs(
                            path="/healthz", port=PORT
                        ),
                        period_seconds=15,
                        timeout_seconds=5,
                        failure_threshold=3,
                    ),
                )
            ],
            volumes=[
                run.ServiceTemplateVolumeArgs(
                    name="cloudsql",
                    cloud_sql_instance=run.ServiceTemplateVolumeCloudSqlInstanceArgs(instances=[instance]),
                )
                for instance in sql
            ],
            labels=args.labels,
        )

    def _mapped(self) -> pulumi.Output[list[str]]:
        """Describe the domain's mapping; return the DNS records that it needs."""
        args = self._args
        mapping = gcp.cloudrun.DomainMapping(
            f"{self._name}-domain",
            project=args.project,
            location=args.region,
            name=args.domain,
            metadata=gcp.cloudrun.DomainMappingMetadataArgs(namespace=args.project, labels=args.labels),
            spec=gcp.cloudrun.DomainMappingSpecArgs(route_name=self.service.name),
            opts=self._within,
        )
        return mapping.statuses.apply(
            lambda statuses: [
                f"{args.domain} {record.type} {record.rrdata}"
                for status in statuses
                for record in status.resource_records or ()
            ]
        )
