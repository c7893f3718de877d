"""The engine's request for a machine's container, down to the last member, and the version it is asked in.

The request is one function of a few facts. The provider sends what it gives; the engine's proxy
(`dispatcher/engine_proxy/`) lets nothing through that it would not give.

Variables that nobody is to see who may look at containers are a file in a volume of the container's own. It
is written between its creation and its start, and the bot reads and deletes it before anything else.
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
from dispatcher.machines.deadline import command
from dispatcher.settings import ENVIRONMENT_PREFIX

PING = "_ping"
"""The one path that has no version before it: what to ask for the newest version that the engine has."""

HEADER = "Api-Version"
"""Of the answer to it."""

OLD, NEW = "v1.41", "v1.44"
"""Docker 29 and later refuse what is older than the new one, which Docker has since 25. The old one is that
of Docker 20.10, which later ones up to 28 have too, and of Podman."""


def chosen(newest: str | None) -> str:
    """The version to ask an engine in, by what its HEADER says: two numbers, such as `1.52`."""
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", newest or "")
    if match is None:
        return OLD
    major, minor = map(int, NEW.removeprefix("v").split("."))
    return NEW if (int(match[1]), int(match[2])) >= (major, minor) else OLD


DIRECTORY, FILE = "/run/switchboard", "variables.json"
"""The volume's place in a container, and the file in it."""

IMAGE_LABEL = "switchboard.reads-variables-file"
"""`true` on images whose bot reads the file; others get all their variables in the open."""

LABEL = "switchboard.variables-file"
"""On containers that get one. They have their image's labels too, and so this is another one."""

MOST_BYTES = 1024 * 1024
"""Of all variables of a machine: a kernel takes no more of them than 2 MiB either, and of each 128 KiB."""

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
"""Of the archive: the directory, and the file."""


def split(agents: Mapping[str, str], machines: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables that are shown, and those that are hidden.

    Args:
        agents: Those that the agent's `env` names.
        machines: Ours, of which the token alone is secret.
    """
    hidden = {name: value for name, value in agents.items() if not AT_THE_START.fullmatch(name)}
    hidden |= {name: machines[name] for name in (MACHINE_TOKEN_VARIABLE,) if name in machines}
    shown = {name: value for name, value in {**agents, **machines}.items() if name not in hidden}
    return {**shown, VARIABLES_FILE_VARIABLE: f"{DIRECTORY}/{FILE}"}, hidden


def archive(variables: Mapping[str, str]) -> bytes:
    """Return the file as the engine takes it, to be unpacked at `DIRECTORY`.

    Any user may read and delete it, since an image's user may be any: nobody else is in the container.
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
        ValueError: it is another one.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as files:
            members = [member for member, _ in zip(files, range(_MEMBERS + 1), strict=False)]
            if len(members) != _MEMBERS or members[1].name != FILE or not members[1].isreg():
                raise ValueError("its members are others")
            file = files.extractfile(members[1])
            return file.read(MOST_BYTES) if file is not None else b""
    except (tarfile.TarError, EOFError, OverflowError) as error:
        raise ValueError(str(error)) from error


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

ASK_THE_ENGINE = "host-gateway"
"""The engine's own word for it. An engine that kept its containers through a restart (`live-restore`) has
forgotten what it means, and writes `<nil>` into the hosts file of each new one."""

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
