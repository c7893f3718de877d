"""`python -m dispatcher.openapi`: prints the OpenAPI document of a dispatcher with default settings."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from dispatcher.api.openapi import text
from dispatcher.app import build
from dispatcher.settings import AgentSettings, Settings


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        agents = {"echo": AgentSettings(bot=Path("bot.py"))}
        sys.stdout.write(text(build(Settings(agents=agents, data_dir=Path(directory))).app))
    return 0


if __name__ == "__main__":
    sys.exit(main())
