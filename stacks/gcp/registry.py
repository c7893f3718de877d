"""Artifact Registry repositories of a placement: one for its images, and one for the builds' cache.

An image's tag is the fingerprint of its content, so tags are immutable. What runs is named by digest, and a
digest that was deployed has a tag for good: so a policy that deletes only what has no tag never deletes what
a live revision runs. (A policy that keeps the newest versions would: the bot that never changes is the
oldest.) A GB costs $0.10 a month, and images share their layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_gcp as gcp

UNTAGGED_DAYS = 7
"""Of a manifest without a tag, which a build that was interrupted leaves."""

CACHE_DAYS = 14
"""Of a cache that another build has replaced."""


@dataclass(frozen=True)
class RegistryArgs:
    prefix: str
    """Id of the repository of images, and first part of the cache's."""
    project: str
    region: str
    labels: Mapping[str, str]


class Registry(pulumi.ComponentResource):
    """The repositories."""

    images: gcp.artifactregistry.Repository
    cache: gcp.artifactregistry.Repository
    host: str
    """Host name of the registry."""
    place: pulumi.Output[str]
    """First part of images' references."""
    cache_place: pulumi.Output[str]

    def __init__(self, name: str, args: RegistryArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:gcp:Registry", name, None, opts)
        self._name, self._args = name, args
        self.host = f"{args.region}-docker.pkg.dev"
        self.images = self._repository("images", args.prefix, UNTAGGED_DAYS, immutable=True)
        self.cache = self._repository("cache", f"{args.prefix}-cache", CACHE_DAYS, immutable=False)
        within = f"{self.host}/{args.project}/"
        self.place = pulumi.Output.concat(within, self.images.repository_id)
        self.cache_place = pulumi.Output.concat(within, self.cache.repository_id)
        self.register_outputs({})

    def _repository(
        self, part: str, called: str, days: int, *, immutable: bool
    ) -> gcp.artifactregistry.Repository:
        return gcp.artifactregistry.Repository(
            f"{self._name}-{part}",
            project=self._args.project,
            location=self._args.region,
            repository_id=called,
            format="DOCKER",
            docker_config=gcp.artifactregistry.RepositoryDockerConfigArgs(immutable_tags=immutable),
            cleanup_policies=[
                gcp.artifactregistry.RepositoryCleanupPolicyArgs(
                    id="without-a-tag",
                    action="DELETE",
                    condition=gcp.artifactregistry.RepositoryCleanupPolicyConditionArgs(
                        tag_state="UNTAGGED", older_than=f"{days * 24 * 3600}s"
                    ),
                )
            ],
            cleanup_policy_dry_run=False,
            labels=self._args.labels,
            opts=pulumi.ResourceOptions(parent=self),
        )
