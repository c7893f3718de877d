"""Stores that tests open, use and close."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dispatcher.store.store import Store


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """Open a store; close it at the end."""
    store = Store(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()
