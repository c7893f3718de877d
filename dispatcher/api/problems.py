"""Errors as clients read them: RFC 9457, with Pipecat Cloud's members beside the standard ones.

`error` and `code` are Pipecat Cloud's; `info` is what Pipecat's JavaScript client shows to a person.
"""

from __future__ import annotations

import http
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from dispatcher.domain.errors import SessionError

STORE_DOWN = "The store does not answer."
STORE_DOWN_HEADERS = {"Retry-After": "5"}

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """The body of every error answer."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    error: str
    code: str
    info: str


def problem(
    status: int, detail: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error answer; `detail` is a sentence for the client's user."""
    body = Problem(
        title=http.HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        error=detail,
        code=code or str(status),
        info=detail,
    )
    return JSONResponse(body.model_dump(), status, dict(headers or {}), MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Give every error of the app this form."""
    app.add_exception_handler(SessionError, _session_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(SQLAlchemyError, _store_down)
    app.add_exception_handler(ClientDisconnect, _hung_up)
    app.add_exception_handler(Exception, _unexpected)


async def _session_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SessionError)  # noqa: S101 - for the type checker
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return problem(error.status, str(error), code=error.code, headers=headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for the type checker
    return problem(400, "; ".join(_in_words(item) for item in error.errors()))


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # The framework names the methods of one route only, and each method of a path is a route.
        path = getattr(request.scope.get("route"), "path_format", None)
        if operations := request.app.openapi()["paths"].get(path):
            headers["Allow"] = ", ".join(method.upper() for method in operations)
    return problem(error.status_code, str(error.detail), headers=headers)


async def _store_down(request: Request, error: Exception) -> JSONResponse:
    # The store itself has logged it.
    return problem(503, STORE_DOWN, code="store_down", headers=STORE_DOWN_HEADERS)


async def _hung_up(request: Request, error: Exception) -> Response:
    # The client hung up during its body. Nobody reads this answer, and it is not an error to log.
    return Response(status_code=400)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    # Starlette raises it again after this answer, and the server logs it with its traceback.
    return problem(500, "Something went wrong in the dispatcher; its log has the details.")


def _in_words(item: Mapping[str, Any]) -> str:
    place = [str(part) for part in item["loc"] if part not in ("body", "query", "path", "header")]
    field = ".".join(place) or "the request's body"
    message = str(item["msg"])
    if item["type"] in ("json_invalid", "missing") or "input" not in item:
        return f"{field}: {message}"
    value = "null" if item["input"] is None else repr(item["input"])
    return f"{field}: {message}, not {value if len(value) <= 80 else value[:77] + '…'}"
