"""Packets of bots through the rules, in network namespaces of the test's own: prints what came through.

A bridge with a service, a bot and another bot, on a host with a caller in a private network behind it.
"""

from __future__ import annotations

import ipaddress
import json
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from dispatcher.firewall.expressions import Expression, Meta, Table, meta
from dispatcher.firewall.netlink import Nftables
from dispatcher.firewall.ruleset import TCP, Bots, Ports, Service, tables

HOST, METADATA, ALIBABA = "172.30.0.1", "169.254.169.254", "100.100.100.200"
NAMES = {2: "service", 3: "bot", 4: "other"}

SECONDS = 2
"""Limit on what the rules let pass; what they drop has no other end."""

TARGETS = (
    *(f"{host}:80" for host in (HOST, METADATA, ALIBABA, "172.30.0.4", "172.30.0.2", "192.168.9.2")),
    *(f"{host}:53" for host in (HOST, METADATA, "172.30.0.4")),
    *(f"{HOST}:3478", "192.168.9.1:80"),
    *(f"{host}:80" for host in ("fd01::1", "fd01::2", "fd01::4", "fe80::2%eth0", "fe80::4%eth0")),
)
KEPT = (
    *(f"{HOST}:80", f"{HOST}:53", f"{METADATA}:80"),
    *("172.30.0.2:80", "172.30.0.4:80", "192.168.9.2:80"),
)

SERVE = """
import asyncio, sys
async def echo(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
    writer.close()
async def main():
    kept = [await asyncio.start_server(echo, None, int(port)) for port in sys.argv[1:]]
    print("listening", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""

SINK = """
import socket
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
    one.bind(("::", 80))
    print("listening", flush=True)
    while True:
        print(one.recv(100).decode(), flush=True)
"""

SPOOF = """
import socket, sys
IPV6_FREEBIND = 78
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
    one.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    one.bind((sys.argv[1], 0))
    one.sendto(sys.argv[3].encode(), (sys.argv[2], 80))
"""
"""Send from an address that is not the sender's own, as any program may."""

REACH = f"""
import asyncio, json, sys
async def reached(target):
    host, port = target.rsplit(":", 1)
    try:
        async with asyncio.timeout({SECONDS}):
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True
async def main():
    found = await asyncio.gather(*map(reached, sys.argv[1:]))
    print(json.dumps([target for target, is_reached in zip(sys.argv[1:], found) if is_reached]))
asyncio.run(main())
"""

KEEP = f"""
import asyncio, json, sys
async def lives(reader, writer):
    writer.write(b"x")
    try:
        async with asyncio.timeout({SECONDS}):
            return await reader.read(1) == b"x"
    except OSError:
        return False
async def main():
    kept = [await asyncio.open_connection(*target.rsplit(":", 1)) for target in sys.argv[1:]]
    print("connected", flush=True)
    sys.stdin.readline()
    found = await asyncio.gather(*(lives(*one) for one in kept))
    print(json.dumps([target for target, is_alive in zip(sys.argv[1:], found) if is_alive]), flush=True)
asyncio.run(main())
"""
"""Connect, and try the connections when a line comes."""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class World:
    """The namespaces, and processes in them. The host's is the one that this runs in, of the name ''."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._started: list[subprocess.Popen[str]] = []
        self._sent = 0

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
        for name in (*NAMES.values(), "caller"):
            subprocess.run(["ip", "netns", "delete", f"{self._tag}-{name}"], check=False)

    def make(self) -> None:
        ip("link", "set", "lo", "up")
        ip("link", "add", "br-1", "type", "bridge", "mcast_snooping", "0")
        ip("address", "add", f"{HOST}/16", "dev", "br-1")
        ip("address", "add", "fd01::1/64", "dev", "br-1", "nodad")
        for address in (METADATA, ALIBABA):
            ip("address", "add", f"{address}/32", "dev", "lo")
        ip("link", "set", "br-1", "up")
        for number, name in NAMES.items():
            self._connect(f"v{number}", name, "address", f"02:42:ac:1e:00:0{number}")
            ip("link", "set", f"v{number}", "master", "br-1", "up")
            self._give(name, HOST, f"172.30.0.{number}/16", f"fd01::{number}/64", f"fe80::{number}/64")
            self.start(name, SERVE, "80", "53", says="listening")
        self._connect("lan", "caller")
        ip("address", "add", "192.168.9.1/24", "dev", "lan")
        ip("link", "set", "lan", "up")
        self._give("caller", "192.168.9.1", "192.168.9.2/24")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        self.start("caller", SERVE, "80", says="listening")
        self.start("", SERVE, "80", "53", "3478", says="listening")
        self._sinks = {name: self.start(name, SINK, says="listening") for name in ("", "other")}

    def _connect(self, device: str, name: str, *words: str) -> None:
        namespace = f"{self._tag}-{name}"
        ip("netns", "add", namespace)
        ip("link", "add", device, "type", "veth", "peer", "name", "eth0", *words, "netns", namespace)

    def _give(self, name: str, gateway: str, *addresses: str) -> None:
        inside = ("-n", f"{self._tag}-{name}")
        for address in addresses:
            ip(*inside, "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        for device in ("lo", "eth0"):
            ip(*inside, "link", "set", device, "up")
        ip(*inside, "route", "add", "default", "via", gateway)

    def _words(self, name: str, code: str, arguments: Sequence[str]) -> list[str]:
        inside = ["ip", "netns", "exec", f"{self._tag}-{name}"] if name else []
        return [*inside, sys.executable, "-c", code, *arguments]

    def start(self, name: str, code: str, *arguments: str, says: str) -> subprocess.Popen[str]:
        """Start Python in a namespace; return when it has said this."""
        words, pipe = self._words(name, code, arguments), subprocess.PIPE
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
        self._started.append(process)
        assert said(process) == says
        return process

    def run(self, name: str, code: str, *arguments: str) -> str:
        done = subprocess.run(self._words(name, code, arguments), check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def reached(self, name: str, *targets: str) -> list[str]:
        return json.loads(self.run(name, REACH, *targets))

    def spoofed(self, sender: str, source: str) -> list[str]:
        """Return who gets packets that are sent from this address."""
        self._sent += 1
        found: list[str] = []
        for name, address in (("", "fd01::1"), ("other", "fd01::4")):
            self.run(sender, SPOOF, source, address, str(self._sent))
            sink = self._sinks[name]
            assert sink.stdout is not None
            if select.select([sink.stdout], [], [], SECONDS)[0]:
                assert said(sink) == str(self._sent)
                found.append(name or "host")
        return found


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def living(process: subprocess.Popen[str]) -> list[str]:
    """Return the connections of KEEP that still carry data."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return json.loads(said(process))


