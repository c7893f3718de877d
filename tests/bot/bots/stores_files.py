"""Brings its own storage for uploads, and a note of what is deleted from it."""

import asyncio
from pathlib import Path

from pipecat.utils.file_storage import FileStorage


class Shelf(FileStorage):
    async def save(self, filename, contents):
        Path(f"shelf-{filename}").write_bytes(contents)
        return f"shelf://{filename}"

    async def load(self, file_url):
        return Path(file_url.replace("shelf://", "shelf-")).read_bytes()

    async def delete(self, file_url):
        Path(file_url.replace("shelf://", "shelf-")).unlink()


shelf = Shelf()


def create_file_storage():
    return shelf


async def bot(runner_args):
    assert runner_args.file_storage is shelf
    await asyncio.sleep(3600)
