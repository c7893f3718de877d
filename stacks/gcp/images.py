"""Images in Artifact Registry: builds with zstd layers and a cache beside them."""

from __future__ import annotations

from pathlib import Path

import pulumi
import pulumi_docker_build as docker_build
import pulumi_gcp as gcp

from stacks.gcp.config import GcpPlacementConfig
from stacks.gcp.registry import Registry
from stacks.shared.images import Images, ImagesArgs

TOKEN_USER = "oauth2accesstoken"  # noqa: S105 - a user's name
"""User under which Artifact Registry takes an access token as the password."""


def images(
    name: str,
    checkout: Path,
    registry: Registry,
    provider: gcp.Provider,
    keys: GcpPlacementConfig,
    base: str = "",
    prefix: str = "",
) -> Images:
    """Describe the images of a registry."""
    client = gcp.organizations.get_client_config_output(opts=pulumi.InvokeOutputOptions(provider=provider))
    return Images(
        name,
        ImagesArgs(
            checkout=checkout,
            reference=lambda image, mark: pulumi.Output.concat(registry.place, "/", image, ":", mark),
            pushed=True,
            base=base,
            logins=[
                docker_build.RegistryArgs(
                    address=registry.host,
                    username=TOKEN_USER,
                    password=pulumi.Output.secret(client.access_token),
                )
            ],
            # Neither E2 nor Cloud Run runs another one.
            platforms=[docker_build.Platform.LINUX_AMD64],
            cache=pulumi.Output.concat(registry.cache_place, "/builds"),
            compression=keys.compression,
        ),
        prefix,
    )
