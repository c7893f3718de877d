"""Rules in the kernel: tables in a network namespace of the test's own, and packets of bots through them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE

ROOT = Path(__file__).parents[3]


def in_a_namespace(module: str, *arguments: str) -> Any:
    """Run a module in a network namespace of its own; return the JSON that it prints."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a network namespace needs root on Linux")
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("there is no `ip` or `unshare`: install iproute2 and util-linux")
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", f"tests.dispatcher.firewall.{module}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_kernel_takes_the_tables_and_lets_them_go() -> None:
    seen = in_a_namespace("tables")
    assert seen["before"] == seen["after"] == [False, False]
    assert seen["made"] == seen["made again"] == [True, True]
    assert seen["generations"] == 1, "a change is one generation"
    assert "refuses NEWTABLE of inet" in seen["refused"]
    assert seen["kept"] == [True, True], "what is refused changes nothing"


def test_own_tables_are_told_from_changed_ones() -> None:
    matches = in_a_namespace("tables")["matches"]
    assert matches.pop("others' table")
    mended = {name: found for name, found in matches.items() if name.endswith(", mended")}
    assert len(mended) == 6
    assert all(mended.values()), mended
    assert not any(found for name, found in matches.items() if name not in mended), matches


def test_bots_reach_callers_and_services_alone() -> None:
    seen = in_a_namespace("packets", f"sb{uuid.uuid4().hex[:8]}")
    host, metadata, service, other = "172.30.0.1", "169.254.169.254", "172.30.0.2", "172.30.0.4"
    everything = {
        *(f"{address}:80" for address in (host, metadata, "100.100.100.200", other, service)),
        *(f"{address}:53" for address in (host, metadata, other)),
        *(f"{host}:3478", "192.168.9.2:80", "192.168.9.1:80"),
        *("fd01::1:80", "fd01::2:80", "fd01::4:80", "fe80::2%eth0:80", "fe80::4%eth0:80"),
    }
    link_local = {"fe80::2%eth0:80", "fe80::4%eth0:80"}
    assert set(seen["before"]) == set(seen["after"]) == everything
    # A caller in a private network, names, and the TURN server's port of the host.
    bot = {*("192.168.9.2:80", f"{service}:80", "fd01::2:80", f"{host}:53", f"{metadata}:53", f"{host}:3478")}
    assert set(seen["bot"]) == bot | link_local, "by addresses, link-local ones cannot be told"
    assert set(seen["bot of a named bridge"]) == bot
    of_service = everything - {f"{metadata}:80", "100.100.100.200:80"}
    assert set(seen["service"]) == of_service
    assert set(seen["service of a named bridge"]) == of_service - {"fe80::4%eth0:80"}
    assert seen["host to bot"] == ["172.30.0.3:80"], "media that a caller on the host begins"

    assert seen["spoofed before"] == ["host", "other"]
    assert seen["spoofed"] == seen["spoofed on a named bridge"] == [], "by its hardware a bot is no service"
    assert seen["service's"] == ["host", "other"]

    assert seen["kept"] == [f"{host}:53", f"{service}:80", "192.168.9.2:80"], "opened without rules"
    assert seen["kept by the host"] == ["172.30.0.3:80"]
