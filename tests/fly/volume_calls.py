"""The operations on an app's volumes. A volume is on one machine, or on none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.fly.wire import Answer, Call, Refusal

if TYPE_CHECKING:
    from tests.fly.fake import App, FakeFly


async def listed(fake: FakeFly, call: Call) -> Answer:
    app = fake.app_of(call)
    return Answer(200, [_shown(app, volume) for volume in app.volumes.values()])


async def show(fake: FakeFly, call: Call) -> Answer:
    app = fake.app_of(call)
    return Answer(200, _shown(app, _volume(app, call)))


async def create(fake: FakeFly, call: Call) -> Answer:
    app, body = fake.app_of(call), call.body
    if not body.get("name") or not body.get("region"):
        raise Refusal(400, "invalid_argument: name and region are required")
    volume = {
        "id": f"vol_{fake.new_id()}",
        "name": body["name"],
        "state": "created",
        "region": body["region"],
        "size_gb": body.get("size_gb", 3),
        "encrypted": body.get("encrypted", True),
        "snapshot_retention": body.get("snapshot_retention", 5),
    }
    app.volumes[volume["id"]] = volume
    return Answer(200, _shown(app, volume))


async def update(fake: FakeFly, call: Call) -> Answer:
    app = fake.app_of(call)
    volume = _volume(app, call)
    volume |= call.body
    return Answer(200, _shown(app, volume))


async def extend(fake: FakeFly, call: Call) -> Answer:
    app = fake.app_of(call)
    volume = _volume(app, call)
    if call.body["size_gb"] < volume["size_gb"]:
        raise Refusal(400, "invalid_argument: volume can only be extended")
    volume["size_gb"] = call.body["size_gb"]
    return Answer(200, {"needs_restart": False, "volume": _shown(app, volume)})


async def delete(fake: FakeFly, call: Call) -> Answer:
    app = fake.app_of(call)
    volume = _volume(app, call)
    if _holder(app, volume):
        raise Refusal(412, f"failed_precondition: volume {volume['id']} is attached to a machine")
    del app.volumes[volume["id"]]
    return Answer(200, {**_shown(app, volume), "state": "pending_destroy"})


HANDLERS = {
    "Volumes_list": listed,
    "Volumes_get_by_id": show,
    "Volumes_create": create,
    "Volumes_update": update,
    "Volumes_extend": extend,
    "Volume_delete": delete,
}


def _volume(app: App, call: Call) -> dict[str, Any]:
    volume = app.volumes.get(call.params["volume_id"])
    if volume is None:
        raise Refusal(404, f"not_found: volume {call.params['volume_id']!r} not found")
    return volume


def _holder(app: App, volume: dict[str, Any]) -> str | None:
    for machine in app.machines.values():
        mounts = machine.config.get("mounts") or []
        if not machine.gone and any(mount.get("volume") == volume["id"] for mount in mounts):
            return machine.id
    return None


def _shown(app: App, volume: dict[str, Any]) -> dict[str, Any]:
    holder = _holder(app, volume)
    return volume if holder is None else {**volume, "attached_machine_id": holder}
