"""Start-up of a bot's VM: cloud-init's user data, with the unit, its script, and what differs between agents.

The VM runs one container and powers itself off when that exits. Google deletes it at the deadline that the
dispatcher gave it (`maxRunDuration`), unless it is off by then; the dispatcher deletes one that is off.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

FILES = Path(__file__).with_name("vm")

METADATA = "http://169.254.169.254/computeMetadata/v1/instance"
SECRETS = "https://secretmanager.googleapis.com/v1"

DIRECTORY = "/etc/switchboard"
UNIT = "switchboard-bot.service"
UNIT_PATH = f"/etc/systemd/system/{UNIT}"

USER_ID = 10001
"""User of the bot's container, as `images/bot.Dockerfile` has it."""

PIDS = 512
"""Limit on the processes and threads of a bot. One with Silero's model has some 30."""

LOG = (
    "--log-driver gcplogs --log-opt mode=non-blocking --log-opt max-buffer-size=4m --log-opt labels=agent,vm"
)
"""Docker's own driver for Cloud Logging: no agent takes memory, and a log that is slow holds up no bot."""


@dataclass(frozen=True)
class StartUp:
    """What a VM is told of its bot."""

    agent: str
    image: str
    """Reference with the digest."""
    registry: str
    """Host name of the registry, where it wants the VM's service account; empty: it is public."""
    secret: str
    """Version in Secret Manager with the agent's variables, as a JSON object; empty: none."""
    memory_mb: int
    udp_ports: tuple[int, int] | None
    """Ports at which callers reach the bot; its container is in the VM's own network then."""


def settings(start: StartUp) -> dict[str, str]:
    """Return the script's variables."""
    first, last = start.udp_ports or (0, 0)
    return {
        "AGENT": start.agent,
        "IMAGE": start.image,
        "LOG": LOG,
        "MEMORY_MB": str(start.memory_mb),
        "METADATA": METADATA,
        "NETWORK": "host" if start.udp_ports else "bridge",
        "PIDS": str(PIDS),
        "REGISTRY": start.registry,
        "RUN": "/run/switchboard",
        "SECRET": start.secret,
        "SECRETS": SECRETS,
        "START": f"{DIRECTORY}/start.py",
        "UDP_PORTS": f"{first}:{last}" if start.udp_ports else "",
        "USER_ID": str(USER_ID),
    }


def as_shell(variables: Mapping[str, str]) -> str:
    """Return variables as lines that a POSIX shell reads with `.`, any text as it is."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in sorted(variables.items()))


def user_data(start: StartUp) -> str:
    """Return the VM's cloud-init user data."""
    files = {
        UNIT_PATH: (FILES / UNIT).read_text(),
        f"{DIRECTORY}/bot.sh": (FILES / "bot.sh").read_text(),
        f"{DIRECTORY}/start.py": (FILES / "start.py").read_text(),
        f"{DIRECTORY}/settings": as_shell(settings(start)),
    }
    document = {
        "write_files": [
            {"path": path, "owner": "root:root", "permissions": "0644", "content": content}
            for path, content in files.items()
        ],
        "runcmd": [
            ["systemctl", "daemon-reload"],
            ["systemctl", "start", "--no-block", UNIT],
        ],
    }
    return f"#cloud-config\n{yaml.safe_dump(document, sort_keys=False, width=1000)}"
