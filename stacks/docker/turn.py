"""The TURN server: coturn, which relays the calls of clients whose network lets nothing else through.

Clients come in from the internet; bots are in its own network, where it reaches them without another relay.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

from stacks.docker.config import TURN_PORT
from stacks.docker.containers import Service, lines, run
from stacks.docker.environment import Variables
from stacks.docker.network import around_gateway

# With the secret kept out of arguments and of the program's environment.
START = (
    "umask 077 && { printf '%s\\n' \"$TURN_CONFIG\"; printf 'static-auth-secret=%s\\n' \"$TURN_SECRET\"; } "
    "> /tmp/turnserver.conf && exec env -u TURN_SECRET -u TURN_CONFIG turnserver -c /tmp/turnserver.conf"
)

RELAYS_OF_A_USER = 4
"""For one session's credential: its client's and the bot's, each anew after a change of network."""

RELAY_BYTES_PER_SECOND = 500_000
"""Each way. 4 Mbit/s is a video call's; of sound, Opus at its most is an eighth of it (RFC 6716)."""

# Nobody may use it as a way into the host's networks (RFC 6890).
DENIED = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3", "::/8", "fc00::/7", "fe80::/10"),
)


@dataclass(frozen=True)
class TurnArgs:
    prefix: str
    image: str
    realm: str
    address: str
    """The engine's host's in the internet."""
    ports: tuple[int, int]
    secret: pulumi.Output[str]
    network: docker.Network
    """The machines'."""
    tags: Mapping[str, str]


class Turn(pulumi.ComponentResource):
    """coturn, with credentials that the dispatcher mints."""

    container: docker.Container

    def __init__(self, name: str, args: TurnArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:docker:Turn", name, None, opts)
        first, last = args.ports
        configuration = args.network.ipam_configs.apply(
            lambda configs: configuration_of(
                realm=args.realm,
                address=args.address,
                ports=args.ports,
                bots=tuple((one.subnet, one.gateway or "") for one in configs or () if one.subnet),
            )
        )
        listening = [
            docker.ContainerPortArgs(internal=TURN_PORT, external=TURN_PORT, protocol=protocol)
            for protocol in ("udp", "tcp")
        ]
        relays = [
            docker.ContainerPortArgs(internal=port, external=port, protocol="udp")
            for port in range(first, last + 1)
        ]
        variables = {"TURN_CONFIG": configuration, "TURN_SECRET": args.secret}
        Variables("turn-variables", values=variables, opts=pulumi.ResourceOptions(parent=self))
        service = Service(
            name=f"{args.prefix}-turn",
            image=args.image,
            entrypoint=["/bin/sh", "-c", START],
            environment=lines(variables),
            networks=[(args.network, "turn")],
            ports=[*listening, *relays],
            # Its file asks for this one; without it the kernel does not start the program.
            capabilities=["NET_BIND_SERVICE"],
            memory_mb=256,
            tags=args.tags,
        )
        self.container = run("turn", service, pulumi.ResourceOptions(parent=self))
        self.register_outputs({})


def configuration_of(
    realm: str,
    address: str,
    ports: tuple[int, int],
    bots: tuple[tuple[str, str], ...],
    listening_port: int = TURN_PORT,
) -> str:
    """turnserver.conf without the secret.

    Args:
        bots: Subnets that may be reached though they are private, each with its gateway, or "" for its first
            address. The gateway is the host, with all that listens there, and may not be reached.
    """
    return "\n".join(
        [
            *(f"listening-port={listening_port}", f"realm={realm}", f"external-ip={address}"),
            *(f"min-port={ports[0]}", f"max-port={ports[1]}"),
            *("use-auth-secret", "stale-nonce=600", f"user-quota={RELAYS_OF_A_USER}"),
            *(f"total-quota={ports[1] - ports[0] + 1}", f"max-bps={RELAY_BYTES_PER_SECOND}"),
            *("no-tls", "no-dtls", "no-cli", "no-tcp-relay", "no-multicast-peers", "no-software-attribute"),
            *("log-file=stdout", "simple-log", "pidfile=/tmp/turnserver.pid", "userdb=/tmp/turndb"),
            *(f"denied-peer-ip={_range(network)}" for network in DENIED),
            # The host once more, by its other address.
            f"denied-peer-ip={address}-{address}",
            # They go before all that is denied: what may not be reached must be left out of them.
            *(f"allowed-peer-ip={part}" for bot in bots for part in _around_gateway(*bot)),
        ]
    )


def _around_gateway(subnet: str, gateway: str) -> Iterator[str]:
    """The addresses of a subnet that its containers may have, as ranges."""
    return (f"{first}-{last}" for first, last in around_gateway(subnet, gateway))


def _range(network: str) -> str:
    addresses = ipaddress.ip_network(network)
    # coturn takes a range that begins with :: for one without a beginning, with every IPv4 address in it.
    first = addresses[1] if addresses[0] == ipaddress.IPv6Address(0) else addresses[0]
    return f"{first}-{addresses[-1]}"
