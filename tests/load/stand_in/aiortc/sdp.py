"""A session description is any text; each of its lines is a medium."""

from __future__ import annotations

from dataclasses import dataclass

from aiortc.rtcicetransport import RTCIceCandidate


@dataclass
class SessionDescription:
    media: list[str]

    @classmethod
    def parse(cls, sdp: str) -> SessionDescription:
        return cls(sdp.splitlines())


def candidate_from_sdp(sdp: str) -> RTCIceCandidate:
    return RTCIceCandidate()  # pyright: ignore[reportCallIssue] - the stand-in's has no parameters
