"""Keys of a stack's config for own STUN and TURN servers."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, SecretStr, model_validator

from dispatcher.fields import Allowed, ConfigModel
from dispatcher.settings import IceServer

USERNAME_WORDS = "the user name of a TURN server"
CREDENTIAL_WORDS = "the password of a TURN server, set by `pulumi config set --path --secret`"
TURN_URLS_WORDS = "a list of at least one turn:host:port?transport=udp (or tcp) or turns:host:port"
"""Allowed values that a check of a whole config repeats."""

# RFC 7064 and RFC 7065.
Url = Annotated[
    str,
    Field(
        pattern=r"^(stuns?:([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"
        r"|turns?:([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(\?transport=(udp|tcp))?)$"
    ),
]


class IceServerConfig(ConfigModel):
    """A STUN or TURN server with a fixed credential, in the shape of a browser's RTCIceServer."""

    model_config = ConfigDict(hide_input_in_errors=True)

    urls: Annotated[
        tuple[Url, ...],
        Allowed("a list of at least one stun:host:port, turn:host:port?transport=udp or turns:host:port"),
    ] = Field(min_length=1)
    """Addresses of the server."""
    username: Annotated[str, Allowed(USERNAME_WORDS)] = Field(default="", max_length=512)
    """User name, which a TURN server asks for."""
    credential: Annotated[SecretStr, Allowed(CREDENTIAL_WORDS)] = SecretStr("")
    """Password, which a TURN server asks for."""

    @model_validator(mode="after")
    def _whole(self) -> IceServerConfig:
        turn = any(url.startswith("turn") for url in self.urls)
        given = (bool(self.username), bool(self.credential.get_secret_value()))
        # A browser throws for a TURN server without both (W3C WebRTC, 4.4.1.6), and no call begins.
        if turn and not all(given):
            missing, words = ("credential", CREDENTIAL_WORDS) if given[0] else ("username", USERNAME_WORDS)
            raise ValueError(f"{missing}: is missing, and a server is TURN; allowed: {words}")
        if not turn and any(given):
            raise ValueError("username: is there, and no server is TURN; allowed: only with turn: or turns:")
        return self

    def server(self) -> IceServer:
        """The dispatcher's setting."""
        secret = self.credential.get_secret_value()
        return IceServer(urls=self.urls, username=self.username or None, credential=secret or None)
