"""A cloud in a package of its own: it gives a place for bots, and runs no dispatcher."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_camel

from dispatcher.fields import Allowed
from stacks.clouds import Cloud, CloudKeys, Placement, load_program


class AcmePlacementConfig(BaseModel):
    """Keys of a placement at Acme."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

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