@contextmanager
def world(tag: str) -> Iterator[World]:
    made = World(tag)
    try:
        made.make()
        yield made
    finally:
        made.close()


def without_name(table: Table) -> Table:
    """Return the bridge's table without its bridge's name, which not each kernel tells."""
    (chain,) = table.chains

    def nameless(rule: tuple[Expression, ...]) -> tuple[Expression, ...]:
        return rule[2:] if rule[0] == meta(Meta.BRIDGE_IIFNAME) else rule

    return replace(table, chains=(replace(chain, rules=tuple(map(nameless, chain.rules))),))


def look(made: World) -> dict[str, Any]:
    """Return what passes before the rules, with each form of them, and after them."""
    network, hardware = ipaddress.ip_network, bytes.fromhex("0242ac1e0002")
    services = tuple(Service(network(one), hardware) for one in ("172.30.0.2", "fd01::2"))
    bots = Bots("br-1", (network("172.30.0.0/16"), network("fd01::/64")), services)
    reach = [Ports(TCP, 3478, 3478)]
    seen: dict[str, Any] = {
        "before": made.reached("bot", *TARGETS),
        "spoofed before": made.spoofed("bot", "fd01::2"),
    }
    of_bot = made.start("bot", KEEP, *KEPT, says="connected")
    of_host = made.start("", KEEP, "172.30.0.3:80", says="connected")
    kernel = Nftables()
    kernel.replace(tables("calls", bots, reach, named=False))
    seen |= {
        "bot": made.reached("bot", *TARGETS),
        "service": made.reached("service", *TARGETS),
        "host to bot": made.reached("", "172.30.0.3:80"),
        "spoofed": made.spoofed("bot", "fd01::2"),
        "service's": made.spoofed("service", "fd01::2"),
        "kept": living(of_bot),
        "kept by the host": living(of_host),
    }
    inet, bridge = tables("calls", bots, reach)
    kernel.replace([inet, without_name(bridge)])
    seen |= {
        "bot of a named bridge": made.reached("bot", *TARGETS),
        "service of a named bridge": made.reached("service", *TARGETS),
        "spoofed on a named bridge": made.spoofed("bot", "fd01::2") + made.spoofed("bot", "fd02::2"),
    }
    kernel.remove([(inet.family, "calls"), (bridge.family, "calls")])
    return {**seen, "after": made.reached("bot", *TARGETS)}


if __name__ == "__main__":
    with world(sys.argv[1]) as there:
        print(json.dumps(look(there)))
