"""A session's files: what its client uploads for the bot, and what the bot leaves for its client.

As Pipecat's development runner has them. Uploads go into the storage of the bot file's
`create_file_storage()`, or into a directory of the session; the bot finds them through
`runner_args.file_storage`. All that was uploaded is deleted when the session ends.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import inspect
import mimetypes
import os
import shutil
import stat
import sys
import tempfile
import urllib.parse
import uuid
from email.message import Message
from pathlib import Path
from typing import Any

from bot.loader import loaded_module
from bot.logs import logger
from bot.outcome import InvalidBot, describe
from bot.problems import Problem, json_response
from bot.protocol import Request, Response

FILES_PATH = "files"

MAX_UPLOADS = 100
"""Limit on the uploads of one session; the directory keeps the last ten, the development runner's default."""

MAX_DOWNLOAD_BYTES = 3_000_000
"""Limit on a file that is given: as base64, a third more, it must fit into one message of the channel."""

MAX_NAME_BYTES = 255
"""Limit on a file's name, on every file system that a machine has."""

_SHOWN = 80
"""Characters of a name in a problem."""

_NO_FILE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO}
)
"""The system's errors for a name that is no file's; ENXIO is a socket's."""

_DELETE_SECONDS = 1.0
"""For deleting them all, at a storage that may be somewhere else."""


class Files:
    """The files of one session. `storage` is None where uploads are switched off.

    Args:
        directory: Where the session may keep files, for as long as it lives; None on a machine that has
            nowhere to write.
    """

    def __init__(self, storage: Any, directory: Path | None) -> None:
        self.storage = storage
        self._directory = directory
        self._downloads = directory / "downloads" if directory else None
        self._urls: list[str] = []
        self._count = 0

    @classmethod
    def of(cls, bot_file: Path) -> Files:
        """The files of a session of this bot, which is loaded.

        Raises:
            InvalidBot: its `create_file_storage()` raised, or is not synchronous.
        """
        directory = _new_directory()
        files = cls(_storage(loaded_module(bot_file), directory), directory)
        runner = sys.modules.get("pipecat.runner.run")
        if files._downloads and runner and getattr(runner, "RUNNER_DOWNLOADS_FOLDER", "") is None:
            # The bot gets it from `runner_downloads_folder()`.
            files._downloads.mkdir(parents=True, exist_ok=True)
            runner.__dict__["RUNNER_DOWNLOADS_FOLDER"] = str(files._downloads)
        return files

    def takes(self, request: Request) -> bool:
        """Return True if the request is about files."""
        path, method = request.path.strip("/"), request.method.upper()
        return (path == FILES_PATH and method == "POST") or (
            path.startswith(f"{FILES_PATH}/") and method in ("GET", "HEAD")
        )

    async def call(self, request: Request) -> Response:
        """Save what is uploaded, or give what the bot left.

        Raises:
            Problem: the request, or the storage, is at fault.
        """
        return await (self._save(request) if request.method.upper() == "POST" else self._give(request))

    async def close(self) -> None:
        """Delete what was uploaded."""
        deleting = asyncio.create_task(self._delete())
        _, late = await asyncio.wait({deleting}, timeout=_DELETE_SECONDS)
        if late:
            deleting.cancel()
            logger.warning(f"{len(self._urls)} uploaded files were not deleted in {_DELETE_SECONDS:g} s")

    async def _save(self, request: Request) -> Response:
        if self.storage is None:
            raise Problem(503, "no-uploads", "This bot takes no files: it has no file storage.")
        if self._count >= MAX_UPLOADS:
            text = f"The session has uploaded {self._count} files; allowed are {MAX_UPLOADS}."
            raise Problem(429, "too-many-files", text)
        name, contents, kind = _file_of(request)
        self._count += 1
        try:
            url = await self.storage.save(name, contents)
        except Exception as error:
            logger.opt(exception=error).error("an upload could not be saved")
            raise Problem(500, "not-saved", "The file could not be saved; the bot's log says why.") from error
        self._urls.append(url)
        kind = mimetypes.guess_type(name, strict=False)[0] or kind or "application/octet-stream"
        # RTVI's File, which the client sends back in a message.
        described = {"name": name, "source": {"type": "url", "url": url}, "format": kind}
        return json_response(request.id, 200, described)

    async def _give(self, request: Request) -> Response:
        name = request.path.strip("/").removeprefix(f"{FILES_PATH}/")
        left = await asyncio.to_thread(self._left, name)
        if left is None:
            raise Problem(404, "no-such-file", f"The bot has left no file '{name[:_SHOWN]}'.")
        file, contents = left
        quoted = urllib.parse.quote(os.fsencode(file.name))
        return Response(
            id=request.id,
            status=200,
            headers=(
                ("content-type", mimetypes.guess_type(file)[0] or "application/octet-stream"),
                # The dispatcher's page has this origin: nothing of a bot's is shown as a page of it.
                ("content-disposition", f"attachment; filename*=UTF-8''{quoted}"),
                ("x-content-type-options", "nosniff"),
            ),
            body=base64.b64encode(contents).decode(),
        )

    def _left(self, name: str) -> tuple[Path, bytes] | None:
        """Read the regular file of this name in the downloads; None if there is none there.

        Raises:
            Problem: it is too large, or cannot be read.
        """
        if self._downloads is None:
            return None
        try:
            folder = self._downloads.resolve()
            file = (folder / name).resolve()
            if not file.is_relative_to(folder):
                return None
            with open(file, "rb", opener=_open) as opened:
                status = os.fstat(opened.fileno())
                if not stat.S_ISREG(status.st_mode):
                    return None
                size = status.st_size
                # It may grow meanwhile.
                contents = opened.read(MAX_DOWNLOAD_BYTES + 1) if size <= MAX_DOWNLOAD_BYTES else b""
        except (ValueError, RuntimeError):  # a NUL in the name; links in a circle
            return None
        except OSError as error:
            if error.errno in _NO_FILE:
                return None
            logger.opt(exception=error).error("a file that the bot left could not be read")
            raise Problem(500, "not-read", "The file could not be read; the bot's log says why.") from error
        if max(size, len(contents)) > MAX_DOWNLOAD_BYTES:
            text = f"The file '{name[:_SHOWN]}' has {size} bytes; allowed are {MAX_DOWNLOAD_BYTES}."
            raise Problem(413, "file-too-large", text)
        return file, contents

    async def _delete(self) -> None:
        while self._urls:
            url = self._urls.pop()
            try:
                await self.storage.delete(url)
            except Exception as error:  # noqa: BLE001 - the others are still to be deleted
                logger.opt(exception=error).warning(f"the uploaded file {url} could not be deleted")
        if self._directory:
            await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)


