"""Write the metadata of this project beside its packages: its name, version and entry points.

    python3 -m stacks.metadata

The checkout is not installed, and neither is its copy in an image: `importlib.metadata` finds the directory
`switchboard.dist-info` on whatever path the packages are found. It is committed, and a test compares it
with pyproject.toml.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

DIRECTORY = "switchboard.dist-info"
CHECKOUT = Path(__file__).resolve().parents[1]


def contents(checkout: Path) -> dict[str, str]:
    """Return path → text of the metadata's files, from pyproject.toml."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    # The name before the dot counts: of two directories of one name, one is not read.
    directory = f"{name.replace('-', '_')}.dist-info"
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    return {
        f"{directory}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{directory}/entry_points.txt": "\n".join(groups),
    }


def main() -> int:
    for path, text in contents(CHECKOUT).items():
        (CHECKOUT / path).parent.mkdir(exist_ok=True)
        (CHECKOUT / path).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
