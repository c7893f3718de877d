"""The operations on an app's secrets. A machine has those that there were at its start."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from tests.fly.wire import Answer, Call, Refusal

if TYPE_CHECKING:
    from tests.fly.fake import App, FakeFly


async def listed(fake: FakeFly, call: Call) -> Answer:
    app = fake.app_of(call)
    return Answer(200, {"secrets": [_shown(app, name) for name in sorted(app.secrets)]})


async def show(fake: FakeFly, call: Call) -> Answer:
    app, name = fake.app_of(call), call.params["secret_name"]
    if name not in app.secrets:
        raise Refusal(404, f"not_found: secret {name} not found")
    return Answer(200, _shown(app, name))


async def update(fake: FakeFly, call: Call) -> Answer:
    app = fake.app_of(call)
    app.secrets |= call.body["values"]
    app.secrets_version += 1
    changed = [_shown(app, name) for name in sorted(app.secrets)]
    return Answer(200, {"secrets": changed, "version": app.secrets_version})


async def delete(fake: FakeFly, call: Call) -> Answer:
    app, name = fake.app_of(call), call.params["secret_name"]
    if app.secrets.pop(name, None) is None:
        raise Refusal(404, f"not_found: secret {name} not found")
    app.secrets_version += 1
    return Answer(200, {"version": app.secrets_version})


HANDLERS = {
    "Secrets_list": listed,
    "Secret_get": show,
    "Secrets_update": update,
    "Secret_delete": delete,
}


def _shown(app: App, name: str) -> dict[str, Any]:
    return {"name": name, "digest": hashlib.sha256(app.secrets[name].encode()).hexdigest()[:16]}
