"""Remove from the AWS SDK the models of services that the dispatcher never calls: `python3 sdk.py DIRECTORY`.

botocore has a model of each of AWS's 400 services, 26 MB compressed, and reads one when a client of it is
made.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

CALLED = ("ecs", "sso", "sso-oidc", "sts")
"""The services that stay. Credentials of a role, or of a person who signed in, come from the last three."""


def prune(directory: Path) -> None:
    """Prune every botocore in the directory; without one there is nothing to do."""
    for models in directory.rglob("botocore/data"):
        for service in models.iterdir():
            if service.is_dir() and service.name not in CALLED:
                shutil.rmtree(service)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    prune(parser.parse_args().directory)


if __name__ == "__main__":
    main()
