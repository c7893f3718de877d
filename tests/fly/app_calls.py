"""The operations on apps, and on their deploy tokens."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tests.fly.wire import Answer, Call, Refusal

if TYPE_CHECKING:
    from tests.fly.fake import App, FakeFly

UNITS = {"h": 3600, "m": 60, "s": 1}


async def create(fake: FakeFly, call: Call) -> Answer:
    name, org = call.body.get("name", ""), call.body.get("org_slug", "")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,62}", name):
        raise Refusal(422, "Validation failed: Name may only contain lowercase letters, numbers and dashes")
    if org != fake.org:
        raise Refusal(404, f"Could not find Organization {org!r}")
    if name in fake.apps or name in fake.taken:
        raise Refusal(422, "Validation failed: Name has already been taken")
    app = fake.app(name)
    app.network = call.body.get("network") or "default"
    return Answer(201, {"id": name})


async def show(fake: FakeFly, call: Call) -> Answer:
    if call.params["app_name"] in fake.taken:
        raise Refusal(403, "unauthorized")
    return Answer(200, shown(fake.app_of(call)))


async def listed(fake: FakeFly, call: Call) -> Answer:
    found = [shown(app) for app in fake.apps.values()]
    return Answer(200, {"apps": found, "total_apps": len(found)})


async def delete(fake: FakeFly, call: Call) -> Answer:
    app = fake.app_of(call)
    # More than Fly asks for: who deletes an app must have ended what was in it, in good order.
    if left := [one.name for one in app.machines.values() if not one.gone]:
        raise Refusal(412, f"failed_precondition: app {app.name} has machines: {', '.join(left)}")
    if app.volumes:
        raise Refusal(412, f"failed_precondition: app {app.name} has volumes")
    del fake.apps[app.name]
    return Answer(202)


async def deploy_token(fake: FakeFly, call: Call) -> Answer:
    app = fake.app_of(call)
    match = re.fullmatch(r"(\d+)([hms])", call.body.get("expiry", "175200h"))
    if match is None:
        raise Refusal(400, f"invalid_argument: time: invalid duration {call.body['expiry']!r}")
    token = fake.token(app.name, seconds=int(match[1]) * UNITS[match[2]])
    return Answer(200, {"token": f"FlyV1 {token}"})


async def current_token(fake: FakeFly, call: Call) -> Answer:
    return Answer(200, {"tokens": [{"org_slug": fake.org, "organization": fake.org}]})


HANDLERS = {
    "Apps_create": create,
    "Apps_show": show,
    "Apps_list": listed,
    "Apps_delete": delete,
    "App_create_deploy_token": deploy_token,
    "CurrentToken_show": current_token,
}


def shown(app: App) -> dict[str, Any]:
    return {
        "id": app.name,
        "name": app.name,
        "network": app.network,
        "organization": {"name": app.org, "slug": app.org},
        "status": "deployed" if app.machines else "pending",
        "machine_count": sum(not one.gone for one in app.machines.values()),
        "volume_count": len(app.volumes),
    }
