"""Runs in the container of the firewall in `test_rootless.py`: keeps the rules of one network until it ends.

Arguments: the bridge, and its subnet. Prints the firewall's answer in one line.
"""

import sys
import threading
import time
from pathlib import Path

from dispatcher.firewall import messages
from dispatcher.firewall.netlink import Nftables
from dispatcher.firewall.server import Firewall, ask, serve

SOCKET = Path("/tmp/firewall.sock")

serving = threading.Thread(
    target=serve, args=(Firewall(Nftables(), "switchboard-test", []), SOCKET), daemon=True
)
serving.start()
while not SOCKET.exists():
    time.sleep(0.05)
bridge, subnet = sys.argv[1:]
print("ANSWER", ask(SOCKET, messages.hold(bridge, [subnet], [])), flush=True)
serving.join()
