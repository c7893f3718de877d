"""Names of images that the engine's proxy lets bots have, with those of before the last change.

The dispatcher uses the former images until the rollout is over, and the proxy is replaced before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pulumi
from pulumi.dynamic import (
    CheckResult,
    ConfigureRequest,
    CreateResult,
    DiffResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from stacks.shared.dynamic import end_with_engine

NAMES = ("images", "repositories")


class AllowedImagesProvider(ResourceProvider):
    """Keep the names of before, one change back."""

    serialize_as_secret_always = False

    def configure(self, req: ConfigureRequest) -> None:
        end_with_engine()

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Add what was wanted before. Here, so that a plan shows it."""
        wanted = {name: sorted(news["wanted"][name]) for name in NAMES}
        before = _olds.get("wanted", wanted)
        former = _olds.get("former", before) if before == wanted else before
        allowed = {name: sorted({*wanted[name], *former[name]}) for name in NAMES}
        return CheckResult({"wanted": wanted, "former": former, **allowed}, [])

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("allowed-images", props)

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=any(_olds.get(name) != _news.get(name) for name in ("former", *NAMES)))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(_news)


class AllowedImages(Resource, module="switchboard", name="AllowedImages"):
    """Images that bots may run.

    Args:
        images: References, to the letter.
        repositories: Any image of these.
    """

    images: pulumi.Output[list[str]]
    repositories: pulumi.Output[list[str]]

    def __init__(
        self,
        name: str,
        *,
        images: Iterable[str],
        repositories: Iterable[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        wanted = {"images": list(images), "repositories": list(repositories)}
        properties = {"wanted": wanted, "images": None, "repositories": None}
        super().__init__(AllowedImagesProvider(), name, properties, opts)
