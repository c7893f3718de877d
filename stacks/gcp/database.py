"""The dispatcher's PostgreSQL in Cloud SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import pulumi
import pulumi_gcp as gcp

from stacks.stateful import STORE, marked

USER = DATABASE = "switchboard"

VERSION = "POSTGRES_17"

STORAGE_GB, MOST_STORAGE_GB = 10, 100
"""The least that Cloud SQL has, and where it stops to add to it by itself."""


@dataclass(frozen=True)
class DatabaseArgs:
    prefix: str
    project: str
    region: str
    tier: str
    multi_zone: bool
    """Keep a standby in another zone, which takes over within a minute or two."""
    backup_days: int
    password: pulumi.Input[str]
    throwaway: bool
    """Delete it with the stack."""
    labels: Mapping[str, str]
    needed: Sequence[pulumi.Resource] = ()
    """Resources that it is made after."""
    provider: gcp.Provider | None = None


class Database(pulumi.ComponentResource):
    """One instance. It has a public address that no network may reach: Cloud Run's own connector alone leads
    there, with mutual TLS and the dispatcher's service account."""

    instance: gcp.sql.DatabaseInstance
    url: pulumi.Output[str]
    ready: list[pulumi.Resource]
    """What a dispatcher must wait for."""

    def __init__(self, name: str, args: DatabaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:gcp:Database", name, None, opts)
        within = pulumi.ResourceOptions(parent=self)
        sql = gcp.sql
        self.instance = sql.DatabaseInstance(
            STORE,
            project=args.project,
            region=args.region,
            database_version=VERSION,
            # The engine protects it. Google's protection would refuse a down that was told to delete it.
            deletion_protection=False,
            settings=sql.DatabaseInstanceSettingsArgs(
                tier=args.tier,
                edition="ENTERPRISE",
                availability_type="REGIONAL" if args.multi_zone else "ZONAL",
                disk_type="PD_SSD",
                disk_size=STORAGE_GB,
                disk_autoresize=True,
                disk_autoresize_limit=MOST_STORAGE_GB,
                # No address may connect without a connector, even if somebody adds a network.
                connector_enforcement="REQUIRED",
                ip_configuration=sql.DatabaseInstanceSettingsIpConfigurationArgs(
                    ipv4_enabled=True, ssl_mode="ENCRYPTED_ONLY"
                ),
                backup_configuration=sql.DatabaseInstanceSettingsBackupConfigurationArgs(
                    enabled=args.backup_days > 0,
                    # A standby needs the log of writes.
                    point_in_time_recovery_enabled=args.multi_zone and args.backup_days > 0,
                    backup_retention_settings=sql.DatabaseInstanceSettingsBackupConfigurationBackupRetentionSettingsArgs(
                        retained_backups=max(args.backup_days, 1), retention_unit="COUNT"
                    ),
                ),
                user_labels=args.labels,
            ),
            opts=pulumi.ResourceOptions.merge(
                marked(args.throwaway),
                pulumi.ResourceOptions(provider=args.provider, depends_on=list(args.needed)),
            ),
        )
        database = sql.Database(
            f"{name}-database",
            project=args.project,
            instance=self.instance.name,
            name=DATABASE,
            # It goes with its instance. PostgreSQL refuses to delete one that has connections.
            deletion_policy="ABANDON",
            opts=within,
        )
        user = sql.User(
            f"{name}-user",
            project=args.project,
            instance=self.instance.name,
            name=USER,
            password=args.password,
            # PostgreSQL refuses to delete a user that owns tables.
            deletion_policy="ABANDON",
            opts=within,
        )
        self.ready = [database, user]
        self.url = pulumi.Output.secret(
            pulumi.Output.all(args.password, self.instance.connection_name).apply(
                lambda known: socket_url(known[0], known[1])
            )
        )
        self.register_outputs({})


def socket_url(password: str, connection: str) -> str:
    """Return the URL of the database at the connector's socket."""
    return f"postgresql://{USER}:{quote(password, safe='')}@/{DATABASE}?host=/cloudsql/{connection}"
