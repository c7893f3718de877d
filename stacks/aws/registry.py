"""ECR repositories of a placement: one for each image, and one for the builds' cache.

An image's tag is the fingerprint of its content, so tags are immutable. A task definition names an image by
digest, and a digest that was deployed has a tag for good: so a lifecycle that removes only what has no tag
never removes what a live revision runs. (A rule that counts tags would: the bot that never changes is the
oldest.) A GB costs $0.10 a month, and images share their layers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from stacks.aws.permissions import partition

UNTAGGED_DAYS = 7
"""Of a manifest without a tag, which a build that was interrupted leaves."""

CACHE_DAYS = 14
"""Of a cache that another build has replaced."""


@dataclass(frozen=True)
class RegistryArgs:
    prefix: str
    """First part of the repositories' names."""
    images: Sequence[str]
    """Names of the images, each a repository."""
    cache: bool
    """Keep the builds' cache here as well."""
    tags: Mapping[str, str]


class Registry(pulumi.ComponentResource):
    """The repositories, by their images' names."""

    repositories: dict[str, aws.ecr.Repository]
    cache: aws.ecr.Repository | None

    def __init__(self, name: str, args: RegistryArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:aws:Registry", name, None, opts)
        self._name, self._args = name, args
        self.repositories = {
            image: self._repository(image, "IMMUTABLE", UNTAGGED_DAYS) for image in args.images
        }
        self.cache = self._repository("cache", "MUTABLE", CACHE_DAYS) if args.cache else None
        self.register_outputs({})

    def _repository(self, image: str, mutability: str, days: int) -> aws.ecr.Repository:
        within = pulumi.ResourceOptions(parent=self)
        repository = aws.ecr.Repository(
            f"{self._name}-{image}",
            name=f"{self._args.prefix}/{image}",
            image_tag_mutability=mutability,
            image_scanning_configuration=aws.ecr.RepositoryImageScanningConfigurationArgs(
                # A cache has nothing that runs.
                scan_on_push=mutability == "IMMUTABLE"
            ),
            encryption_configurations=[
                aws.ecr.RepositoryEncryptionConfigurationArgs(encryption_type="AES256")
            ],
            # `make down` takes the images along: a repository that has some is not deleted otherwise.
            force_delete=True,
            tags=self._args.tags,
            opts=within,
        )
        aws.ecr.LifecyclePolicy(
            f"{self._name}-{image}-lifecycle",
            repository=repository.name,
            policy=json.dumps(lifecycle(days), sort_keys=True),
            opts=within,
        )
        return repository


HOST = re.compile(
    r"(?P<account>[0-9]{12})\.dkr[.-]ecr(-fips)?\.(?P<region>[a-z0-9-]+)"
    r"\.(amazonaws\.com(\.cn)?|on\.(aws|amazonwebservices\.com\.cn))"
)
"""Names of an account's private registry (Amazon ECR user guide, "Amazon ECR private registry")."""


def ecr_repository(image: str) -> str | None:
    """Return the ARN of an image's repository in ECR; None if it is in another registry, or public."""
    host, _, path = image.partition("/")
    found = HOST.fullmatch(host)
    if found is None:
        return None
    region, account = found["region"], found["account"]
    repository = re.split("[:@]", path, maxsplit=1)[0]
    return f"arn:{partition(region)}:ecr:{region}:{account}:repository/{repository}"


def lifecycle(days: int) -> dict[str, object]:
    """Return the policy that expires untagged manifests alone."""
    selection = {
        "tagStatus": "untagged",
        "countType": "sinceImagePushed",
        "countUnit": "days",
        "countNumber": days,
    }
    rule = {
        "rulePriority": 1,
        "description": f"without a tag for {days} days",
        "selection": selection,
        "action": {"type": "expire"},
    }
    return {"rules": [rule]}
