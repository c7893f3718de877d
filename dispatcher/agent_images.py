"""The images of agents' machines, which a stack changes while the dispatcher runs.

A stack writes them to a file, which is checked every second: a new image needs no new dispatcher, and no
caller is refused for it. Each agent's new image is used once the engine has it.

The images in use are kept in a second file: a restarted dispatcher begins with images that have run, not with
untried ones.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from dispatcher.clock import Clock
from dispatcher.image_table import IN_USE_SUFFIX, content_of, mark_of
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import ProviderError
from dispatcher.machines.settings import ImageName, PlacementName
from dispatcher.refusals import in_words
from dispatcher.settings import AgentName, Image, Settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Interval between checks of the file."""

AGAIN_SECONDS = 10.0
"""Pause before images that could not be fetched are fetched again."""

MOST_BYTES = 4 * 1024 * 1024
"""Limit on the file: more than the largest number of agents takes."""

MOST_PATH = 4096
"""Limit on the characters of a bot file's path, as on Linux."""


class AgentImage(BaseModel):
    """An agent's image, and the path of its bot file inside: the two change together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: Image | None = None
    """None if each of its placements has an image of its own."""
    bot: Annotated[str, Field(min_length=1, max_length=MOST_PATH)]
    placements: dict[PlacementName, ImageName] = {}
    """Placement → the image there, where it is not `image`."""

    @model_validator(mode="after")
    def _has_an_image(self) -> Self:
        if self.image is None and not self.placements:
            raise ValueError("image is missing; allowed: image, placements, or both")
        return self


_TABLE: TypeAdapter[dict[str, AgentImage]] = TypeAdapter(dict[AgentName, AgentImage])

Seen = tuple[int, int, int]
"""Inode, size and time of a file; a file with other content differs in one."""


class AgentImages:
    """Agent → the image of its machines, and its bot file.

    Args:
        fleet: Fetches new images.
    """

    def __init__(self, settings: Settings, fleet: Fleet, clock: Clock) -> None:
        self._agents = settings.agents
        self._placements = settings.placements
        self._file = settings.images_file
        self._fleet = fleet
        self._clock = clock
        self._table: Mapping[str, AgentImage] = {}
        self.missing: tuple[str, ...] = ()
        """Agents whose machines need an image and have none yet."""
        self._use({})
        self._wanted: Mapping[str, AgentImage] = {}
        """The last table of the file that was accepted."""
        self._seen: Seen | None = None
        self._again_at = float("-inf")
        self._said = ""

    def of(self, agent: str) -> str:
        """Return the image of an agent's machines at placements that have none of their own; empty if
        there is none yet, or none is needed."""
        return self._common(agent, self._table.get(agent))

    def at(self, agent: str, placement: str) -> str:
        """Return the image of an agent's machines at a placement; empty as `of` says."""
        return self._own(agent, placement, self._table.get(agent)) or self.of(agent)

    def own(self, agent: str, placement: str) -> str:
        """Return the image that only this placement has for an agent; empty if there is none."""
        return self._own(agent, placement, self._table.get(agent))

    def _common(self, agent: str, entry: AgentImage | None) -> str:
        return (entry.image if entry is not None else None) or self._agents[agent].image or ""

    def _own(self, agent: str, placement: str, entry: AgentImage | None) -> str:
        of_settings = self._placements[placement].images if placement in self._placements else {}
        of_entry = entry.placements if entry is not None else {}
        return of_entry.get(placement) or of_settings.get(agent, "")

    def bot_file(self, agent: str) -> str:
        """Return the bot file of an agent's machines."""
        used = self._table.get(agent)
        return used.bot if used is not None else str(self._agents[agent].bot)

    @property
    def mark(self) -> str | None:
        """The `mark_of` of the table in use; None without a file."""
        return None if self._file is None else mark_of(_plain(self._table))

    def _use(self, table: Mapping[str, AgentImage]) -> None:
        self._table = table
        self.missing = tuple(
            name
            for name in self._agents
            if any(self._placements[at].needs_image and not self.at(name, at) for at in self._asked(name))
        )

    def _asked(self, agent: str) -> Sequence[str]:
        """Return the placements of an agent's machines."""
        return self._agents[agent].placements or tuple(self._placements)

    @property
    def lacks_all(self) -> bool:
        """True if no agent can start, as all lack an image."""
        return len(self.missing) == len(self._agents)

    async def load(self) -> None:
        """Begin with the images that were last in use, if any."""
        if self._file is None:
            return
        try:
            _, content = await asyncio.to_thread(_read, _in_use(self._file), None)
            self._wanted = _TABLE.validate_json(content or b"")
            self._use(self._wanted)
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as error:
            log.error("images_file: the images last in use cannot be read: %s", error)

    async def run(self) -> None:
        """Look for changes until cancelled."""
        while self._file is not None:
            pause = LOOK_SECONDS
            try:
                await self.look()
            except Exception:
                # Nothing else would check again.
                log.exception("images_file: %s: a look failed", self._file)
                pause = AGAIN_SECONDS
            await self._clock.sleep(pause)

    async def look(self) -> None:
        """Use the file's images, as far as they can be fetched."""
        if (file := self._file) is None:
            return
        changed = await self._changed(file)
        if changed is not None:
            self._wanted, self._again_at = changed, float("-inf")
        if self._wanted == self._table or self._clock.monotonic() < self._again_at:
            return
        failures = list[str]()
        for name, wanted in self._wanted.items():
            if wanted != self._table.get(name) and (failure := await self._take_over(name, wanted)):
                failures.append(failure)
        if failures:
            self._again_at = self._clock.monotonic() + AGAIN_SECONDS
            self._say("; ".join(failures))
        else:
            self._use(self._wanted)
            self._said = ""
        await self._keep(file)

    async def _take_over(self, name: str, wanted: AgentImage) -> str:
        """Use an agent's new image once its placements have it; return the error if they do not."""
        for image, placements in self._changes(name, wanted).items():
            try:
                for placement in placements:
                    self._check(name, placement, image)
                await self._fleet.fetch(image, placements)
            except ValueError as error:
                return f"agent {name} does not use {image}: {error}"
            except ProviderError as error:
                return f"agent {name} does not use {image} yet; it cannot be fetched: {error}"
        self._use({**self._table, name: wanted})
        used = dict.fromkeys(filter(None, [wanted.image, *wanted.placements.values()]))
        log.info("images_file: agent %s uses %s", name, ", ".join(used))
        return ""

    def _changes(self, name: str, wanted: AgentImage) -> dict[str, list[str]]:
        """Return new image → the placements where an agent gets it."""
        found: dict[str, list[str]] = {}
        for placement in self._asked(name) if name in self._agents else ():
            image = self._own(name, placement, wanted) or self._common(name, wanted)
            if image and image != self.at(name, placement):
                found.setdefault(image, []).append(placement)
        return found

    def _check(self, name: str, placement: str, image: str) -> None:
        """Raise ValueError if a placement cannot run the image: the settings were checked without it."""
        of = self._placements[placement]
        if not of.takes_images_file:
            return
        try:
            of.check_agent(name, self._agents[name].model_copy(update={"image": image}))
        except ValueError as error:
            raise ValueError(f"placement {placement}: {error}") from error

    async def _keep(self, file: Path) -> None:
        """Record the images in use. If the disk is full, the next dispatcher fetches again; no call is
        affected."""
        try:
            await asyncio.to_thread(_write, _in_use(file), content_of(_plain(self._table)))
        except OSError as error:
            log.warning("images_file: the images in use cannot be kept: %s", error)

    async def _changed(self, file: Path) -> dict[str, AgentImage] | None:
        """Return the table if the file has changed; None if it has not, or if it is refused."""
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
        """Refuse the file, which may be half written; it is read again once it has changed."""
        self._say(f"refused, the previous table stays in use: {why}")
        self._seen = seen

    def _say(self, words: str) -> None:
        """Log an error, once for as long as it stays the same."""
        if words != self._said:
            log.error("images_file: %s: %s", self._file, words)
        self._said = words


def _in_use(file: Path) -> Path:
    return file.with_name(file.name + IN_USE_SUFFIX)


def _plain(table: Mapping[str, AgentImage]) -> dict[str, dict[str, Any]]:
    # As a stack writes it: without what is the default.
    return {name: used.model_dump(exclude_defaults=True) for name, used in table.items()}


def _write(file: Path, content: bytes) -> None:
    """Replace a file atomically."""
    new = file.with_name(file.name + ".new")
    new.write_bytes(content)
    new.replace(file)


def _read(file: Path, known: Seen | None) -> tuple[Seen, bytes | None]:
    """Return the file's identity, and its content unless it is unchanged."""
    with file.open("rb") as opened:
        status = os.fstat(opened.fileno())
        seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        if seen == known:
            return seen, None
        return seen, opened.read(MOST_BYTES)
