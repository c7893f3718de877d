"""coturn with the configuration that the `docker` stack gives it: who gets a relay, and where it leads."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from aioice import stun, turn

from dispatcher.clock import SystemClock
from dispatcher.transports.turn import Turn
from stacks.docker.turn import RELAYS_OF_A_USER, START, configuration_of
from tests.ports import free_port
from tests.turn_server import coturn, relay

HOST = "198.51.100.1"
SECRET = "a secret that two services share"
FORBIDDEN_ADDRESS = 403
PRIVATE = ("127.0.0.1", "0.0.0.0", "10.1.2.3", "172.21.0.9", "192.168.1.1", "169.254.169.254", "100.64.0.1")


def configuration(
    port: int, tmp_path: Path, bots: tuple[tuple[str, str], ...], ports: tuple[int, int] = (49160, 49223)
) -> list[str]:
    """The stack's, on loopback and with its files in a place of the test's own."""
    made = configuration_of(realm="test", address=HOST, ports=ports, bots=bots, listening_port=port)
    lines = [line for line in made.split("\n") if not line.startswith(("pidfile=", "userdb="))]
    return [
        *lines,
        *(f"static-auth-secret={SECRET}", "listening-ip=127.0.0.1", "relay-ip=127.0.0.1"),
        *(f"pidfile={tmp_path / 'pid'}", f"userdb={tmp_path / 'db'}"),
    ]


def credential(session_id: str = "session-1") -> tuple[str, str]:
    server = Turn(("turn:turn.example",), SECRET, 60, SystemClock()).server(session_id)
    return server["username"], server["credential"]


async def reaches(transport: turn.TurnTransport, address: str) -> bool:
    """True if the server lets the relay send there."""
    protocol = transport._TurnTransport__inner_protocol  # type: ignore[attr-defined]
    request = stun.Message(message_method=stun.Method.CREATE_PERMISSION, message_class=stun.Class.REQUEST)
    request.attributes["XOR-PEER-ADDRESS"] = (address, 40000)
    try:
        await protocol.request_with_retry(request)
    except stun.TransactionFailed as error:
        if error.response.attributes["ERROR-CODE"][0] != FORBIDDEN_ADDRESS:
            raise
        return False
    return True


async def test_relays_lead_to_bots_and_to_the_internet_and_nowhere_else(tmp_path: Path) -> None:
    port = free_port()
    # Where Docker has said nothing of a gateway, it is the first address.
    bots = (("172.20.0.0/16", ""), ("172.22.0.0/24", "172.22.0.5"))

    with coturn(tmp_path, port, configuration(port, tmp_path, bots)):
        transport = await relay(port, *credential())
        _, number = transport.get_extra_info("sockname")
        assert 49160 <= number <= 49223
        for bot in ("172.20.0.9", "172.20.0.2", "172.22.0.1", "172.22.0.9"):
            assert await reaches(transport, bot), bot
        for host in ("172.20.0.1", "172.22.0.5", HOST):
            assert not await reaches(transport, host), f"the host, by its address {host}"
        assert await reaches(transport, "198.51.100.7"), "somebody in the internet"
        for private in PRIVATE:
            assert not await reaches(transport, private), private
        transport.close()


async def test_a_session_has_so_many_relays_and_no_more(tmp_path: Path) -> None:
    port = free_port()

    with coturn(tmp_path, port, configuration(port, tmp_path, ())):
        held = [await relay(port, *credential()) for _ in range(RELAYS_OF_A_USER)]
        with pytest.raises(stun.TransactionFailed) as caught:
            await relay(port, *credential())
        assert caught.value.response.attributes["ERROR-CODE"][0] == 486
        held.append(await relay(port, *credential("session-2")))
        for transport in held:
            transport.close()


async def test_all_sessions_together_have_as_many_relays_as_there_are_ports(tmp_path: Path) -> None:
    port = free_port()

    with coturn(tmp_path, port, configuration(port, tmp_path, (), ports=(49224, 49225))):
        held = [await relay(port, *credential(f"session-{number}")) for number in range(2)]
        with pytest.raises(stun.TransactionFailed) as caught:
            await relay(port, *credential("session-2"))
        assert caught.value.response.attributes["ERROR-CODE"][0] == 486
        for transport in held:
            transport.close()


def test_the_secret_reaches_the_server_by_a_file_and_nothing_else(tmp_path: Path) -> None:
    program = tmp_path / "turnserver"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$*"; env; echo; cat "$2"; ls -l "$2"\n')
    program.chmod(0o755)
    script = START.replace("/tmp/", f"{tmp_path}/")
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "TURN_CONFIG": "realm=test\nuse-auth-secret",
        "TURN_SECRET": SECRET,
    }
    said = subprocess.run(
        ["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout
    arguments_and_environment, _, file = said.partition("\n\n")
    assert SECRET not in arguments_and_environment
    assert file.startswith(f"realm=test\nuse-auth-secret\nstatic-auth-secret={SECRET}\n-rw-------")
