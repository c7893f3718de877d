"""The action of each route, and the callers who may take it: pure."""

import pytest
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import Mount, Route

from dispatcher.api import access
from dispatcher.api.access import LOCAL, Action, Asked, Caller
from dispatcher.app import build
from tests.dispatcher.harness import settings_for


def served(app) -> set[tuple[str, str]]:
    """Method and path of everything that the app answers."""
    found = set()
    for route in app.routes:
        if router := getattr(route, "original_router", None):
            found |= {one for inner in router.routes for one in _of(inner)}
        else:
            found |= set(_of(route))
    return found


def _of(route):
    if isinstance(route, APIWebSocketRoute):
        return [("WEBSOCKET", route.path)]
    if isinstance(route, (APIRoute, Route)):
        return [(method, route.path) for method in route.methods or ()]
    assert isinstance(route, Mount), route
    return [("GET", f"{route.path}/{{path:path}}")]


def test_every_route_of_the_app_has_a_deliberate_action(tmp_path):
    app = build(settings_for(tmp_path, 7860)).app
    listed = {(method, path) for methods, path, _ in access.ROUTES for method in methods}
    assert served(app) - listed == set(), "say in access.ROUTES what a new route is"


def test_every_action_is_that_of_a_route(tmp_path):
    app = build(settings_for(tmp_path, 7860)).app
    known = {path for _, path in served(app)} | {"/assets/{path:path}"}  # there once the page is built
    assert {path for _, path, _ in access.ROUTES} - known == set()


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("POST", "/start", Asked(Action.start)),
        ("POST", "/v1/public/echo/start", Asked(Action.start, "echo")),
        ("PATCH", "/api/offer", Asked(Action.start)),
        ("GET", "/v1/organizations/o/services/echo/sessions/s", Asked(Action.show, "echo", "s")),
        ("POST", "/v1/organizations/o/services", Asked(Action.operate)),
        ("GET", "/sessions/s", Asked(Action.show, None, "s")),
        ("DELETE", "/v1/agents/echo/sessions/s", Asked(Action.stop, "echo", "s")),
        ("GET", "/v1/sessions/s/events", Asked(Action.follow, None, "s")),
        ("PATCH", "/v1/public/echo/sessions/s/a/b", Asked(Action.call, "echo", "s")),
        ("GET", "/sessions/s/", Asked(Action.call, None, "s")),
        ("GET", "/sessions/s/a\nb", Asked(Action.call, None, "s")),
        ("GET", "/start", Asked(Action.operate)),
        ("POST", "/start/", Asked(Action.operate)),
        ("POST", "//start", Asked(Action.operate)),
        ("POST", "/start\n", Asked(Action.operate)),
        ("POST", "/healthz", Asked(Action.operate)),
        ("GET", "/sessions", Asked(Action.operate)),
        ("GET", "/metrics", Asked(Action.measure)),
        ("CONNECT", "/sessions/s/a", Asked(Action.operate)),
    ],
)
def test_what_a_request_asks_for(method, path, wanted):
    assert access.asked(method, path) == wanted


@pytest.mark.parametrize("action", [*Action])
def test_without_keys_everything_is_allowed(action):
    assert access.refusal(LOCAL, Asked(action, "echo", "s"), "echo") is None


@pytest.mark.parametrize(
    ("caller", "allowed"),
    [
        (Caller("k", "start", "k"), {"start", "agents", "show", "follow", "stop", "call"}),
        (Caller("k", "read", "k"), {"agents", "list", "show", "follow", "logs", "measure"}),
        (Caller("k", "admin", "k"), {action.value for action in Action}),
        (Caller("k", "session", session_id="s"), {"show", "follow", "stop", "call"}),
    ],
)
def test_what_each_scope_may(caller, allowed):
    found = {
        action for action in Action if access.refusal(caller, Asked(action, "echo", "s"), "echo") is None
    }
    assert found == {Action(one) for one in allowed} | {
        *(Action.open, Action.channel, Action.notify, Action.converse)
    }


def test_an_admin_of_some_agents_is_none_of_the_deployment():
    caller = Caller("k", "admin", "k", frozenset({"echo"}))
    assert access.refusal(caller, Asked(Action.stop, "echo", "s"), "other") is None
    assert access.refusal(caller, Asked(Action.list), "other") is None
    for wanted in (
        Asked(Action.operate),
        Asked(Action.measure),
        Asked(Action.stop, "other", "s"),
        Asked(Action.start),
    ):
        assert access.refusal(caller, wanted, "other") is not None
