"""Leaves for its client what its client has uploaded."""

import asyncio
from pathlib import Path

from pipecat.runner.run import runner_downloads_folder
from pipecat.utils.file_storage import FileStorage


class Shelf(FileStorage):
    async def save(self, filename, contents):
        (Path(runner_downloads_folder() or "nowhere") / filename).write_bytes(contents)
        return f"shelf://{filename}"

    async def load(self, file_url):
        raise FileNotFoundError(file_url)

    async def delete(self, file_url):
        raise FileNotFoundError(file_url)


def create_file_storage():
    return Shelf()


async def bot(runner_args):
    await asyncio.sleep(3600)
