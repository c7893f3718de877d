"""Packages: which version of Pipecat a bot needs, and which package has a module that is missing."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from bot.outcome import InvalidBot

OLDEST_PIPECAT = (1, 7)
NEWEST_PIPECAT = (1, 14)
"""The first and last version of pipecat-ai that was tried; later ones of the same major version may run."""

SUPPORTED_PIPECAT = "1.7 to 1.14"

_PIPECAT = "pipecat-ai"
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
"""Module → package, where the names differ and Pipecat's metadata does not tell."""


def unsupported(version: str) -> str:
    """Say in a sentence why this version of Pipecat cannot be used; empty if it can, or is no release."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        return ""
    release = (int(found[1]), int(found[2]))
    if release >= OLDEST_PIPECAT and release[0] == NEWEST_PIPECAT[0]:
        return ""
    return (
        f"Pipecat {version} is not supported: versions {SUPPORTED_PIPECAT} are. "
        "Change pipecat-ai in the bot's requirements.txt or pyproject.toml."
    )


def check_pipecat() -> None:
    """Refuse a version of Pipecat that cannot work here.

    Raises:
        InvalidBot: it names the version, and those that work.
    """
    try:
        version = importlib.metadata.version(_PIPECAT)
    except importlib.metadata.PackageNotFoundError:
        return  # its import says so, or it runs from a checkout
    if refusal := unsupported(version):
        raise InvalidBot(refusal)


def advice(error: BaseException) -> str:
    """Name the package of a module that is missing, and the command; empty if nothing is missing.

    Pipecat's services raise another error where their module is missing: it stands behind that one.
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
    """Return `pipecat-ai[extra]` if an extra has the name of the module, or of the part that imports it."""
    try:
        extras = importlib.metadata.metadata(_PIPECAT).get_all("Provides-Extra") or []
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
    return next((f"{_PIPECAT}[{named[name]}]" for name in names if name in named), "")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
