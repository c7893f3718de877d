"""Set up a checkout: environment, pinned packages, the voice page; for tests a browser and a Docker engine.

    python3 -m stacks.setup [--stack STACK] [--dev]

Runs before anything is installed, so only the standard library is imported. Each step is skipped when what it
was made from has not changed: beside its product lies a stamp with the content hash of its sources.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stacks.commands import run, stop_all
from stacks.errors import SetupError, exit_status
from stacks.installer import Installer
from stacks.progress import say, step
from stacks.stamps import content_hash, read

CHECKOUT = Path(__file__).resolve().parents[1]
OLDEST_PYTHON = (3, 11)
# What the voice page's packages ask for.
OLDEST_NODE = 20
NO_CLOUD = ("build", "dev", "node")
"""Ends of `requirements-….txt` that are no cloud's."""


class Checkout:
    """The places of one checkout that the setup makes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.python = self.venv / "bin" / "python"
        self.web = root / "dispatcher" / "web"
        self.installer = Installer(root, self.venv)

    def set_up(self, dev: bool, stack: str = "local") -> None:
        """Make all that `make up` needs before the engine; with `dev`, what `make test` needs too.

        npm builds the voice page while Python's packages are installed.
        """
        with ThreadPoolExecutor(1) as lane:
            try:
                page = lane.submit(self.build_page) if self.has_node() else None
                self.make_venv()
                self.install_packages(dev, stack)
                if page:
                    page.result()
                else:
                    self.build_page()
            except BaseException:
                # Nothing goes on after a failure or Ctrl-C.
                stop_all()
                raise
        if dev:
            self.equip()

    def install_packages(self, dev: bool, stack: str) -> None:
        """Install the packages of a stack's cloud; with `dev`, those of all clouds and of the tests."""
        if dev:
            of_clouds = [f"requirements-{cloud}.txt" for cloud in self.clouds_with_packages]
            contained = ("requirements-node.txt", "requirements.txt", *of_clouds)
            self.installer.install("requirements-dev.txt", *contained)
            return
        # The file of a cloud has all that the others have, too.
        of_clouds = sorted(self.clouds_of(stack).intersection(self.clouds_with_packages))
        for cloud in of_clouds:
            self.installer.install(f"requirements-{cloud}.txt", "requirements.txt")
        if not of_clouds:
            self.installer.install("requirements.txt")

    @property
    def clouds_with_packages(self) -> list[str]:
        """Clouds whose providers need packages of their own: the extras of pyproject.toml."""
        found = {path.stem.removeprefix("requirements-") for path in self.root.glob("requirements-*.txt")}
        return sorted(found.difference(NO_CLOUD))

    def equip(self) -> None:
        """A browser and engines for the tests. Those that lack theirs are skipped, and all else goes on."""
        # Only here: a checkout that only runs stacks needs no tests.
        from tests import system_packages

        for provide in (system_packages.find_browser, system_packages.install_engine):
            try:
                provide()
            except SetupError as error:
                say(f"notice: {error}")

    def clouds_of(self, stack: str) -> set[str]:
        """Return the clouds of a stack and its placements, as far as its file tells without a parser of YAML.

        If it tells it in another way, the stack's program says which packages are missing.
        """
        text = re.sub(r"(^|\s)#.*", "", read(self.root / "stacks" / f"Pulumi.{stack}.yaml") or "")
        return set(re.findall(r"""[\s{,'"](?:switchboard:)?cloud['"]?:\s*['"]?([a-z0-9-]+)""", text))

    def make_venv(self) -> None:
        if self.python.exists():
            if _works([str(self.python), "-c", "import pip"]):
                return
            say("virtual environment: its Python does not work any more; it is made anew")
            shutil.rmtree(self.venv)
        if sys.version_info < OLDEST_PYTHON:
            raise SetupError(
                f"Python {'.'.join(map(str, sys.version_info[:3]))} is too old; "
                f"allowed: {'.'.join(map(str, OLDEST_PYTHON))} or later (`make up PYTHON=…`)"
            )
        with step("making the virtual environment .venv"):
            run(
                [sys.executable, "-m", "venv", str(self.venv)],
                "the virtual environment was not made (on Debian it needs the package python3-venv)",
            )

    def build_page(self) -> None:
        """`dispatcher/web/dist`, from its sources and the packages of its lock file."""
        modules, dist = self.web / "node_modules", self.web / "dist"
        locked = content_hash([self.web / "package.json", self.web / "package-lock.json"])
        sources = content_hash(_sources(self.web))
        packages_stamp, page_stamp = modules / ".switchboard-packages", modules / ".switchboard-page"
        if (dist / "index.html").is_file() and read(page_stamp) == sources:
            return
        environment = {**os.environ, "PATH": self._node_path()}
        if read(packages_stamp) != locked:
            with step("installing the voice page's packages with npm (downloads them)"):
                run(
                    ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"],
                    "the voice page's packages were not installed",
                    self.web,
                    environment,
                )
            packages_stamp.write_text(locked)
        with step("building the voice page"):
            run(["npm", "run", "build", "--silent"], "the voice page was not built", self.web, environment)
        page_stamp.write_text(sources)

    def has_node(self) -> bool:
        """Return True if the user's Node is there and new enough."""
        version = node_version(shutil.which("node"))
        return version is not None and version >= OLDEST_NODE and shutil.which("npm") is not None

    def _node_path(self) -> str:
        """Return a PATH with a Node that is new enough: the user's, else one that is installed from PyPI."""
        path = os.environ.get("PATH", os.defpath)
        if self.has_node():
            return path
        self.installer.install("requirements-node.txt")
        return os.pathsep.join([str(self.venv / "bin"), path])


def node_version(node: str | None) -> int | None:
    """The major version of a Node; None if it does not say one."""
    if node is None:
        return None
    try:
        said = subprocess.run(
            [node, "--version"], capture_output=True, text=True, timeout=20, check=True
        ).stdout
        return int(said.strip().removeprefix("v").split(".")[0])
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _sources(web: Path) -> list[Path]:
    return [
        path
        for path in web.rglob("*")
        if path.is_file() and not {"node_modules", "dist"} & set(path.relative_to(web).parts)
    ]


def _works(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="stacks.setup", description="Sets up this checkout.")
    parser.add_argument("--stack", default="local")
    parser.add_argument("--dev", action="store_true", help="with what the tests need")
    options = parser.parse_args(arguments)
    return exit_status(lambda: Checkout(CHECKOUT).set_up(dev=options.dev, stack=options.stack))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
