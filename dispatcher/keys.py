"""Keys: their form, and their settings.

A key is 256 random bits behind a prefix that Pipecat Cloud's users know: `pk_` for public keys, which pages
hold, and `sk_` for all others. Only its SHA-256 is kept. A slow, salted hash (scrypt, argon2) protects
passwords, because people choose guessable ones; 256 random bits cannot be guessed, and a slow hash would only
slow down every request.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import Counter
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, model_validator

from dispatcher.fields import Allowed, ConfigModel

KEY_BYTES = 32
PUBLIC_PREFIX, PRIVATE_PREFIX = "pk_", "sk_"

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
NAME_WORDS = "a name of a-z, 0-9 and -, at most 63 long, that begins and ends with a letter or digit"
AgentName = Annotated[str, Field(pattern=NAME_PATTERN)]
KeyName = Annotated[str, Field(pattern=NAME_PATTERN)]
KeyScope = Literal["start", "read", "admin"]


def new_key(*, public: bool) -> str:
    return (PUBLIC_PREFIX if public else PRIVATE_PREFIX) + secrets.token_urlsafe(KEY_BYTES)


def hash_of(key: str) -> str:
    """Return the part of a key that is kept."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def _origin(text: str) -> str:
    """Return an origin as browsers send it (RFC 6454, 6.2); any other spelling would never match."""
    try:
        parts = urlsplit(text)
        default = {"http": 80, "https": 443}.get(parts.scheme, parts.port)
        exact = text == f"{parts.scheme}://{parts.netloc}".lower() and "@" not in text
        exact = exact and bool(parts.hostname) and parts.port != default
    except ValueError:
        exact = False
    if not exact:
        raise ValueError(f"'{text}' is not a browser's origin; allowed: https://host or https://host:port")
    return text


Origin = Annotated[str, AfterValidator(_origin)]


def _host_name(text: str) -> str:
    """Return a host as `Host` has it, without its port."""
    try:
        exact = urlsplit(f"//{text}").netloc == text and urlsplit(f"//{text}").hostname == text.strip("[]")
    except ValueError:
        exact = False
    if not exact or not re.fullmatch(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\]", text):
        raise ValueError(
            f"'{text}' is not the name of a host; allowed: a name in lower case or an address, "
            "such as host.docker.internal, without http:// and port"
        )
    return text.strip("[]")


HostName = Annotated[str, AfterValidator(_host_name)]


class KeyRate(ConfigModel):
    """Rate of a key's starts: `burst` at once, and `per_second` in the long run."""

    per_second: float = Field(gt=0, le=10_000)
    """Starts per second in the long run."""
    burst: int = Field(default=1, ge=1, le=100_000)
    """Starts that may come at once."""


PUBLIC_RATE = KeyRate(per_second=5, burst=20)
"""Default rate of a key with origins: everybody who opens a page shares the key, attackers included."""


class KeySettings(ConfigModel):
    """A key that callers send as `Authorization: Bearer`. `make key NAME=…` makes one."""

    model_config = ConfigDict(hide_input_in_errors=True)

    name: Annotated[KeyName, Allowed(NAME_WORDS)]
    """The key's owner, as timelines show it. It owns the sessions that the key starts. Two keys of one name
    are the old and the new key of one caller."""
    hash: Annotated[str, Allowed("what `make key NAME=…` prints as such, never the key itself")] = Field(
        pattern=r"^sha256:[0-9a-f]{64}$"
    )
    """The key's SHA-256; never the key itself."""
    scope: KeyScope
    """`start`: start sessions, and show, follow, stop and call those that keys of this name started. `read`:
    list, show and follow all sessions. `admin`: everything."""
    agents: Annotated[tuple[AgentName, ...], Allowed("a list of names of agents")] = ()
    """The agents whose sessions it is valid for; by default all."""
    origins: tuple[Origin, ...] = ()
    """The sites whose pages may use it. Such a key is public: whoever opens the page can read it."""
    rate: Annotated[KeyRate | None, Allowed("perSecond, above 0 and up to 10000, and burst, 1 to 100000")] = (
        None
    )
    """Rate of its starts; by default unlimited, and with origins `PUBLIC_RATE`."""
    expires_at: Annotated[
        AwareDatetime | None, Allowed("a time with its offset, such as 2030-01-01T00:00:00Z")
    ] = None
    """The time from which the key is refused; by default it never expires."""

    @model_validator(mode="after")
    def _public_keys_only_start(self) -> KeySettings:
        if self.origins and self.scope != "start":
            raise ValueError(
                f"key '{self.name}': everybody can read a key with origins, so its scope must not be "
                f"'{self.scope}'; allowed: start"
            )
        return self

    @property
    def start_rate(self) -> KeyRate | None:
        """Rate of its starts; None: no limit."""
        return PUBLIC_RATE if self.rate is None and self.origins else self.rate


def _distinct(keys: tuple[KeySettings, ...]) -> tuple[KeySettings, ...]:
    """Check that keys can be told apart, and that keys of one name belong to one caller.

    Raises:
        ValueError: They do not.
    """
    for name, count in Counter(key.name for key in keys).items():
        if count > 2:
            raise ValueError(f"there are {count} keys '{name}'; allowed: two, the old and the new one")
        same = [key.model_dump(exclude={"hash", "expires_at"}) for key in keys if key.name == name]
        if any(one != same[0] for one in same):
            raise ValueError(f"the two keys '{name}' may differ in nothing but hash and expires_at")
    if len({key.hash for key in keys}) < len(keys):
        raise ValueError("two keys have the same hash; allowed: each key once")
    return keys


Keys = Annotated[tuple[KeySettings, ...], AfterValidator(_distinct)]
