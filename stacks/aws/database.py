"""The dispatcher's PostgreSQL in RDS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from stacks.stateful import STORE, marked

PORT = 5432
USER = DATABASE = "switchboard"

ENGINE_VERSION = "17"
"""Major version of PostgreSQL. RDS takes the newest minor version, also later, in its maintenance window."""

STORAGE_GB, MOST_STORAGE_GB = 20, 100
"""The least that gp3 has, and where RDS stops to add to it by itself."""


@dataclass(frozen=True)
class DatabaseArgs:
    prefix: str
    vpc_id: pulumi.Input[str]
    subnet_ids: Sequence[pulumi.Input[str]]
    clients: pulumi.Input[str]
    """Security group whose members reach it."""
    instance: str
    """Class of the instance, such as db.t4g.micro."""
    multi_zone: bool
    """Keep a standby in another zone, which takes over within one or two minutes."""
    backup_days: int
    password: pulumi.Input[str]
    throwaway: bool
    """Delete it with the stack, and without a last snapshot."""
    tags: Mapping[str, str]
    provider: aws.Provider | None = None


class Database(pulumi.ComponentResource):
    """One instance, which nobody but the dispatcher reaches."""

    instance: aws.rds.Instance
    url: pulumi.Output[str]

    def __init__(self, name: str, args: DatabaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:aws:Database", name, None, opts)
        within = pulumi.ResourceOptions(parent=self)
        subnets = aws.rds.SubnetGroup(
            f"{name}-subnets",
            description=f"Switchboard {args.prefix}: the dispatcher's database",
            subnet_ids=args.subnet_ids,
            tags=args.tags,
            opts=within,
        )
        group = aws.ec2.SecurityGroup(
            f"{name}-group",
            description="Switchboard: the database, for the dispatcher alone",
            vpc_id=args.vpc_id,
            tags=args.tags,
            opts=within,
        )
        aws.vpc.SecurityGroupIngressRule(
            f"{name}-from-dispatcher",
            security_group_id=group.id,
            description="PostgreSQL of the dispatcher",
            ip_protocol="tcp",
            from_port=PORT,
            to_port=PORT,
            referenced_security_group_id=args.clients,
            tags=args.tags,
            opts=within,
        )
        kept = not args.throwaway
        self.instance = aws.rds.Instance(
            STORE,
            engine="postgres",
            engine_version=ENGINE_VERSION,
            instance_class=args.instance,
            allocated_storage=STORAGE_GB,
            max_allocated_storage=MOST_STORAGE_GB,
            storage_type="gp3",
            storage_encrypted=True,
            multi_az=args.multi_zone,
            db_name=DATABASE,
            username=USER,
            password=args.password,
            port=PORT,
            db_subnet_group_name=subnets.name,
            vpc_security_group_ids=[group.id],
            publicly_accessible=False,
            backup_retention_period=args.backup_days,
            copy_tags_to_snapshot=True,
            auto_minor_version_upgrade=True,
            # The engine protects it. AWS's protection would refuse a down that was told to delete it.
            deletion_protection=False,
            skip_final_snapshot=args.throwaway,
            final_snapshot_identifier=f"{args.prefix}-last" if kept else None,
            tags=args.tags,
            opts=pulumi.ResourceOptions.merge(
                marked(args.throwaway), pulumi.ResourceOptions(provider=args.provider)
            ),
        )
        self.url = pulumi.Output.secret(
            pulumi.Output.concat(
                f"postgresql://{USER}:",
                args.password,
                "@",
                self.instance.address,
                # RDS refuses connections without TLS since PostgreSQL 15.
                f":{PORT}/{DATABASE}?sslmode=require",
            )
        )
        self.register_outputs({})
