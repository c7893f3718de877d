"""A view of an unmodified bot's pipelines, and the handle that cancels them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bot.listener import Listener
from bot.logs import logger

SETUP_FILES_VARIABLE = "PIPECAT_SETUP_FILES"


class Watch:
    """Attached to a bot's runners and workers by `bot.hook`."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._runners: list[Any] = []
        self._worker: Any = None

    def install(self) -> None:
        """Make Pipecat's set-up hooks reach this watch.

        Called after the bot file's import, because that often loads a `.env` file over the environment.
        """
        global _current
        _current = self
        hook = str(Path(__file__).with_name("hook.py"))
        files = [file for file in os.environ.get(SETUP_FILES_VARIABLE, "").split(os.pathsep) if file]
        if hook not in files:
            os.environ[SETUP_FILES_VARIABLE] = os.pathsep.join([*files, hook])

    @property
    def can_cancel(self) -> bool:
        return bool(self._runners) or self._worker is not None

    async def cancel(self, reason: str) -> None:
        """Cancel the bot's pipelines as Pipecat does; the bot function then returns."""
        for target in self._runners or [self._worker]:
            await target.cancel(reason=reason)

    def add_runner(self, runner: Any) -> None:
        self._runners.append(runner)

    def add_worker(self, worker: Any) -> None:
        # A bridged worker is fed by another one's pipeline: it has no client of its own.
        if self._worker is not None or worker.bridged:
            return
        from bot import daily
        from bot.observe import PipelineObserver

        self._worker = worker
        has_room = daily.attach(worker, self._listener)
        worker.add_observer(PipelineObserver(self._listener, tells_client=not has_room))


_current: Watch | None = None


def attach_runner(runner: Any) -> None:
    if _current is not None:
        _current.add_runner(runner)


def attach_worker(worker: Any) -> None:
    if _current is None:
        return
    try:
        _current.add_worker(worker)
    except Exception:  # noqa: BLE001 - a Pipecat that changed must not cost a user the call
        logger.exception("the bot's pipeline cannot be observed; its readiness will not be reported")
