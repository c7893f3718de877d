"""The images of agents' machines, which a stack changes while the dispatcher runs.

A file has them, which is looked at every second: a new image needs no new dispatcher, and no caller is
refused for it. A new table is in use once the engine has its images.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dispatcher.clock import Clock, is_to_come
from dispatcher.image_table import mark_of
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import ProviderError
from dispatcher.refusals import in_words
from dispatcher.settings import AgentName, Image, Settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at the file."""

AGAIN_SECONDS = 10.0
"""Between two attempts to get images that could not be had."""

MOST_BYTES = 4 * 1024 * 1024
"""Of the file: more than all agents have that a dispatcher can have."""

_TABLE: TypeAdapter[dict[str, str]] = TypeAdapter(dict[AgentName, Image])

Seen = tuple[int, int, int]
"""Inode, size and time of a file: another content is not the same."""


class AgentImages:
    """Agent → the image of its machines.

    Args:
        fleet: Gets images that are to be used.
    """

    def __init__(self, settings: Settings, fleet: Fleet, clock: Clock) -> None:
        self._of_settings = {name: agent.image or "" for name, agent in settings.agents.items()}
        self._placements = {name: agent.placements for name, agent in settings.agents.items()}
        runs_images = {name for name, of in settings.placements.items() if of.provider != "process"}
        self._needed = [
            name
            for name, agent in settings.agents.items()
            if runs_images.intersection(agent.placements or settings.placements)
        ]
        self._file = settings.images_file
        self._fleet = fleet
        self._clock = clock
        self._table: Mapping[str, str] = {}
        self._seen: Seen | None = None
        self._again_at = float("-inf")
        self._said = ""

    def of(self, agent: str) -> str:
        """Return the image of an agent's machines; empty if it has none, or none yet."""
        return self._table.get(agent) or self._of_settings.get(agent, "")

    @property
    def mark(self) -> str | None:
        """`mark_of` the table that is in use; None without a file."""
        return None if self._file is None else mark_of(self._table)

    @property
    def missing(self) -> tuple[str, ...]:
        """Agents whose machines need an image, and have none yet."""
        return tuple(name for name in self._needed if not self.of(name))

    async def load(self) -> None:
        """Read the file, if there is one, and use what it says."""
        if self._file is not None and (table := await self._changed(self._file)) is not None:
            self._table = table

    async def run(self) -> None:
        """Look for changes until cancelled."""
        while self._file is not None:
            await self._clock.sleep(LOOK_SECONDS)
            if not is_to_come(self._again_at, self._clock.now(), AGAIN_SECONDS):
                await self._look(self._file)

    async def _look(self, file: Path) -> None:
        if (table := await self._changed(file)) is None:
            return
        try:
            for name, image in table.items():
                if image != self._table.get(name) and name in self._placements:
                    await self._fleet.fetch(image, self._placements[name])
        except ProviderError as error:
            self._say(f"not in use yet, its images cannot be had: {error}")
            self._seen, self._again_at = None, self._clock.now() + AGAIN_SECONDS
            return
        changed = [name for name in table if table[name] != self._table.get(name)]
        self._table, self._said = table, ""
        log.info("images_file: in use: %s", ", ".join(f"{name}: {table[name]}" for name in changed))

    async def _changed(self, file: Path) -> dict[str, str] | None:
        """Return the table if the file is another one than it was; None for one that is refused, too."""
        try:
            seen, content = await asyncio.to_thread(_read, file, self._seen)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._refuse(None, f"cannot be read: {error}")
            return None
        if content is None:
            return None
        try:
            table = _TABLE.validate_json(content)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, fault["loc"]))
            self._refuse(seen, f"{where}: {in_words(fault)}" if where else in_words(fault))
            return None
        self._seen = seen
        return table

    def _refuse(self, seen: Seen | None, why: str) -> None:
        """It may be in the middle of being written, and is looked at again once it is another one."""
        self._say(f"refused, the table of before stays in use: {why}")
        self._seen = seen

    def _say(self, words: str) -> None:
        """Log an error, once as long as it stays the same."""
        if words != self._said:
            log.error("images_file: %s: %s", self._file, words)
        self._said = words


def _read(file: Path, known: Seen | None) -> tuple[Seen, bytes | None]:
    """Return which file it is, and its content unless that is known."""
    with file.open("rb") as opened:
        status = os.fstat(opened.fileno())
        seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        if seen == known:
            return seen, None
        return seen, opened.read(MOST_BYTES)
