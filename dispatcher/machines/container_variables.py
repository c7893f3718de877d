"""The variables of a machine's container that nobody is shown who may look at containers.

They are a file in a volume of the container's own, which is written between its creation and its start, and
which the bot reads and deletes before anything else.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Mapping

from bot.protocol import MACHINE_TOKEN_VARIABLE, VARIABLES_FILE_VARIABLE

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