def _open(path: str, flags: int) -> int:
    """Open a file, but no link that was put there meanwhile; for no FIFO wait until it has a writer."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _new_directory() -> Path | None:
    """A name of the session's own, since machines of some hosts share the place; None where there is none."""
    try:
        return Path(tempfile.gettempdir()) / f"session-files-{uuid.uuid4().hex}"
    except FileNotFoundError:
        logger.warning("no directory of this machine can be written: clients can upload no files here")
        return None


def _storage(module: Any, directory: Path | None) -> Any:
    factory = getattr(module, "create_file_storage", None)
    if factory is None:
        if directory is None:
            return None
        try:
            from pipecat.utils.file_storage import LocalFileStorage
        except ImportError:  # an older Pipecat, whose bots know of no files
            return None
        return LocalFileStorage(str(directory / "uploads"))
    try:
        storage = factory()
    except Exception as error:
        raise InvalidBot(f"`create_file_storage()` of the bot file raised {describe(error)}") from error
    if inspect.iscoroutine(storage):
        storage.close()
        raise InvalidBot("`create_file_storage()` of the bot file is async: it must return the storage.")
    return storage


def _file_of(request: Request) -> tuple[str, bytes, str]:
    """Name, contents and media type of the field `file` of a form (RFC 7578)."""
    header = Message()
    header["content-type"] = dict(request.headers).get("content-type", "")
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        given = header["content-type"][:80]
        raise Problem(400, "bad-request", f"content-type: allowed is multipart/form-data, not '{given}'.")
    body = b"\r\n" + base64.b64decode(request.body)
    # The form ignores the text before the first boundary and after the last one.
    for part in body.split(b"\r\n--" + boundary.encode("latin-1"))[1:-1]:
        head, found, contents = part.partition(b"\r\n\r\n")
        fields = Message()
        for line in head.decode("utf-8", "replace").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                fields[name.strip()] = value.strip()
        if found and fields.get_param("name", header="content-disposition") == "file":
            return _name(fields), contents, fields.get("content-type", "")
    raise Problem(400, "bad-request", "file: the form has no such field.")


def _name(fields: Message) -> str:
    """Return the file's own name, without the directories that a client may put before it.

    A name that no file can have is `upload`: a bot's storage may write a file of that name.
    """
    name = Path((fields.get_filename() or "").replace("\\", "/")).name
    if name in ("", ".", "..") or "\0" in name or len(os.fsencode(name)) > MAX_NAME_BYTES:
        return "upload"
    return name
