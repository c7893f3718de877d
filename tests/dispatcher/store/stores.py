"""Stores that tests open, use and close."""

from __future__ import annotations

import asyncio

from dispatcher.store.store import Store


def with_store(url, use):
    async def run():
        store = Store(url)
        await store.open()
        try:
            return await use(store)
        finally:
            await store.close()

    return asyncio.run(run())
