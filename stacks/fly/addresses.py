"""The ways to an app from outside: its addresses, and the certificate of a name of one's own.

`<app>.fly.dev` needs addresses and has a certificate of Fly's.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Literal

import pulumi
from pulumi.dynamic import CreateResult, ReadResult

from stacks.fly.api import FlyMisread, FlyRefused, mapping, part, rows
from stacks.fly.resource import ADOPT, FlyResource, Kind
from stacks.shared.dynamic import plain_errors

AddressType = Literal["shared_v4", "v4", "v6", "private_v6"]


class IpAddressProvider(Kind):
    inputs = ("app", "type")
    replaced = inputs

    @plain_errors
    def create(self, props: dict[str, Any]) -> CreateResult:
        wanted = props.get(ADOPT)
        found = self.fly.once_known(lambda: self._find(props, wanted), lambda: self._make(props, wanted))
        return CreateResult(found["ip"], {**self.kept(props), "ip": found["ip"]})

    @plain_errors
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        return ReadResult(id_, props) if self._find(props, id_) is not None else ReadResult("", {})

    @plain_errors
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        self.fly.delete(f"{_path(_props)}/{part(_id)}")

    def _find(self, props: dict[str, Any], ip: str | None) -> dict[str, Any] | None:
        path = _path(props)
        answer = mapping(self.fly.get(path), f"GET {path}") or {}
        listed = rows(answer.get("ips"), f"GET {path}", "ip")
        fitting = (one for one in listed if type_of(one) == props["type"] and ip in (None, one["ip"]))
        return next(fitting, None)

    def _make(self, props: dict[str, Any], wanted: str | None) -> dict[str, Any]:
        if wanted is not None:
            raise FlyRefused(
                f"switchboard:fly.adopt: {wanted!r} is refused; allowed: an address of the type "
                f"{props['type']} that the app {props['app']} has"
            )
        path = _path(props)
        return mapping(self.fly.ask("POST", path, {"type": props["type"]}), f"POST {path}", "ip") or {}


def _path(props: dict[str, Any]) -> str:
    return f"apps/{part(props['app'])}/ip_assignments"


def type_of(assignment: dict[str, Any]) -> AddressType:
    """Return the type of an address as Fly lists it, which names none. Fly's private network is fdaa::/16."""
    address = ipaddress.ip_address(assignment["ip"])
    if address.version == 4:
        return "shared_v4" if assignment.get("shared") else "v4"
    return "private_v6" if address.is_private else "v6"


class IpAddress(FlyResource, module="switchboard", name="FlyIpAddress"):
    """An address of an app, known to the whole internet. Its id is the address."""

    ip: pulumi.Output[str]

    def __init__(
        self,
        logical_name: str,
        *,
        app: pulumi.Input[str],
        type_: AddressType,
        adopt: str | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = {"app": app, "type": type_}
        super().__init__(
            IpAddressProvider(), logical_name, properties, outputs=("ip",), adopt=adopt, opts=opts
        )


class CertificateProvider(Kind):
    inputs = ("app", "hostname")
    replaced = inputs

    @plain_errors
    def create(self, props: dict[str, Any]) -> CreateResult:
        path = f"apps/{part(props['app'])}/certificates"
        found = self.fly.once_known(
            lambda: self._get(props["app"], props["hostname"]),
            lambda: self._make(path, props["hostname"]),
        )
        return CreateResult(props["hostname"], {**self.kept(props), **_told(found)})

    @plain_errors
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        found = self._get(props["app"], id_)
        return ReadResult("", {}) if found is None else ReadResult(id_, {**props, **_told(found)})

    @plain_errors
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        self.fly.delete(f"apps/{part(_props['app'])}/certificates/{part(_id)}")

    def _make(self, path: str, hostname: str) -> dict[str, Any]:
        answer = self.fly.ask("POST", f"{path}/acme", {"hostname": hostname})
        return mapping(answer, f"POST {path}/acme", "hostname") or {"hostname": hostname}

    def _get(self, app: str, hostname: str) -> dict[str, Any] | None:
        path = f"apps/{part(app)}/certificates/{part(hostname)}"
        found = mapping(self.fly.get(path), f"GET {path}", "hostname")
        if found is not None and str(found["hostname"]).lower() != hostname.lower():
            raise FlyMisread(f"Fly's answer to GET {path} is about another name, {found['hostname']}")
        return found


def _told(certificate: dict[str, Any]) -> dict[str, Any]:
    """Return its status, and the DNS records that it needs, a line each."""
    needed = certificate.get("dns_requirements") or {}
    name = certificate["hostname"]
    records = [f"{name} A {address}" for address in needed.get("a") or []]
    records += [f"{name} AAAA {address}" for address in needed.get("aaaa") or []]
    if needed.get("cname"):
        records.append(f"{name} CNAME {needed['cname']} (in the place of A and AAAA)")
    challenge = needed.get("acme_challenge") or {}
    if challenge.get("name"):
        records.append(f"{challenge['name']} CNAME {challenge.get('target')}")
    return {"status": certificate.get("status") or "", "records": records}


class Certificate(FlyResource, module="switchboard", name="FlyCertificate"):
    """A certificate of Let's Encrypt for a name, which Fly gets once the name leads to the app."""

    records: pulumi.Output[list[str]]

    def __init__(
        self,
        logical_name: str,
        *,
        app: pulumi.Input[str],
        hostname: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = {"app": app, "hostname": hostname}
        super().__init__(
            CertificateProvider(), logical_name, properties, outputs=("status", "records"), opts=opts
        )
