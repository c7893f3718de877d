"""Credentials for TURN servers: their form, and that a real server takes them and no others."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import pytest
from aioice import stun

from dispatcher.clock import SystemClock
from dispatcher.settings import IceServer
from dispatcher.transports.transport import Wanted
from dispatcher.transports.turn import Turn
from dispatcher.transports.webrtc import WebRTC
from tests.dispatcher.harness import START_OF_TIME, ManualClock
from tests.ports import free_port
from tests.turn_server import coturn, relay

SECRET = "a secret that two servers share"
URLS = ("turn:turn.example:3478?transport=udp",)


def test_a_user_name_says_until_when_and_for_which_session() -> None:
    clock = ManualClock()
    server = Turn(URLS, SECRET, 3600, clock).server("session-1")
    assert server["urls"] == list(URLS)
    assert server["username"] == f"{START_OF_TIME + 3600:.0f}:session-1"
    digest = hmac.new(SECRET.encode(), server["username"].encode(), hashlib.sha1).digest()
    assert base64.b64decode(server["credential"]) == digest


async def test_the_bot_and_its_client_get_the_sessions_own() -> None:
    clock = ManualClock()
    static = IceServer(urls=("stun:stun.example",))
    transport = WebRTC((static,), Turn(URLS, SECRET, 3600, clock))
    opened = await transport.prepare("session-1", Wanted(), 0, 0)
    servers = opened.client["iceConfig"]["iceServers"]
    assert servers == list(opened.ice_servers)
    assert [server["urls"] for server in servers] == [["stun:stun.example"], list(URLS)]
    other = await transport.prepare("session-2", Wanted(), 0, 0)
    assert other.ice_servers[1]["credential"] != servers[1]["credential"]


async def test_a_real_server_takes_what_we_mint_and_nothing_else(tmp_path: Path) -> None:
    port = free_port()
    configuration = [
        *("use-auth-secret", f"static-auth-secret={SECRET}", "realm=test", "no-tls", "no-dtls", "no-cli"),
        *("listening-ip=127.0.0.1", "relay-ip=127.0.0.1", f"listening-port={port}", "log-file=stdout"),
        *(f"pidfile={tmp_path / 'pid'}", f"userdb={tmp_path / 'db'}"),
    ]

    def minted(secret: str, lifetime: float) -> tuple[str, str]:
        server = Turn(URLS, secret, lifetime, SystemClock()).server("session-1")
        return server["username"], server["credential"]

    with coturn(tmp_path, port, configuration):
        transport = await relay(port, *minted(SECRET, 60))
        host, _ = transport.get_extra_info("sockname")
        assert host == "127.0.0.1"
        transport.close()
        for username, credential in (minted("another secret", 60), minted(SECRET, -60)):
            with pytest.raises(stun.TransactionFailed) as caught:
                await relay(port, username, credential)
            assert caught.value.response.attributes["ERROR-CODE"][0] == 401
