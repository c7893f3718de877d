"""The engine's request for a machine's container, down to the last member.

It is one function of a few facts. The provider sends what it gives; the engine's proxy
(`dispatcher/engine_proxy/`) lets nothing through that it would not give.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bot.protocol import TRACEPARENT_VARIABLE
from dispatcher.machines.container_host import ASK_THE_ENGINE
from dispatcher.machines.container_variables import DIRECTORY, LABEL
from dispatcher.machines.deadline import command
from dispatcher.settings import ENVIRONMENT_PREFIX

DEPLOYMENT_LABEL = "switchboard.deployment"
MACHINE_LABEL = "switchboard.machine"
MEMORY_LABEL = "switchboard.memory-mb"

PIDS = 256
"""Processes and threads of one machine. A bot with Silero's model has some 30."""

TMP_MB = 64
"""Size of `/tmp`. It counts as the machine's memory. A bot can write there, in `/dev/shm` (64 MB as the
engine makes it, of the machine's memory too), and where its image has a `VOLUME`: that one is on the host's
disk and has no limit."""

LOG_LIMITS = {"max-size": "10m", "max-file": "2"}

MODELS_TARGET = "/mnt/models"
"""The directory in which machines see the deployment's models."""

OWN_VARIABLES = frozenset({"HOME", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", TRACEPARENT_VARIABLE})
"""Variables that machines get beside what their agents name, and beside names that only our runtime reads."""

HOST_NAME = "host.docker.internal"
"""A name for the host, for a dispatcher that runs beside the engine and not in a container."""


@dataclass(frozen=True)
class Place:
    """The common part of all containers of a deployment."""

    deployment: str
    network: str
    models: str = ""
    """A volume's name, or a directory of the host."""

    def name(self, machine_id: str) -> str:
        return f"{self.deployment}-{machine_id}"


@dataclass(frozen=True)
class Facts:
    """The part that tells one container from another."""

    machine_id: str
    image: str
    nano_cpus: int
    memory_mb: int
    seconds: int
    """From its start to its end at the latest."""
    arguments: tuple[str, ...]
    environment: tuple[str, ...]
    """Variables, each as `NAME=value`."""
    has_file: bool = False
    """True if more variables are handed over in a file."""
    host: str = ASK_THE_ENGINE
    """The address of the dispatcher's host."""


def machine_id_of(place: Place, names: Iterable[str] | None, labels: Mapping[str, str] | None) -> str:
    """Return the id of this deployment's machine; empty for any other container.

    Docker shows names with a slash before them, Podman without.
    """
    labels = labels or {}
    machine_id = labels.get(MACHINE_LABEL, "")
    ours = labels.get(DEPLOYMENT_LABEL) == place.deployment
    named = place.name(machine_id) in {name.lstrip("/") for name in names or ()}
    return machine_id if ours and named else ""


def is_own(variable: str) -> bool:
    """Return True if a variable of this name is ours, and not an agent's."""
    return variable in OWN_VARIABLES or variable.startswith(ENVIRONMENT_PREFIX)


def body(place: Place, facts: Facts) -> dict[str, Any]:
    """The JSON body of `POST /containers/create`."""
    memory = facts.memory_mb * 2**20
    host: dict[str, Any] = {
        "NetworkMode": place.network,
        "ExtraHosts": [f"{HOST_NAME}:{facts.host}"],
        "NanoCpus": facts.nano_cpus,
        "Memory": memory,
        "MemorySwap": memory,
        "PidsLimit": PIDS,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": True,
        "Tmpfs": {"/tmp": f"rw,nosuid,nodev,size={TMP_MB}m,mode=1777"},  # noqa: S108 - its own
        "LogConfig": {"Type": "json-file", "Config": LOG_LIMITS},
        "RestartPolicy": {"Name": "no"},
        # Reaps what the bot leaves behind, and passes signals on.
        "Init": True,
    }
    if place.models:
        kind = "bind" if place.models.startswith("/") else "volume"
        mount = {"Type": kind, "Source": place.models, "Target": MODELS_TARGET, "ReadOnly": True}
        host["Mounts"] = [mount]
    handed_over: dict[str, Any] = {"Volumes": {DIRECTORY: {}}} if facts.has_file else {}
    return {
        "Image": facts.image,
        "Entrypoint": command(facts.seconds),
        "Cmd": list(facts.arguments),
        "Env": list(facts.environment),
        "Labels": {
            DEPLOYMENT_LABEL: place.deployment,
            MACHINE_LABEL: facts.machine_id,
            MEMORY_LABEL: str(facts.memory_mb),
            **({LABEL: "true"} if facts.has_file else {}),
        },
        **handed_over,
        "HostConfig": host,
    }
