"""Errors of the session API, as RFC 9457 problems with the members that Pipecat's clients read."""

from __future__ import annotations

import base64
import json
from http import HTTPStatus
from typing import Any

from bot.protocol import Response


class Problem(Exception):
    """An error answer.

    Args:
        status: The HTTP status.
        code: A stable code for programs.
        detail: A sentence for people.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail

    def to_response(self, request_id: str) -> Response:
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "error": self.detail,
            "code": self.code,
            "info": self.detail,
        }
        return json_response(request_id, self.status, body, "application/problem+json")


def json_response(request_id: str, status: int, body: Any, media_type: str = "application/json") -> Response:
    return Response(
        id=request_id,
        status=status,
        headers=(("content-type", media_type),),
        body=base64.b64encode(json.dumps(body).encode()).decode(),
    )
