"""Messages between the engine's proxy and the firewall: a line of JSON each way, on a Unix socket."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

from dispatcher.firewall.ruleset import HARDWARE_BYTES, Bots, Service

Task: TypeAlias = Literal["hold", "check", "remove"]

MOST_BYTES = 64 * 1024
MOST_SERVICES = 256
"""Limit on addresses of services; each is a rule that a bot's packets pass."""

BRIDGE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
"""A name of an interface, IFNAMSIZ - 1 characters of those that Docker takes."""

HARDWARE = re.compile(rf"[0-9A-Fa-f]{{2}}(:[0-9A-Fa-f]{{2}}){{{HARDWARE_BYTES - 1}}}")


def hold(bridge: str, subnets: Iterable[str], services: Iterable[tuple[str, str]]) -> bytes:
    """Return the request to keep this network's rules from now on.

    Args:
        services: Each with its address and its hardware address.
    """
    return _line({"do": "hold", "bridge": bridge, "subnets": list(subnets), "services": list(services)})


def plain(task: Literal["check", "remove"]) -> bytes:
    return _line({"do": task})


def answer(error: str) -> bytes:
    """Return an answer; an empty error says that it is done."""
    return _line({"error": error})


def error_of(line: bytes) -> str:
    """Return an answer's error, empty for none. Raises ValueError if it is none of ours."""
    match _read(line):
        case {"error": str(error)}:
            return error
        case _:
            raise ValueError("its answer has no error member")


def read(line: bytes) -> tuple[Task, Bots | None]:
    """Return a request, and of `hold` its network. Raises ValueError with what is wrong."""
    match _read(line):
        case {"do": "check" | "remove" as task}:
            return task, None
        case {"do": "hold", "bridge": str(bridge), "subnets": list(subnets), "services": list(services)}:
            if not BRIDGE.fullmatch(bridge):
                raise ValueError(f"bridge: {bridge[:100]!r} is refused; allowed: an interface's name")
            if not subnets or len(services) > MOST_SERVICES:
                raise ValueError(
                    f"subnets: {len(subnets)}, services: {len(services)} are refused; allowed: 1 or more "
                    f"subnets, up to {MOST_SERVICES} services"
                )
            return "hold", Bots(
                bridge,
                tuple(ipaddress.ip_network(one) for one in subnets),
                tuple(_service(one) for one in services),
            )
        case _:
            raise ValueError("the request is refused; allowed: do: hold, check or remove")


def _service(given: Any) -> Service:
    match given:
        case [str(address), str(hardware)]:
            return Service(ipaddress.ip_network(address), hardware_of(hardware))
        case _:
            raise ValueError(
                f"services: {str(given)[:100]!r} is refused; allowed: [address, hardware address]"
            )


def hardware_of(text: str) -> bytes:
    """Read an address such as 02:42:ac:1e:00:02. Raises ValueError if it is none."""
    if not HARDWARE.fullmatch(text):
        raise ValueError(f"{text[:100]!r} is refused; allowed: a hardware address, such as 02:42:ac:1e:00:02")
    return bytes.fromhex(text.replace(":", ""))


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _read(line: bytes) -> Any:
    if len(line) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES} bytes")
    return json.loads(line)
