"""Write the CycloneDX bill of materials of an image: Python and its packages, those of its Debian and of npm.

    python sbom.py PYTHON DPKG_STATUS NAME VERSION [PACKAGE_LOCK] > bom.json

The Python packages are listed by cyclonedx-py, from the environment of the interpreter PYTHON; what a page is
bundled from by npm's lock. Two runs on the same packages give the same bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from typing import Any
from urllib.parse import quote


def of_python(python: str) -> dict[str, Any]:
    """Return the document for the Python environment alone."""
    command = ["cyclonedx-py", "environment", "--output-reproducible", "--spec-version", "1.6", python]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def of_interpreter(python: str) -> dict[str, Any]:
    """Return the interpreter's component; in an official image it is not a Debian package."""
    command = [python, "-c", "import platform; print(platform.python_version())"]
    version = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return _component(f"pkg:generic/python@{quote(version)}", "python", version)


def of_npm(lock: str) -> Iterator[dict[str, Any]]:
    """Return the components of a package-lock.json that are not for development only."""
    for path, package in sorted(json.loads(lock)["packages"].items()):
        if not path or package.get("dev"):
            continue
        name, version = path.rpartition("node_modules/")[2], package["version"]
        yield _component(f"pkg:npm/{quote(name)}@{quote(version)}", name, version)


def of_debian(status: str) -> Iterator[dict[str, Any]]:
    """Return the components of Debian's list of installed packages."""
    for paragraph in status.strip().split("\n\n"):
        fields = Parser().parsestr(paragraph)
        if not fields["Status"].endswith(" installed"):
            continue
        name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}"
        yield _component(purl, name, version)


def _component(purl: str, name: str, version: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main(python: str, status: Path, name: str, version: str, lock: Path | None = None) -> None:
    document = of_python(python)
    document["metadata"]["component"] = {
        "type": "container",
        "bom-ref": name,
        "name": name,
        "version": version,
    }
    document["components"] += sorted(of_debian(status.read_text()), key=lambda component: component["name"])
    document["components"].append(of_interpreter(python))
    # A package that several others need in one version is one component.
    npm = {one["bom-ref"]: one for one in of_npm(lock.read_text())} if lock is not None else {}
    document["components"] += npm.values()
    json.dump(document, sys.stdout, indent=2)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4], *map(Path, sys.argv[5:]))
