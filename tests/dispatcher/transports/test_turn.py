"""Credentials for TURN servers: their form, and that a real server takes them and no others."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aioice import stun, turn

from dispatcher.clock import SystemClock
from dispatcher.settings import IceServer
from dispatcher.transports.transport import Wanted
from dispatcher.transports.turn import Turn
from dispatcher.transports.webrtc import WebRTC
from tests.dispatcher.harness import START_OF_TIME, ManualClock
from tests.ports import free_port

SECRET = "a secret that two servers share"
URLS = ("turn:turn.example:3478?transport=udp",)


def test_a_user_name_says_until_when_and_for_which_session() -> None:
    clock = ManualClock()
    server = Turn(URLS, SECRET, 3600, clock).server("session-1")
    assert server["urls"] == list(URLS)
    assert server["username"] == f"{START_OF_TIME + 3600:.0f}:session-1"
    digest = hmac.new(SECRET.encode(), server["username"].encode(), hashlib.sha1).digest()
    assert base64.b64decode(server["credential"]) == digest


def test_the_bot_and_its_client_get_the_sessions_own() -> None:
    clock = ManualClock()
    static = IceServer(urls=("stun:stun.example",))
    transport = WebRTC((static,), Turn(URLS, SECRET, 3600, clock))
    opened = asyncio.run(transport.open("session-1", Wanted()))
    servers = opened.client["iceConfig"]["iceServers"]
    assert servers == list(opened.ice_servers)
    assert [server["urls"] for server in servers] == [["stun:stun.example"], list(URLS)]
    other = asyncio.run(transport.open("session-2", Wanted())).ice_servers[1]
    assert other["credential"] != servers[1]["credential"]


@pytest.fixture
def coturn(tmp_path: Path) -> Iterator[int]:
    """A real coturn on a port of this machine; skipped where there is none."""
    program = shutil.which("turnserver")
    if program is None:
        pytest.skip("there is no `turnserver`: install the package coturn")
    port = free_port()
    config = tmp_path / "turnserver.conf"
    config.write_text(
        "\n".join(
            [
                *("use-auth-secret", f"static-auth-secret={SECRET}", "realm=test", "listening-ip=127.0.0.1"),
                *(
                    "relay-ip=127.0.0.1",
                    f"listening-port={port}",
                    "no-tls",
                    "no-dtls",
                    "no-cli",
                    "fingerprint",
                ),
                *(f"pidfile={tmp_path / 'pid'}", f"userdb={tmp_path / 'db'}", "log-file=stdout"),
                "allow-loopback-peers",
            ]
        )
    )
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 15
        while not _listens(port):
            said = (tmp_path / "log").read_text(errors="replace")
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def relay(port: int, username: str, credential: str) -> tuple[str, int]:
    """Ask the server for a relay; gives its address."""
    transport, _ = await turn.create_turn_endpoint(
        asyncio.DatagramProtocol,
        server_addr=("127.0.0.1", port),
        username=username,
        password=credential,
    )
    address = transport.get_extra_info("sockname")
    transport.close()
    # It gives the relay back before it is gone.
    await asyncio.sleep(0.1)
    return address


def test_a_real_server_takes_what_we_mint_and_nothing_else(coturn: int) -> None:
    def minted(secret: str, lifetime: float) -> tuple[str, str]:
        server = Turn(URLS, secret, lifetime, SystemClock()).server("session-1")
        return server["username"], server["credential"]

    async def run() -> None:
        host, port = await relay(coturn, *minted(SECRET, 60))
        assert host == "127.0.0.1"
        assert port != coturn
        for username, credential in (
            minted("another secret", 60),
            minted(SECRET, -60),
        ):
            with pytest.raises(stun.TransactionFailed) as caught:
                await relay(coturn, username, credential)
            assert caught.value.response.attributes["ERROR-CODE"][0] == 401

    asyncio.run(run())
