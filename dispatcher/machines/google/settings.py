"""Types of settings that the placements at Google Cloud share."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

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
