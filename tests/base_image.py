"""The base of the images that tests build: Debian with Python, as the official `python:…-slim` ones are.

It is made by `debootstrap` and not pulled, so tests need no image registry. Like an official one it has pip
and no documentation; unlike one it trusts what this machine trusts, for machines behind a proxy that has a
certificate authority of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.engine import Engine, cache_directory

SUITE = "trixie"
"""Debian 13, the suite of `python:3.13-slim-trixie`, with the same Python."""

PACKAGES = ("ca-certificates", "python3", "python3-pip")

AUTHORITIES = Path("/usr/local/share/ca-certificates")
"""Where an administrator puts authorities of their own, on Debian and Ubuntu."""

# What `debian:trixie-slim` leaves out, and what an installation leaves behind.
LEFT_OUT = (
    *("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian"),
    *("var/lib/apt/lists", "var/cache", "var/log", "tmp"),
)


class NoBase(Exception):
    """The base can't be made here; the text says why."""


def base_archive() -> Path:
    """The base's file system as a tar file, made if it is not there yet (two minutes).

    Raises:
        NoBase: this machine has no `debootstrap`, or it failed.
    """
    authorities = sorted(AUTHORITIES.glob("*.crt")) if AUTHORITIES.is_dir() else []
    recipe = hashlib.sha256(Path(__file__).read_bytes())
    for authority in authorities:
        recipe.update(authority.name.encode() + b"\0" + authority.read_bytes())
    archive = cache_directory() / f"base-{recipe.hexdigest()[:12]}.tar"
    if archive.exists():
        return archive
    if shutil.which("debootstrap") is None:
        raise NoBase("there is no `debootstrap`: install the package")
    archive.parent.mkdir(parents=True, exist_ok=True)
    for older in archive.parent.glob("base-*.tar"):
        older.unlink()
    with tempfile.TemporaryDirectory(prefix="switchboard-base-") as made:
        root = Path(made) / "root"
        _run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root))
        for authority in authorities:
            shutil.copy(authority, root / AUTHORITIES.relative_to("/"))
        _run("chroot", str(root), "update-ca-certificates")
        for directory in LEFT_OUT:
            for path in (root / directory).glob("*"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        unfinished = archive.with_suffix(".new")
        _run(
            "tar",
            "--sort=name",
            "--numeric-owner",
            "--one-file-system",
            "-C",
            str(root),
            "-cf",
            str(unfinished),
            ".",
        )
        os.replace(unfinished, archive)
    return archive


def import_base(engine: Engine) -> str:
    """The base in the engine, as the name of an image.

    Raises:
        NoBase: it can't be made here.
    """
    archive = base_archive()
    name = f"switchboard-test/{archive.stem.replace('base-', 'base:')}"
    if not engine.has_image(name):
        engine.docker("import", str(archive), name)
    return name


def _run(*command: str) -> None:
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # The locale of this machine need not exist inside.
        env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        check=False,
    )
    if result.returncode:
        raise NoBase(f"{' '.join(command)}: status {result.returncode}\n{result.stdout[-2000:]}")


@pytest.fixture(scope="session")
def base_image(engine: Engine) -> str:
    """The name of the base image in the engine."""
    try:
        return import_base(engine)
    except NoBase as error:
        if shutil.which("debootstrap") is None:
            pytest.skip(str(error))
        raise
