"""A cloud in a package of its own: it gives a place for bots, and runs no dispatcher."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from dispatcher.fields import Allowed, ConfigModel
from stacks.clouds import Cloud, CloudKeys, Placement, load_program


class AcmePlacementConfig(ConfigModel):
    """Keys of a placement at Acme."""

    region: Annotated[str, Allowed("a region of Acme's, such as north-1")] = Field(
        default="north-1", pattern=r"^[a-z]+-[0-9]+$"
    )
    """Region of bots' machines."""


class AcmeKeys(CloudKeys):
    """Keys of a stack's config that this cloud adds."""

    acme: AcmePlacementConfig = AcmePlacementConfig()
    """Keys of placements at Acme."""
    acme_token: SecretStr = SecretStr("")
    """Token of the account at Acme."""


class AcmeCloud(Cloud):
    """Acme."""

    summary = "Acme"
    keys = AcmeKeys
    placement_keys = AcmePlacementConfig

    def placement(self) -> Placement:
        return load_program("acme_cloud.placement", self.name).AcmeBots()
