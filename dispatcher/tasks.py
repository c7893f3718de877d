"""Ending asyncio tasks."""

from __future__ import annotations

import asyncio
from typing import Any


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and see them end: one that is left behind may hold a connection of the store."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
