"""The engine's request for a machine's container, complete, and its API version.

The request is one function of a few facts. The provider sends its result; the engine's proxy
(`dispatcher/engine_proxy/`) passes nothing that differs from it.

Variables that viewers of containers must not see are a file in a volume of the container's own. It is written
between the container's creation and start, and the bot reads and deletes it first.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bot.protocol import MACHINE_TOKEN_VARIABLE, TRACEPARENT_VARIABLE, VARIABLES_FILE_VARIABLE
from dispatcher.fields import ENVIRONMENT_PREFIX
from dispatcher.machines.deadline import command

PING = "_ping"
"""The only path without a version: it returns the newest version of the engine."""

HEADER = "Api-Version"
"""Header of the answer with that version."""

UNFILTERED = "the bots' network is not filtered"
"""The proxy's words where the stack's firewall does not keep it: no bot is started then."""

OLD, NEW = "v1.41", "v1.44"
"""API versions. The old one is that of Docker 20.10, which later engines up to 28 and Podman support. Docker
29 and later require at least the new one, which Docker has had since 25."""


def chosen(newest: str | None) -> str:
    """Return the version to use, given the engine's HEADER: two numbers, such as `1.52`."""
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", newest or "")
    if match is None:
        return OLD
    major, minor = map(int, NEW.removeprefix("v").split("."))
    return NEW if (int(match[1]), int(match[2])) >= (major, minor) else OLD


DIRECTORY, FILE = "/run/switchboard", "variables.json"
"""The volume's path in a container, and the file's name in it."""

IMAGE_LABEL = "switchboard.reads-variables-file"
"""Label with the value `true` on images whose bot reads the file; other images get all variables in
the open."""

LABEL = "switchboard.variables-file"
"""Label on containers that get a file. It differs from the image's label because containers inherit
that one."""

MOST_BYTES = 1024 * 1024
"""Limit on all variables of a machine: a kernel takes at most 2 MiB of them, and 128 KiB of each."""

AT_THE_START = re.compile(
    r"LD_(LIBRARY_PATH|PRELOAD|AUDIT|BIND_NOW|BIND_NOT|DEBUG|DEBUG_OUTPUT|DYNAMIC_WEAK|HWCAP_MASK|SHOW_AUXV)"
    r"|GLIBC_TUNABLES|MALLOC_(ARENA_(MAX|TEST)|CHECK_|MMAP_(MAX|THRESHOLD)_|PERTURB_|TOP_PAD_|TRIM_THRESHOLD_)"
    r"|PYTHON[A-Z0-9]+|PYTHON_(GIL|JIT|CPU_COUNT)|LC_[A-Z]+|LANG|LANGUAGE|TZ|PATH|HOME"
    r"|NVIDIA_(VISIBLE_DEVICES|DRIVER_CAPABILITIES|DISABLE_REQUIRE|REQUIRE_[A-Z]+)"
)
"""Variables that the loader (ld.so(8)), the C library (mallopt(3)), Python or a container's runtime read
before the bot could give them. They are shown, so each is here by its name: `LD_SDK_KEY` and `NVIDIA_API_KEY`
are secrets."""

_MEMBERS = 2
"""Members of the archive: the directory, and the file."""


def split(agents: Mapping[str, str], machines: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the visible variables, and the hidden ones.

    Args:
        agents: Those that the agent's `env` names.
        machines: Switchboard's own, of which only the token is secret.
    """
    hidden = {name: value for name, value in agents.items() if not AT_THE_START.fullmatch(name)}
    hidden |= {name: machines[name] for name in (MACHINE_TOKEN_VARIABLE,) if name in machines}
    shown = {name: value for name, value in {**agents, **machines}.items() if name not in hidden}
    return {**shown, VARIABLES_FILE_VARIABLE: f"{DIRECTORY}/{FILE}"}, hidden


def archive(variables: Mapping[str, str]) -> bytes:
    """Return the file as a tar archive, for the engine to unpack at `DIRECTORY`.

    Every user may read and delete it, because an image may run as any: nobody else is in the container.
    """
    packed = io.BytesIO()
    content = json.dumps(dict(variables), sort_keys=True).encode()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as files:
        directory = tarfile.TarInfo(".")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o777
        files.addfile(directory)
        file = tarfile.TarInfo(FILE)
        file.size, file.mode = len(content), 0o444
        files.addfile(file, io.BytesIO(content))
        end = files.offset + 2 * tarfile.BLOCKSIZE
    # Without the padding behind the archive's end: Podman's reader may be gone by then, and Podman fails.
    return packed.getvalue()[:end]


def content_of(packed: bytes) -> bytes:
    """Return the file's content from an archive as `archive` makes it.

    Raises:
        ValueError: the archive is of another form.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as files:
            members = [member for member, _ in zip(files, range(_MEMBERS + 1), strict=False)]
            if len(members) != _MEMBERS or members[1].name != FILE or not members[1].isreg():
                raise ValueError("its members are different")
            file = files.extractfile(members[1])
            return file.read(MOST_BYTES) if file is not None else b""
    except (tarfile.TarError, EOFError, OverflowError) as error:
        raise ValueError(str(error)) from error


DEPLOYMENT_LABEL = "switchboard.deployment"
MACHINE_LABEL = "switchboard.machine"
MEMORY_LABEL = "switchboard.memory-mb"

PIDS = 256
"""Limit on the processes and threads of one machine. A bot with Silero's model has some 30."""

TMP_MB = 64
"""Size of `/tmp`, which counts as the machine's memory.

A bot can also write to `/dev/shm` (64 MB by the engine's default, of the machine's memory too), and to a
`VOLUME` of its image, which is on the host's disk and has no limit.
"""

LOG_LIMITS = {"max-size": "10m", "max-file": "2"}

MODELS_TARGET = "/mnt/models"
"""The directory in which machines see the deployment's models."""

OWN_VARIABLES = frozenset({"HOME", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", TRACEPARENT_VARIABLE})
"""Variables that machines get besides those that their agents name, and those that only the runtime reads."""

ASK_THE_ENGINE = "host-gateway"
"""The engine's own name for the host's address. An engine that kept its containers through a restart
(`live-restore`) no longer knows it, and writes `<nil>` into the hosts file of each new one."""

HOST_NAME = "host.docker.internal"
"""Name of the host, for a dispatcher that runs beside the engine and not in a container."""


@dataclass(frozen=True)
class Place:
    """Facts that all containers of a deployment share."""

    deployment: str
    network: str
    models: str = ""
    """A volume's name, or a directory of the host."""

    def name(self, machine_id: str) -> str:
        return f"{self.deployment}-{machine_id}"


@dataclass(frozen=True)
class Facts:
    """Facts that differ between containers."""

    machine_id: str
    image: str
    nano_cpus: int
    memory_mb: int
    seconds: int
    """Longest life of the container."""
    arguments: tuple[str, ...]
    environment: tuple[str, ...]
    """Variables, each as `NAME=value`."""
    has_file: bool = False
    """True if further variables are handed over in a file."""
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
    """Return True if a variable of this name is Switchboard's, and not an agent's."""
    return variable in OWN_VARIABLES or variable.startswith(ENVIRONMENT_PREFIX)


def body(place: Place, facts: Facts) -> dict[str, Any]:
    """Return the JSON body of `POST /containers/create`."""
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
        # An init process: reaps orphaned processes, and forwards signals.
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
