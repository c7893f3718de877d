"""Keys that several clouds have under their own key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dispatcher.fields import Allowed, ConfigModel

IMAGE = (
    r"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
"""A reference: a registry or none, a path, and a tag or a digest or both."""

Image = Annotated[str, Field(max_length=512, pattern=f"^{IMAGE}$")]

StunServers = Annotated[
    tuple[Annotated[str, Field(pattern=r"^stuns?:[A-Za-z0-9.:\[\]-]+$")], ...],
    Allowed("a list of stun:host:port"),
]
PUBLIC_STUN = ("stun:stun.l.google.com:19302",)


Compression = Literal["gzip", "zstd"]


class ImageKeys(ConfigModel):
    """Keys of the images that a placement runs."""

    base: Annotated[str, Allowed("an image's reference, such as python:3.13-slim-trixie@sha256:…")] = Field(
        default="", max_length=512, pattern=f"^({IMAGE})?$"
    )
    """Base of the images; by default the one that the Dockerfiles name."""
    vad: Literal["onnx", "torch"] = "onnx"
    """Runtime of the voice activity detector in bots' images. See docs/images.md."""
    media: Literal["audio", "video"] = "audio"
    """Media that bots' images have all libraries for. `audio` leaves out video encoders, which no voice bot
    uses. See docs/images.md."""
    compression: Compression = "gzip"
    """Compression of layers that are pushed to a registry. Engines before Docker 23 cannot pull zstd. A
    change pushes each image again."""
    torch_index: Annotated[
        str,
        Field(pattern=r"^(default|https?://[!-?A-~]+)?$"),
        Allowed("default, or the URL of a package index without a password: https://… or http://…"),
    ] = ""
    """Package index that torch comes from, with `vad: torch`; by default PyTorch's builds without CUDA. The
    image's history shows it, so it must not have a password."""
