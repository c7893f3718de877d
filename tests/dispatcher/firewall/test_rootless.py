"""The firewall at engines without root: it closes Docker's networks, and says so where it cannot (Podman)."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.rootless import Rootless

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

CHECKOUT = Path(__file__).resolve().parents[3]
NETWORK, TAG = "bots", "localhost/firewall:1"

ASK = """
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=4).status)
except OSError as error:
    print("closed")
"""


@pytest.fixture
def image(rootless: Rootless, tmp_path: Path) -> str:
    """An image with the firewall, at an engine that has a network for bots."""
    (tmp_path / "dispatcher").mkdir()
    shutil.copy(CHECKOUT / "dispatcher" / "__init__.py", tmp_path / "dispatcher")
    shutil.copytree(CHECKOUT / "dispatcher" / "firewall", tmp_path / "dispatcher" / "firewall")
    shutil.copy(Path(__file__).with_name("rootless_firewall.py"), tmp_path / "keep.py")
    (tmp_path / "Dockerfile").write_text(f"FROM {rootless.base}\nCOPY . /x\nENV PYTHONPATH=/x\nWORKDIR /x\n")
    rootless.docker("build", "--tag", TAG, str(tmp_path))
    return TAG


def answer_of(rootless: Rootless, container: str) -> str:
    deadline = time.monotonic() + PATIENCE
    while True:
        said = [line for line in rootless.docker("logs", container).splitlines() if line.startswith("ANSWER")]
        if said:
            return said[0].removeprefix("ANSWER").strip()
        assert time.monotonic() < deadline, "an answer of the firewall"
        time.sleep(0.1)


def test_bots_do_not_reach_each_other(rootless: Rootless, image: str) -> None:
    rootless.docker("network", "create", NETWORK)
    (network,) = json.loads(rootless.docker("network", "inspect", NETWORK))
    subnet = network["IPAM"]["Config"][0]["Subnet"]
    serving = ("python3", "-m", "http.server", "8000")
    other = rootless.docker("run", "--detach", "--network", NETWORK, image, *serving)
    (found,) = json.loads(rootless.docker("inspect", other))
    url = f"http://{found['NetworkSettings']['Networks'][NETWORK]['IPAddress']}:8000/"

    def reached() -> str:
        return rootless.docker("run", "--rm", "--network", NETWORK, image, "python3", "-c", ASK, url)

    deadline = time.monotonic() + PATIENCE
    while reached() != "200":
        assert time.monotonic() < deadline, "a bot that is reached without rules"
    # As the stack runs it.
    options = ("--network", "host", "--user", "0:0", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN")
    command = ("python3", "keep.py", f"br-{network['Id'][:12]}", subnet)
    firewall = rootless.docker("run", "--detach", *options, image, *command)
    answer = answer_of(rootless, firewall)
    if rootless.kind == "docker":
        assert (answer, reached()) == ("", "closed")
    else:
        # Its bridges are in a network namespace of their own, which no container shares.
        assert "is not in the network that this container shares: is the engine rootless" in answer
