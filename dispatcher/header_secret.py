"""A secret that can be sent in a header."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, SecretStr

SENDABLE = re.compile(r"[!-~]+( +[!-~]+)*")
"""Visible ASCII. With spaces in it, because `fly tokens create` prints `FlyV1 fm2_…`."""


def _can_be_sent(secret: SecretStr) -> SecretStr:
    # An HTTP client that refuses a header prints it whole, with the secret in it.
    if not SENDABLE.fullmatch(secret.get_secret_value()):
        raise ValueError(
            "it is empty or has other characters than visible ASCII; allowed: these, with spaces, "
            "and no line break at its end"
        )
    return secret


HeaderSecret = Annotated[SecretStr, AfterValidator(_can_be_sent)]
