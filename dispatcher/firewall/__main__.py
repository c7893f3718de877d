"""`python -m dispatcher.firewall serve` keeps rules; `check` and `remove` ask the one that serves."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from pathlib import Path

from dispatcher.firewall import messages
from dispatcher.firewall.expressions import Family
from dispatcher.firewall.netlink import Nftables
from dispatcher.firewall.ruleset import TCP, UDP, Ports
from dispatcher.firewall.server import Firewall, ask, serve

PROTOCOLS = {"tcp": TCP, "udp": UDP}
REACHED = re.compile(r"(?P<protocol>tcp|udp):(?P<first>\d{1,5})(-(?P<last>\d{1,5}))?")


def ports(text: str) -> Ports:
    """Read `udp:3478` or `udp:49160-49223`."""
    match = REACHED.fullmatch(text)
    found = match and Ports(
        PROTOCOLS[match["protocol"]], int(match["first"]), int(match["last"] or match["first"])
    )
    if not found or not 0 < found.first <= found.last < 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is refused; allowed: tcp:PORT, udp:PORT, udp:FIRST-LAST")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dispatcher.firewall", description=__doc__)
    parser.add_argument("task", choices=("serve", "check", "remove"))
    parser.add_argument("--socket", type=Path, required=True, help="where requests are taken")
    parser.add_argument("--table", help="the name of the tables")
    parser.add_argument(
        "--reach", type=ports, action="append", default=[], help="with serve: ports of the host's for bots"
    )
    given = parser.parse_args(arguments)
    if given.task == "serve":
        if not given.table:
            parser.error("serve needs --table")
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        serve(Firewall(Nftables(), given.table, given.reach), given.socket)
        return 0
    try:
        error = ask(given.socket, messages.plain(given.task))
    except (OSError, ValueError) as failure:
        error = f"the firewall does not answer at {given.socket}: {failure}"
        if given.task == "remove" and given.table:
            # Nobody makes them anew.
            Nftables().remove([(family, given.table) for family in Family])
            return 0
    if error:
        print(f"firewall: {error}", file=sys.stderr)
    return bool(error)


if __name__ == "__main__":
    sys.exit(main())
