"""Confines a machine that is a process of this host to its own files.

Two means, each where the system has it: a user of the machine's own, where the dispatcher is root; and
Landlock (Linux 5.19 and later), which denies files to a process and to all that it starts, for good.

Imports the standard library alone: it runs in processes that have nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FIRST_USER, USERS = 0x70000000, 2**16
"""The ids of machines' own users and groups; systemd's table of ids assigns this range to nobody."""

USABLE_ABI = 2
"""The first usable version: version 1 (Linux 5.13 to 5.18) denies every move of a file between
directories."""

SIGNALS_ABI = 6
"""The first version that keeps a process from signalling others (Linux 6.12)."""

MAX_PROCESSES = 4096
"""Limit on the processes and threads of a machine that has a user of its own."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""Numbers of the system calls, the same on every architecture that Python runs on."""

_GET_VERSION, _PATH_BENEATH = 1, 1
_SET_DUMPABLE, _DROP_CAPABILITY, _SET_CHILD_SUBREAPER, _SET_NO_NEW_PRIVS = 4, 24, 36, 38

_ROOTS = (0, 1, 3, 4, 5, 6, 7, 10, 13, 23)
"""Capabilities that a machine of root keeps: files, users, signals, ports below 1024, raw sockets,
priorities.

Others, such as CAP_PERFMON, would let it read the memory of any process, whatever Landlock denies.
"""

_ON_FILES = 0b111  # execute, write, read
_TO_READ = 0b101
_ON_DIRECTORIES = sum(1 << bit for bit in range(4, 14))  # remove, make, and move between directories
_TRUNCATE, _TRUNCATE_ABI = 1 << 14, 3
_NET_ABI = 4
_SCOPE_SIGNALS = 1 << 1


@dataclass(frozen=True)
class Confinement:
    """Limits on what a machine may reach."""

    user: int | None = None
    """The id of its own user; None: the dispatcher's user."""
    group: int | None = None
    """The id of the group that shares its bot file's cache."""
    landlock: bool = False
    private: tuple[str, ...] = ()
    """Landlock: files and directories that it cannot open."""
    own: tuple[str, ...] = ()
    """Landlock: directories among them that it may read and write."""
    readable: tuple[str, ...] = ()
    """Landlock: directories among them that it may read."""


@cache
def landlock_abi() -> int:
    """Return the version of Landlock that this kernel has; 0: none, or switched off."""
    if sys.platform != "linux":
        return 0
    with contextlib.suppress(OSError):
        return _syscall(_CREATE_RULESET, None, 0, _GET_VERSION)
    return 0


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent has died, where the system can."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            _prctl(_SET_CHILD_SUBREAPER, 1)


def confine(confinement: Confinement) -> None:
    """Confine this process and all that it will start, for good.

    Raises:
        OSError: The system refuses. The process may be confined in part, and must not go on.
    """
    # First: the rules list directories that the machine's user cannot.
    rules = _ruleset(confinement) if confinement.landlock else -1
    if confinement.user is not None:
        _become(confinement.user, confinement.group)
    elif rules >= 0 and os.geteuid() == 0:
        _drop_capabilities()
    if confinement.user is not None or rules >= 0:
        _prctl(_SET_NO_NEW_PRIVS, 1)
    if rules >= 0:
        _syscall(_RESTRICT_SELF, rules, 0)
        os.close(rules)


def _become(user: int, group: int | None) -> None:
    for stream in (1, 2):
        os.fchown(stream, user, user)  # else nothing could open `/dev/stdout`
    resource.setrlimit(resource.RLIMIT_NPROC, (MAX_PROCESSES, MAX_PROCESSES))
    os.umask(0o007)  # files downloaded into the cache belong to the group
    os.setgroups([] if group is None else [group])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    _prctl(_SET_DUMPABLE, 1)  # else it could not read its own `/proc/self`


def _drop_capabilities() -> None:
    for capability in range(64):
        if capability not in _ROOTS:
            with contextlib.suppress(OSError):  # the kernel has fewer
                _prctl(_DROP_CAPABILITY, capability)
    kept = sum(1 << capability for capability in _ROOTS)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the third version, of this process
    # Effective, permitted, inheritable; the capabilities from 32 on follow in a second three.
    if _libc().capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)(kept, kept))) < 0:
        raise _last_error("capset")


def _ruleset(confinement: Confinement) -> int:
    """Return a descriptor of rules that allow all but the private paths."""
    abi = landlock_abi()
    on_files = _ON_FILES | (_TRUNCATE if abi >= _TRUNCATE_ABI else 0)
    # Listing names is allowed everywhere: Landlock cannot allow it for a directory and deny it below.
    everything = on_files | _ON_DIRECTORIES
    size = 8 if abi < _NET_ABI else 16 if abi < SIGNALS_ABI else 24
    wanted = (ctypes.c_uint64 * 3)(everything, 0, _SCOPE_SIGNALS)
    rules = _syscall(_CREATE_RULESET, ctypes.byref(wanted), size, 0)
    private = [Path(path).resolve() for path in confinement.private]
    writable = [*_all_but(Path("/"), private), *(Path(path) for path in confinement.own)]
    _allow(rules, writable, everything, on_files)
    _allow(rules, [Path(path) for path in confinement.readable], _TO_READ, _TO_READ)
    return rules


def _all_but(directory: Path, private: Sequence[Path]) -> list[Path]:
    """Return the directory's entries; an entry that holds a private path is replaced by its own entries."""
    found: list[Path] = []
    try:
        with os.scandir(directory) as entries:
            present = [(Path(entry.path), entry.is_symlink()) for entry in entries]
    except PermissionError:
        return []
    for path, is_link in present:
        if is_link or path in private:  # a link gets no rule; its target gets its own
            continue
        if any(path in one.parents for one in private):
            found += _all_but(path, private)
        else:
            found.append(path)
    return found


def _allow(rules: int, paths: Sequence[Path], on_directories: int, on_files: int) -> None:
    for path in paths:
        try:
            place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # it was removed meanwhile, or cannot be reached anyway
        try:
            access = on_directories if stat.S_ISDIR(os.fstat(place).st_mode) else on_files
            rule = access.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder)
            _syscall(_ADD_RULE, rules, _PATH_BENEATH, ctypes.create_string_buffer(rule, len(rule)), 0)
        finally:
            os.close(place)


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, *(ctypes.c_ulong(one) for one in (value, 0, 0, 0))) < 0:
        raise _last_error("prctl")


def _syscall(number: int, *arguments: object) -> int:
    passed = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = _libc().syscall(ctypes.c_long(number), *passed)
    if result < 0:
        raise _last_error("landlock")
    return result


def _last_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc
