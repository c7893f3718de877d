"""Rules in the kernel: tables in a network namespace of the test's own, and packets of bots through them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from typing import Any

import pytest

from tests.patience import PATIENCE

TABLES = """
import ipaddress, json
from dispatcher.firewall.expressions import Family, Table
from dispatcher.firewall.netlink import Nftables, Refused
from dispatcher.firewall.ruleset import UDP, Bots, Ports, tables

network = ipaddress.ip_network
subnets = network("172.30.0.0/16"), network("fd01::/64")
bots = Bots("br-1", subnets, (network("172.30.0.2/32"), network("fd01::2/128")))
kernel = Nftables()
wanted = tables("calls", bots, [Ports(UDP, 49160, 49223)])
names = [(one.family, one.name) for one in wanted]
has = lambda: [kernel.has(*name) for name in names]
seen = [has(), kernel.generation()]
kernel.replace(wanted)
seen += [has(), kernel.generation()]
kernel.replace(wanted)
seen += [has()]
try:
    kernel.replace([Table(Family.INET, "calls", ()), Table(Family.INET, "x" * 300, ())])
except Refused as error:
    seen += [str(error)]
seen += [has()]
kernel.remove(names)
kernel.remove(names)
print(json.dumps([*seen, has()]))
"""

PACKETS = """
import ipaddress, json, socket, subprocess, sys
from dispatcher.firewall.netlink import Nftables
from dispatcher.firewall.ruleset import UDP, Bots, Ports, tables

TAG = sys.argv[1]
HOST, CLOUD, METADATA, ALIBABA = "172.30.0.1", "203.0.113.1", "169.254.169.254", "100.100.100.200"
NAMES = {2: "service", 3: "bot", 4: "other"}

def ip(*words):
    subprocess.run(["ip", *words], check=True)

def in_namespace(name, code, *arguments):
    return subprocess.run(
        ["ip", "netns", "exec", f"{TAG}-{name}", sys.executable, "-c", code, *arguments],
        check=True, capture_output=True, text=True,
    ).stdout

SERVE = '''
import socket, sys, time
kept = [socket.create_server((sys.argv[1], int(port))) for port in sys.argv[2:]]
print("listening", flush=True)
time.sleep(600)
'''

REACH = '''
import json, socket, sys
socket.setdefaulttimeout(1)
found = []
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    with socket.socket() as one:
        if one.connect_ex((host, int(port))) == 0:
            found.append(target)
print(json.dumps(found))
'''

def serve(prefix, address, *ports):
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", SERVE, address, *map(str, ports)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "listening\\n"
    return process

started = []
try:
    ip("link", "set", "lo", "up")
    ip("link", "add", "br-1", "type", "bridge")
    ip("address", "add", f"{HOST}/16", "dev", "br-1")
    for address in (METADATA, ALIBABA):
        ip("address", "add", f"{address}/32", "dev", "lo")
    ip("link", "set", "br-1", "up")
    for number, name in NAMES.items():
        namespace = f"{TAG}-{name}"
        ip("netns", "add", namespace)
        ip("link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", namespace)
        ip("link", "set", f"v{number}", "master", "br-1", "up")
        ip("-n", namespace, "address", "add", f"172.30.0.{number}/16", "dev", "eth0")
        ip("-n", namespace, "link", "set", "eth0", "up")
        ip("-n", namespace, "route", "add", "default", "via", HOST)
        started.append(serve(("ip", "netns", "exec", namespace), "0.0.0.0", 80, 53))
    # A caller in a private network behind the host.
    ip("netns", "add", f"{TAG}-caller")
    ip("link", "add", "lan", "type", "veth", "peer", "name", "eth0", "netns", f"{TAG}-caller")
    ip("address", "add", "192.168.9.1/24", "dev", "lan")
    ip("link", "set", "lan", "up")
    ip("-n", f"{TAG}-caller", "address", "add", "192.168.9.2/24", "dev", "eth0")
    ip("-n", f"{TAG}-caller", "link", "set", "eth0", "up")
    ip("-n", f"{TAG}-caller", "route", "add", "default", "via", "192.168.9.1")
    open("/proc/sys/net/ipv4/ip_forward", "w").write("1")
    started.append(serve(("ip", "netns", "exec", f"{TAG}-caller"), "0.0.0.0", 80))
    started.append(serve((), "0.0.0.0", 80, 53, 3478))

    targets = [
        *(f"{host}:80" for host in (HOST, METADATA, ALIBABA, "172.30.0.4", "172.30.0.2", "192.168.9.2")),
        *(f"{host}:53" for host in (HOST, METADATA, "172.30.0.4")), f"{HOST}:3478", "192.168.9.1:80",
    ]
    def reached(name):
        return json.loads(in_namespace(name, REACH, *targets))

    network = ipaddress.ip_network
    bots = Bots("br-1", (network("172.30.0.0/16"),), (network("172.30.0.2/32"),))
    seen = {"before": reached("bot")}
    kernel = Nftables()
    kernel.replace(tables("calls", bots, [Ports(6, 3478, 3478)]))
    seen |= {"bot": reached("bot"), "service": reached("service")}
    seen["host to bot"] = json.loads(
        subprocess.run(
            [sys.executable, "-c", REACH, "172.30.0.3:80"], check=True, capture_output=True, text=True
        ).stdout
    )
    kernel.remove([(one.family, one.name) for one in tables("calls", bots, [])])
    seen["after"] = reached("bot")
    print(json.dumps(seen))
finally:
    for process in started:
        process.kill()
        process.wait()
    for name in (*NAMES.values(), "caller"):
        subprocess.run(["ip", "netns", "delete", f"{TAG}-{name}"], check=False)
"""


def in_a_namespace(code: str, *arguments: str) -> Any:
    """Run Python in a network namespace of its own; return the JSON that it prints."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a network namespace needs root on Linux")
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("there is no `ip` or `unshare`: install iproute2 and util-linux")
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_kernel_takes_the_tables_and_lets_them_go() -> None:
    before, first, after, second, again, refused, kept, gone = in_a_namespace(TABLES)
    assert before == gone == [False, False]
    assert after == again == [True, True]
    assert second == first + 1, "a change is one generation"
    assert "refuses NEWTABLE of inet" in refused
    assert kept == [True, True], "what is refused changes nothing"


def test_bots_reach_callers_and_services_alone() -> None:
    seen = in_a_namespace(PACKETS, f"sb{uuid.uuid4().hex[:8]}")
    host, metadata, service, other = "172.30.0.1", "169.254.169.254", "172.30.0.2", "172.30.0.4"
    everything = {
        *(f"{address}:80" for address in (host, metadata, "100.100.100.200", other, service)),
        *(f"{address}:53" for address in (host, metadata, other)),
        *(f"{host}:3478", "192.168.9.2:80", "192.168.9.1:80"),
    }
    assert set(seen["before"]) == set(seen["after"]) == everything
    # A caller in a private network, names, and the TURN server's port of the host.
    assert set(seen["bot"]) == {
        *("192.168.9.2:80", f"{service}:80", f"{host}:53", f"{metadata}:53", f"{host}:3478")
    }
    assert set(seen["service"]) == everything - {
        *(f"{metadata}:80", "100.100.100.200:80"),
        f"{service}:80",  # itself: its loopback is down
    }
    assert seen["host to bot"] == ["172.30.0.3:80"], "media that a caller on the host begins"
