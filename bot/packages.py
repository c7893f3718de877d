"""Packages of a bot: checks Pipecat's version, and names the package of a module that is missing."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from bot import versions
from bot.logs import logger
from bot.outcome import InvalidBot

_OTHER_NAMES = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-contrib-python-headless",
    "daily": "pipecat-ai[daily]",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "google.genai": "pipecat-ai[google]",
    "googleapiclient": "google-api-python-client",
    "jwt": "pyjwt",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Module → package, where the names differ and Pipecat's metadata does not say so."""


def check_pipecat() -> None:
    """Refuse an unsupported version of Pipecat, and log a warning about an untested one.

    Raises:
        InvalidBot: the message names the version and the supported ones.
    """
    version = versions.installed()
    if refusal := versions.unsupported(version):
        raise InvalidBot(refusal)
    if warning := versions.untested(version):
        logger.warning(warning)


def advice(error: BaseException) -> str:
    """Name the package of a missing module, and the command that installs it; empty if none is missing.

    Pipecat's services raise another error when their module is missing; the import error is its cause.
    """
    missing = _missing(error)
    if missing is None or not missing.name:
        return ""
    package = _package(missing, missing.name)
    return (
        f"Put `{package}` into a requirements.txt beside the bot file and run `make up` again "
        "(docs/bring-your-bot.md)."
    )


def _missing(error: BaseException | None) -> ModuleNotFoundError | None:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ModuleNotFoundError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _package(error: ModuleNotFoundError, module: str) -> str:
    top = module.partition(".")[0]
    for name in (module, top):
        if name in _OTHER_NAMES:
            return _OTHER_NAMES[name]
    return _of_pipecat(error, top) or top.replace("_", "-")


def _of_pipecat(error: ModuleNotFoundError, module: str) -> str:
    """Return `pipecat-ai[extra]` if an extra is named like the module, or like the Pipecat module that
    imports it."""
    try:
        extras = importlib.metadata.metadata(versions.PACKAGE).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    named = {_normal(extra): extra for extra in extras}
    names = [_normal(module)]
    frame = error.__traceback__
    while frame is not None:
        parts = Path(frame.tb_frame.f_code.co_filename).parts
        if "pipecat" in parts:
            names += [_normal(Path(part).stem) for part in reversed(parts[parts.index("pipecat") :])]
        frame = frame.tb_next
    return next((f"{versions.PACKAGE}[{named[name]}]" for name in names if name in named), "")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
