"""The OpenAPI document. `tests/dispatcher/contract.py` holds every answer of the other tests against it."""

import httpx
import pytest
from fastapi.routing import APIRoute
from openapi_schema_validator import OAS31Validator

from dispatcher.api import openapi
from dispatcher.app import build
from tests.dispatcher import contract
from tests.dispatcher.harness import deployment, settings_for


def test_the_committed_document_is_what_the_dispatcher_serves(tmp_path):
    text = openapi.text(build(settings_for(tmp_path, 7860)).app)
    assert contract.DOCUMENT.read_text() == text, "write it anew with 'make openapi'"


async def test_the_dispatcher_answers_with_it(tmp_path):
    async with deployment(tmp_path) as running:
        assert (await running.http.get("/openapi.json")).json() == contract.document()


def test_every_route_is_in_it(tmp_path):
    app = build(settings_for(tmp_path, 7860)).app
    documented = {
        (path, method.upper())
        for path, operations in contract.document()["paths"].items()
        for method in operations
    }
    served = {
        (route.path.replace(":path", ""), method)
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert served - documented == {("/", "GET")}, "the voice page is no part of the interface"
    assert documented - served == set()


def test_every_good_answer_has_a_schema_and_every_error_is_a_problem():
    for path, operations in contract.document()["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                place = f"{method} {path} {status}"
                if status.startswith(("4", "5")):
                    assert answer == {"$ref": f"#/components/responses/{status}"}, place
                elif method == "head":
                    assert "content" not in answer, place
                elif status == "200" and path != "/metrics":  # Prometheus' own text
                    assert "$ref" in answer["content"]["application/json"]["schema"], place
    for status, answer in contract.document()["components"]["responses"].items():
        assert list(answer["content"]) == ["application/problem+json"], status


def test_its_schemas_are_schemas():
    for schema in contract.document()["components"]["schemas"].values():
        OAS31Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("status", "content_type", "content"),
    [
        (418, "application/problem+json", b"{}"),
        (404, "text/plain", b"gone"),
        (404, "application/problem+json", b'{"title": "Not Found"}'),
        (200, "application/json", b'{"sessionId": 1}'),
    ],
)
async def test_an_answer_that_it_does_not_allow_fails_a_test(status, content_type, content):
    request = httpx.Request("GET", "http://127.0.0.1/sessions/x")
    headers = {"content-type": content_type}
    answer = httpx.Response(status, headers=headers, content=content, request=request)
    with pytest.raises(Exception, match=r"OpenAPI document|required property|is not of type"):
        await contract.check(answer)
