"""Write the CycloneDX bill of materials of an image: its Python packages, and those of its Debian.

    python sbom.py PYTHON DPKG_STATUS NAME VERSION > bom.json

The Python packages are listed by cyclonedx-py, from the environment of the interpreter PYTHON. Two runs on
the same packages give the same bytes.
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
    """The whole document, as of the environment alone."""
    command = ["cyclonedx-py", "environment", "--output-reproducible", "--spec-version", "1.6", python]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def of_debian(status: str) -> Iterator[dict[str, Any]]:
    """The components of Debian's list of what is installed."""
    for paragraph in status.strip().split("\n\n"):
        fields = Parser().parsestr(paragraph)
        if not fields["Status"].endswith(" installed"):
            continue
        name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}"
        yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main(python: str, status: Path, name: str, version: str) -> None:
    document = of_python(python)
    document["metadata"]["component"] = {
        "type": "container",
        "bom-ref": name,
        "name": name,
        "version": version,
    }
    document["components"] += sorted(of_debian(status.read_text()), key=lambda component: component["name"])
    json.dump(document, sys.stdout, indent=2)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4])
