"""The operations on an app's addresses and certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.fly.wire import Answer, Call, Refusal

if TYPE_CHECKING:
    from tests.fly.fake import FakeFly

SHARED = "66.241.124.1"


async def addresses(fake: FakeFly, call: Call) -> Answer:
    return Answer(200, {"ips": fake.app_of(call).ips})


async def assign(fake: FakeFly, call: Call) -> Answer:
    app, kind = fake.app_of(call), call.body.get("type")
    number = len(app.ips) + 1
    known = {"shared_v4": SHARED, "v4": f"137.66.0.{number}", "v6": f"2a09:8280:1::{number:x}"}
    if kind not in known:
        raise Refusal(422, f"invalid_argument: unknown IP type {kind!r}")
    made = {"ip": known[kind], "shared": kind == "shared_v4", "region": "global"}
    app.ips.append(made)
    return Answer(200, made)


async def release(fake: FakeFly, call: Call) -> Answer:
    app = fake.app_of(call)
    left = [one for one in app.ips if one["ip"] != call.params["ip"]]
    if len(left) == len(app.ips):
        raise Refusal(404, "not_found: ip address not found")
    app.ips = left
    return Answer(204)


async def certificate(fake: FakeFly, call: Call) -> Answer:
    found = fake.app_of(call).certificates.get(call.params["hostname"])
    if found is None:
        raise Refusal(404, "not_found: certificate not found")
    return Answer(200, found)


async def request_certificate(fake: FakeFly, call: Call) -> Answer:
    app, hostname = fake.app_of(call), call.body.get("hostname", "")
    if hostname in app.certificates:
        raise Refusal(422, "Hostname already exists on app")
    needs: dict[str, Any] = {
        "a": [one["ip"] for one in app.ips if ":" not in one["ip"]],
        "aaaa": [one["ip"] for one in app.ips if ":" in one["ip"]],
        "cname": f"{app.name}.fly.dev",
        "acme_challenge": {"name": f"_acme-challenge.{hostname}", "target": f"{hostname}.x.flydns.net"},
    }
    app.certificates[hostname] = {
        "hostname": hostname,
        "status": "pending_validation",
        "configured": False,
        "acme_requested": True,
        "dns_requirements": needs,
    }
    return Answer(201, app.certificates[hostname])


async def delete_certificate(fake: FakeFly, call: Call) -> Answer:
    if fake.app_of(call).certificates.pop(call.params["hostname"], None) is None:
        raise Refusal(404, "not_found: certificate not found")
    return Answer(204)


HANDLERS = {
    "App_IPAssignments_list": addresses,
    "App_IPAssignments_create": assign,
    "App_IPAssignments_delete": release,
    "App_Certificates_show": certificate,
    "App_Certificates_acme_create": request_certificate,
    "App_Certificates_delete": delete_certificate,
}
