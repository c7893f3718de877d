"""The reasons for which sessions end, read from the code that gives them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from bot.protocol import EndReason

ROOT = Path(__file__).resolve().parents[1]


def reasons_in_code() -> set[str]:
    source = "".join(path.read_text() for path in (ROOT / "dispatcher").rglob("*.py"))
    return set(re.findall(r'\bEnd\(\s*"([a-z_]+)"', source)) | set(get_args(EndReason))
