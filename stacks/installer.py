"""Install pinned packages into the virtual environment: with uv, which takes seconds, else with pip.

Every file is checked against its hash. pip installs uv itself, in the version that the images pin.
Only the standard library is imported here: `stacks.setup` runs before anything is installed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from stacks import pip_config
from stacks.commands import run
from stacks.errors import SetupError
from stacks.progress import say, step
from stacks.stamps import content_hash, read

UV = "images/requirements-build.txt"
"""uv's one pin."""


class Installer:
    """Installs into one virtual environment, in which a stamp for each file says what is installed."""

    def __init__(self, root: Path, venv: Path) -> None:
        self._root = root
        self._venv = venv
        self._python = str(venv / "bin" / "python")
        self._uv_refused = False

    def install(self, name: str, *contained: str) -> None:
        """Install the packages of a requirements file, unless it is installed.

        `contained` are files whose packages it contains in the same versions.

        Raises:
            SetupError: neither uv nor pip could install them.
        """
        if not self._stale(name):
            return
        with step(f"installing the packages of {name} (downloads them)"):
            if not self._with_uv(name):
                self._with_pip(f"the packages of {name} were not installed", "-r", str(self._root / name))
        for one in (name, *contained):
            self._write_stamp(one)

    def _with_uv(self, name: str) -> bool:
        """Install with uv; False, and why in a line, if pip has to."""
        if self._uv_refused:
            return False
        try:
            self._install_uv()
            options = pip_config.parse(
                run([self._python, "-m", "pip", "config", "list"], "pip's configuration")
            )
            run(
                [
                    *(str(self._venv / "bin" / "uv"), "pip", "install", "--quiet", "--python", self._python),
                    # Modules are compiled as they are imported: all of them take longer than the install.
                    *("--no-compile-bytecode", "--require-hashes", *pip_config.arguments(options)),
                    *("-r", str(self._root / name)),
                ],
                "uv failed",
                environment=pip_config.environment(options, os.environ),
            )
        except SetupError as error:
            self._uv_refused = True
            say(f"notice: {cause(error)}; pip installs the packages, which takes about a minute longer")
            return False
        return True

    def _install_uv(self) -> None:
        if not self._stale(UV):
            return
        # From source it would need a compiler of Rust.
        self._with_pip("uv was not installed", "--only-binary", ":all:", "-r", str(self._root / UV))
        self._write_stamp(UV)

    def _with_pip(self, failure: str, *arguments: str) -> None:
        run(
            [
                *(self._python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
                *("--no-input", "--require-hashes", *arguments),
            ],
            failure,
        )

    def _stamp(self, name: str) -> Path:
        return self._venv / f".{Path(name).name}.stamp"

    def _write_stamp(self, name: str) -> None:
        self._stamp(name).write_text(content_hash([self._root / name]))

    def _stale(self, name: str) -> bool:
        return read(self._stamp(name)) != content_hash([self._root / name])


def cause(error: SetupError) -> str:
    """Return a failure's first and last line as one, without the password of an index."""
    first, *rest = str(error).splitlines()
    last = next((line for line in reversed(rest) if line.strip()), "")
    text = f"{first} {' '.join(last.split())}" if last else first
    return re.sub(r"//[^/@\s]+@", "//***@", text)
