"""A candidate that nobody tries."""

from __future__ import annotations


class RTCIceCandidate:
    sdpMid: str | None = None
    sdpMLineIndex: int | None = None
