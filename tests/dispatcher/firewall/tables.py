"""Tables in the kernel, in a network namespace of the test's own: prints what was seen."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import replace
from typing import Any

from dispatcher.firewall.expressions import Family, Table
from dispatcher.firewall.messages import MOST_SERVICES
from dispatcher.firewall.netlink import Nftables, Refused
from dispatcher.firewall.ruleset import UDP, Bots, Ports, Service, tables


def most() -> tuple[Table, Table]:
    """Tables of the largest network."""
    subnets = ipaddress.IPv4Network("172.30.0.0/16"), ipaddress.IPv6Network("fd01::/64")
    fourth = subnets[0].hosts()
    hardware = b"\x02\0\0\0\0"
    services = [
        Service(ipaddress.ip_network(next(fourth)), hardware + bytes([number]))
        for number in range(MOST_SERVICES - 1)
    ]
    services.append(Service(ipaddress.ip_network("fd01::2"), hardware + b"\xff"))
    bots = Bots("br-1", subnets, tuple(services))
    return tables("calls", bots, [Ports(UDP, 49160, 49223)], named=False)


def changed(table: Table) -> dict[str, Table]:
    """A table as others may have changed it."""
    first, second = table.chains

    def with_rules(*rules: Any) -> Table:
        return replace(table, chains=(replace(first, rules=rules), second))

    return {
        "a rule less": with_rules(*first.rules[:-1]),
        "a rule more": with_rules(first.rules[1], *first.rules),
        "another order": with_rules(*first.rules[::-1]),
        "an expression more": with_rules(*first.rules[:-1], (first.rules[1][0], *first.rules[-1])),
        "another priority": replace(table, chains=(replace(first, priority=10), second)),
        "a chain less": replace(table, chains=(second,)),
    }


def main() -> None:
    kernel, wanted = Nftables(), most()
    inet, bridge = wanted
    names = [(one.family, one.name) for one in wanted]

    def has() -> list[bool]:
        return [kernel.has(*name) for name in names]

    seen: dict[str, Any] = {"before": has()}
    number = kernel.generation()
    kernel.replace(wanted)
    seen |= {"made": has(), "generations": kernel.generation() - number}
    kernel.replace(wanted)
    seen |= {"made again": has()}
    try:
        kernel.replace([Table(Family.INET, "calls", ()), Table(Family.INET, "x" * 300, ())])
    except Refused as error:
        seen |= {"refused": str(error)}
    seen |= {"kept": has()}
    theirs = replace(inet, name="theirs")
    kernel.replace([theirs])
    seen |= {"matches": {"others' table": kernel.matches(wanted)}}
    for name, table in changed(inet).items():
        kernel.replace([table])
        seen["matches"][name] = kernel.matches(wanted)
        kernel.replace(wanted)
        seen["matches"][f"{name}, mended"] = kernel.matches(wanted)
    kernel.remove([(bridge.family, "calls")])
    seen["matches"]["a table less"] = kernel.matches(wanted)
    kernel.remove(names)
    kernel.remove([*names, (theirs.family, "theirs")])
    print(json.dumps({**seen, "after": has()}))


if __name__ == "__main__":
    main()
