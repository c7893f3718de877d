"""Secrets that the stack makes up, once, and keeps encrypted in its state: the page's key, a shared
secret."""

from __future__ import annotations

import secrets
from typing import Any

import pulumi
from pulumi.dynamic import ConfigureRequest, CreateResult, DiffResult, Resource, ResourceProvider

from dispatcher.keys import hash_of, new_key
from stacks.shared.dynamic import end_with_engine


class MadeUpProvider(ResourceProvider):
    """Base of providers whose resource is made up once."""

    serialize_as_secret_always = False

    def configure(self, req: ConfigureRequest) -> None:
        end_with_engine()

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        # Without this the engine compares the provider's own name, an input, and an update loses the value.
        return DiffResult(changes=False)


class PageKeyProvider(MadeUpProvider):
    def create(self, props: dict[str, Any]) -> CreateResult:
        key = new_key(public=True)
        return CreateResult("page-key", {"key": key, "hash": hash_of(key)})


class PageKey(Resource, module="switchboard", name="PageKey"):
    """A key for the voice page, of a stack that has no keys."""

    key: pulumi.Output[str]
    hash: pulumi.Output[str]

    def __init__(self, name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        kept = pulumi.ResourceOptions(additional_secret_outputs=["key"])
        super().__init__(
            PageKeyProvider(), name, {"key": None, "hash": None}, pulumi.ResourceOptions.merge(opts, kept)
        )
        # Secret in a plan as well, where it is not known yet: else an up that follows the plan violates it.
        self.key = pulumi.Output.secret(self.key)


class SharedSecretProvider(MadeUpProvider):
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("shared-secret", {"value": secrets.token_urlsafe(32)})


class SharedSecret(Resource, module="switchboard", name="SharedSecret"):
    """256 random bits that two services share."""

    value: pulumi.Output[str]

    def __init__(self, name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        kept = pulumi.ResourceOptions(additional_secret_outputs=["value"])
        super().__init__(
            SharedSecretProvider(), name, {"value": None}, pulumi.ResourceOptions.merge(opts, kept)
        )
        self.value = pulumi.Output.secret(self.value)
