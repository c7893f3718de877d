"""`make fuzz`: many requests made from the OpenAPI document, from another seed each time."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.dispatcher.contract import DOCUMENT
from tests.fuzz.target import target

CONFIG = Path(__file__).with_name("schemathesis.toml")


async def fuzz(directory: Path, seed: int, *options: str, document: Path = DOCUMENT) -> int:
    """Run schemathesis against a dispatcher of its own; gives its exit status: 0 if all is well, 1 if not."""
    async with target(directory) as running:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
            *("run", str(document), "--url", running.url, "--seed", str(seed), "--no-color"),
            *("--generation-database", "none", *options),
            cwd=directory,
        )
        return await process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="repeats a run")
    parser.add_argument("--examples", type=int, default=200, help="so many for each operation")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(fuzz(Path(directory), options.seed, "--max-examples", str(options.examples)))


if __name__ == "__main__":
    sys.exit(main())
