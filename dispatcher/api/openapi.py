"""The OpenAPI document: FastAPI's, corrected where FastAPI cannot know better.

`python -m dispatcher.openapi` prints it; `docs/openapi.json` is a copy, so that a change shows in review.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI

from dispatcher.api import access
from dispatcher.api.access import Action
from dispatcher.api.problems import MEDIA_TYPE, Problem

PROXIES = ("/sessions/{session_id}/{path}", "/v1/public/{agent}/sessions/{session_id}/{path}")
PROXIED = ("get", "post", "put", "patch", "delete", "options", "head")

_MEANINGS = {
    400: "The request; `detail` names the member, its value and what is allowed.",
    401: "A valid key or session token is needed.",
    403: "The key or token does not allow this, or the Host or Origin is foreign; `detail` says which.",
    404: "No such agent or session.",
    408: "The headers or the body came too slowly.",
    410: "The session was over, or ended before what the request waits for; a bot may have had the call.",
    413: "The body is too large.",
    414: "The URL is too long.",
    422: "The Idempotency-Key stands for another request.",
    429: "The agent has all the sessions that it may have, or the key starts too many of them at once; "
    "`Retry-After` says when to ask again.",
    431: "The headers, or a body's trailers, are too large.",
    500: "A fault of the dispatcher.",
    502: "Permanent: the session failed before the request could be served; `code` is the reason, and "
    "`detail` says it in words.",
    503: "No machine, no store, or about to exit; `Retry-After` says when to ask again.",
    504: "The bot did not answer in time.",
}

ANYWHERE = (400, 403, 408, 414, 431, 500, 503)
"""Statuses that any operation may answer: the server's limits (`dispatcher.limits`), the gate, and faults."""
_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "A key: `pk_…` or `sk_…`."},
    "sessionToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The `sessionToken` of the start's answer, for that session alone.",
    },
    "sessionTokenInUrl": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "The same, for an EventSource, which cannot send headers.",
    },
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error answers of a route, for its `responses`."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": _MEANINGS[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted(statuses)
    }


def install(app: FastAPI) -> None:
    """Serve the whole document at `/openapi.json`."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generated())
        return app.openapi_schema

    app.openapi = openapi


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema()
    # An invalid request is a 400 here, and no error has FastAPI's own form.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            invalid = operation["responses"].get("422", {}).get("content", {})
            if "application/json" in invalid:
                del operation["responses"]["422"]
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
            _secure(path, method, operation)
    for path in PROXIES:
        document["paths"].setdefault(path, {}).update({method: _proxy(path, method) for method in PROXIED})
    document["components"]["responses"] = _shared_problems(document)
    document["components"]["securitySchemes"] = _SCHEMES
    return document


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Remove null from parameters: one may be left out, but `null` in a URL or a header is an
    ordinary word."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {**kinds[0], **{name: value for name, value in schema.items() if name != "anyOf"}}


def _shared_problems(document: dict[str, Any]) -> dict[str, Any]:
    """Replace the error answers of the operations by references to shared ones."""
    shared: dict[str, Any] = {}
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if MEDIA_TYPE in answer.get("content", {}):
                    shared[status] = answer
                    operation["responses"][status] = {"$ref": f"#/components/responses/{status}"}
            operation["responses"] = dict(sorted(operation["responses"].items()))
    return dict(sorted(shared.items()))


def _secure(path: str, method: str, operation: dict[str, Any]) -> None:
    action = access.asked(method.upper(), path).action
    if action in (Action.open, Action.notify):
        return
    ways = [{"key": []}]
    if access.may("session", action):
        ways.append({"sessionToken": []})
    if action is Action.follow:
        ways.append({"sessionTokenInUrl": []})
    # One is enough; on loopback without keys, none is needed.
    operation["security"] = [*ways, {}]
    operation["responses"].update({str(key): value for key, value in problems(401).items()})


def _proxy(path: str, method: str) -> dict[str, Any]:
    """Describe the routes of a session's bot: every path and method below the session."""
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ]
    refused = problems(*ANYWHERE, 404, 410, 413, 502, 504)
    responses = {str(status): meaning for status, meaning in refused.items()}
    responses["default"] = {"description": "The bot's own answer: any status, headers and body."}
    operation = {
        "summary": "Call the session's bot",
        "operationId": f"call_{'agent_' if 'agent' in names else ''}{method}",
        "parameters": parameters,
        "responses": responses,
    }
    _secure(path, method, operation)
    return operation


def text(app: FastAPI) -> str:
    """Return the document as it is committed."""
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"
