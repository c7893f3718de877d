"""The directory of `dataDir`: checked before a plan, so that an up does not stumble over it half-way."""

from __future__ import annotations

import os
from pathlib import Path

from stacks.bot_files import why_no_image
from stacks.errors import ConfigError
from stacks.refusals import masked

OURS = ("dispatcher", "dispatcher.log", "dispatcher.log.1", "dispatcher.log.2")
"""Files that a stack that was up has left there."""

OF_A_DISK = ("lost+found",)
"""Files that an empty disk has in its root."""

ALLOWED = "a directory of its own: one that is not there yet, an empty one, or that of an earlier up"


def check(directory: Path, checkout: Path) -> None:
    """Refuse a place where a stack's store and logs cannot be, or where other things are.

    Raises:
        ConfigError: Says what is there.
    """
    place = Path(os.path.normpath(directory))
    if problem := _problem(place, checkout):
        raise ConfigError(
            f"switchboard:dataDir: {masked(str(place))!r} is refused: {problem}; allowed: {ALLOWED}"
        )


def _problem(place: Path, checkout: Path) -> str:
    # Its own, below the checkout, is the default.
    if whose := why_no_image(place.resolve(), checkout):
        return f"it is {whose}"
    try:
        there = next(one for one in (place, *place.parents) if os.path.lexists(one))
        if not there.is_dir():
            return f"{there} is no directory" if there != place else "it is no directory"
        if not os.access(there, os.W_OK | os.X_OK):
            return f"you may not write in {there}"
        names = [] if there != place else sorted(os.listdir(place))
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    others = [name for name in names if name not in OF_A_DISK]
    if others and not any(name in OURS for name in others):
        return f"it holds what is not a stack's ({', '.join(others[:3])}{', …' if len(others) > 3 else ''})"
    return ""
