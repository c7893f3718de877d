"""Types of settings that the placements at Google Cloud share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from dispatcher.machines.settings import PlacementName
from dispatcher.plugins import SharedSettings

KINDS = ("service_account", "external_account")
"""Kinds of credential files that a dispatcher may be given: a service account's key, and workload identity
federation. A person's own (`authorized_user`) would end with that person's account."""


def _check_credentials(secret: SecretStr) -> SecretStr:
    """Return the credentials, whose text no error repeats."""
    allowed = f"allowed: the JSON of a credential file whose `type` is {' or '.join(KINDS)}"
    try:
        given = json.loads(secret.get_secret_value())
    except ValueError:
        raise ValueError(f"it is not JSON; {allowed}") from None
    kind = given.get("type") if isinstance(given, dict) else None
    if kind not in KINDS:
        raise ValueError(f"its type is {kind!r}; {allowed}")
    return secret


CredentialFile = Annotated[SecretStr, AfterValidator(_check_credentials)]
"""The content of a credential file."""

Project = Annotated[str, Field(pattern=r"^([a-z0-9.-]{1,63}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$")]
"""A project's id."""
Deployment = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,22}[a-z0-9])?$")]
"""A deployment's name. It begins with a letter, as names at Google Cloud do."""
ApiUrl = Annotated[str, Field(pattern=r"^https?://[^/@?#]+$")]


class GoogleShared(SharedSettings):
    """Settings of all placements of one provider at Google Cloud."""

    credentials: CredentialFile | None = None
    """Content of a credential file: a service account's key, or workload identity federation. By default the
    file that `GOOGLE_APPLICATION_CREDENTIALS` names, or the service account of the dispatcher's own VM or
    Cloud Run service."""
    credentials_of: Mapping[PlacementName, CredentialFile] = Field(default={}, max_length=100)
    """Placement → the content of a credential file of its own. It goes before `credentials`."""

    def given(self, placement: str) -> str:
        """Return the content of a placement's credential file; empty: the credentials of this host."""
        found = self.credentials_of.get(placement, self.credentials)
        return found.get_secret_value() if found else ""
