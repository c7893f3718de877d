"""The Pulumi program: reads the config, picks the cloud, deploys, exports.

`pulumi up` runs it through the language host; `make up` runs this same file inside its own process.
"""

from __future__ import annotations

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent
if str(CHECKOUT) not in sys.path:
    sys.path.insert(0, str(CHECKOUT))

from stacks import assembly  # noqa: E402

assembly.describe(CHECKOUT)
