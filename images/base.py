"""Copy the base's file system to a directory, without what a program in a container never runs.

    python3 base.py /out

Runs in a stage of the base image. The directory becomes the image's first layer: one layer, in which nothing
lies hidden under a later one. The list of Debian's packages stays for scanners of known vulnerabilities,
without those that are left out.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from fnmatch import fnmatch
from pathlib import Path

LEFT_OUT = (
    # Package managers, and Perl, which only they and their scripts need.
    *("/usr/bin/apt*", "/usr/lib/apt", "/var/lib/apt", "/var/cache/*", "/etc/apt", "/usr/share/perl*"),
    *("/usr/bin/perl*", "/usr/lib/*-linux-gnu*/perl*", "/usr/lib/*-linux-gnu*/libapt-*", "/usr/bin/sqv"),
    *("/usr/bin/dpkg*", "/usr/sbin/dpkg*", "/usr/lib/dpkg", "/var/lib/dpkg/info", "/usr/share/dpkg"),
    *("/usr/share/debconf", "/usr/sbin/debconf*", "/usr/bin/debconf*", "/var/lib/dpkg/*-old"),
    "/usr/lib/*-linux-gnu*/libdb-*",
    # pip and what it installs itself from; the official images have them under /usr/local.
    *("/usr/bin/pip*", "/usr/local/bin/pip*", "/usr/lib/python3/dist-packages/pip*"),
    *("/usr/lib/python3/dist-packages/setuptools*", "/usr/lib/python3/dist-packages/wheel*"),
    *("/usr/lib/python3/dist-packages/pkg_resources", "/usr/lib/python3/dist-packages/_distutils_hack"),
    "/usr/lib/python3/dist-packages/packaging*",
    *("/usr/local/lib/python3*/site-packages/pip*", "/usr/share/python-wheels"),
    # Parts of Python's standard library that need a screen, or make other programs.
    *("/usr/lib/python3*/test", "/usr/local/lib/python3*/test", "/usr/lib/python3*/pydoc_data"),
    *("/usr/lib/python3*/lib-dynload/_test*", "/usr/local/lib/python3*/lib-dynload/_test*"),
    *("/usr/lib/python3*/ensurepip", "/usr/local/lib/python3*/ensurepip"),
    *("/usr/lib/python3*/idlelib", "/usr/local/lib/python3*/idlelib", "/usr/local/bin/idle*"),
    *("/usr/local/lib/python3*/tkinter", "/usr/local/lib/python3*/turtledemo"),
    *("/usr/local/lib/python3*/config-*", "/usr/local/include", "/usr/include"),
    # Administration of disks, users and services. `ldconfig` stays: Python finds libraries by it.
    *("/usr/sbin/[a-km-z]*", "/usr/sbin/ldattach", "/usr/sbin/losetup", "/usr/bin/openssl"),
    *("/usr/bin/ls[bcilmnf]?*", "/usr/bin/partx", "/usr/bin/dmesg", "/usr/bin/setarch", "/usr/bin/nsenter"),
    *("/usr/bin/unshare", "/usr/bin/setpriv", "/usr/bin/findmnt", "/usr/bin/ipc*", "/usr/bin/script*"),
    *("/usr/bin/passwd", "/usr/bin/chage", "/usr/bin/chfn", "/usr/bin/chsh", "/usr/bin/gpasswd"),
    *("/usr/bin/login", "/usr/bin/su", "/usr/bin/sg", "/usr/bin/newgrp", "/usr/bin/expiry", "/usr/bin/mount"),
    *("/usr/bin/umount", "/usr/bin/wall", "/usr/bin/tic", "/usr/bin/infocmp", "/usr/bin/chcon"),
    # Sessions of people who log in, by PAM, and what tells of them.
    *("/usr/lib/*-linux-gnu*/security", "/etc/pam.d", "/etc/security", "/usr/share/pam*"),
    *("/usr/bin/who", "/usr/bin/users", "/usr/bin/pinky", "/usr/bin/logger", "/usr/bin/mountpoint"),
    *("/usr/bin/prlimit", "/usr/bin/wdctl", "/usr/bin/toe"),
    *("/usr/bin/localedef", "/usr/share/keyrings", "/usr/share/gcc", "/usr/share/gdb"),
    # Documentation and the tables of `iconv`; Python has codecs of its own.
    *(
        "/usr/share/doc/*",
        "/usr/share/man/*",
        "/usr/share/info/*",
        "/usr/share/locale/*",
        "/usr/share/lintian",
    ),
    *("/usr/share/bash-completion", "/usr/share/zsh", "/usr/lib/*-linux-gnu*/gconv"),
    # All authorities in one file, which OpenSSL would read as a whole (30 ms) for every client that is made.
    # It finds the one that it needs in /etc/ssl/certs.
    "/usr/lib/ssl/cert.pem",
    # Files of the build itself, or of the host that runs it.
    *("/proc/*", "/sys/*", "/dev/*", "/run/*", "/tmp/*", "/var/tmp/*", "/var/log/*", "/root/*", "/root/.*"),  # noqa: S108
    *("/etc/resolv.conf", "/etc/hostname", "/etc/hosts", "/etc/mtab", "*/__pycache__", "/.dockerenv"),
)

PACKAGES_LEFT_OUT = (
    *(
        "apt",
        "debconf",
        "dpkg",
        "libapt-pkg*",
        "libdb5.3*",
        "perl-base",
        "python3-pip",
        "python3-pkg-resources",
    ),
    *("python3-setuptools", "python3-wheel", "python3-packaging", "sqv"),
)
"""Debian packages of which `LEFT_OUT` leaves nothing that runs."""

ORPHANS = {
    "libpam_misc.so*": "libpam0g",
    "libpam.so*": "libpam0g",
    "libaudit.so*": "libaudit1",
    "libsystemd.so*": "libsystemd0",
    "libudev.so*": "libudev1",
    "libsemanage.so*": "libsemanage2",
    "libsepol.so*": "libsepol2",
    "libmount.so*": "libmount1",
    "libfdisk.so*": "libfdisk1",
    "libblkid.so*": "libblkid1",
    "libsmartcols.so*": "libsmartcols1",
    "libhogweed.so*": "libhogweed6*",
    "libnettle.so*": "libnettle8*",
    "libseccomp.so*": "libseccomp2",
    "libnsl.so*": "libnsl2",
}
"""Libraries of programs that `LEFT_OUT` names → their Debian package. Each goes if nothing that is left names
it, so what a base has besides keeps its libraries. Those that others need come after them."""

SET_ID = stat.S_ISUID | stat.S_ISGID
"""Mode bits of programs that change their caller's user or group (`su`, `mount`); a container needs none."""


