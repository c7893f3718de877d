"""The Pulumi program: reads the config, picks the cloud, deploys, exports.

`pulumi up` runs it through the language host; `make up` runs this same file inside its own process.
"""

from __future__ import annotations

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent
if str(CHECKOUT) not in sys.path:
    sys.path.insert(0, str(CHECKOUT))

import pulumi  # noqa: E402

from stacks import clouds  # noqa: E402
from stacks.deployment import current_environment  # noqa: E402
from stacks.errors import ConfigError  # noqa: E402


def main() -> None:
    environment = current_environment(CHECKOUT)
    try:
        clouds.load(environment.config.cloud).deploy(environment).export(environment.config)
    except ConfigError as error:
        raise pulumi.RunError(str(error)) from None


main()