def copy(root: Path, out: Path) -> None:
    """Copy `root` to `out`, without devices and other file systems."""
    left_out = (*LEFT_OUT, str(out))

    def ignored(directory: str, names: list[str]) -> set[str]:
        paths = {name: os.path.join("/", os.path.relpath(directory, root), name) for name in names}
        return {
            name
            for name, path in paths.items()
            if any(fnmatch(os.path.normpath(path), pattern) for pattern in left_out)
        }

    shutil.copytree(root, out, symlinks=True, ignore=ignored, dirs_exist_ok=True)
    # `copytree` keeps modes and times, but not owners.
    for path in out.rglob("*"):
        status = (root / path.relative_to(out)).lstat()
        if (status.st_uid, status.st_gid) != (0, 0):
            os.lchown(path, status.st_uid, status.st_gid)
            path.chmod(status.st_mode & 0o7777)
        if stat.S_ISREG(status.st_mode) and status.st_mode & SET_ID:
            path.chmod(status.st_mode & 0o7777 & ~SET_ID)


def remove_orphans(out: Path) -> list[str]:
    """Remove the `ORPHANS` that no file names; return their Debian packages."""
    binaries = [path for path in out.rglob("*") if path.is_file() and not path.is_symlink() and _is_elf(path)]
    removed = []
    for pattern, package in ORPHANS.items():
        going = list(out.glob(f"usr/lib/*-linux-gnu*/{pattern}"))
        name = pattern.removesuffix("*").encode()
        if going and not any(name in path.read_bytes() for path in binaries if path not in going):
            for path in going:
                path.unlink()
            binaries = [path for path in binaries if path not in going]
            removed.append(package)
    return removed


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def list_packages(status: Path, orphans: list[str]) -> None:
    """Remove `PACKAGES_LEFT_OUT`, and packages of orphans, from Debian's list of installed packages."""
    kept = []
    for paragraph in status.read_text().strip().split("\n\n"):
        name = paragraph.partition("\n")[0].removeprefix("Package: ")
        if not any(fnmatch(name, pattern) for pattern in (*PACKAGES_LEFT_OUT, *orphans)):
            kept.append(paragraph + "\n")
    status.write_text("\n".join(kept))


def check_authorities(directory: Path) -> None:
    """Check that the directory of certificate authorities is indexed for OpenSSL, as the image
    relies on it."""
    if not any(directory.glob("*.0")):
        sys.exit(
            "BASE: there are no authorities in its /etc/ssl/certs: it must have Debian's ca-certificates"
        )


if __name__ == "__main__":
    made = Path(sys.argv[1])
    copy(Path("/"), made)
    check_authorities(made / "etc/ssl/certs")
    list_packages(made / "var/lib/dpkg/status", remove_orphans(made))
