"""A session's files: what its client uploads for the bot, and what the bot leaves for its client.

The routes and limits are those of Pipecat's development runner. Uploads go into the storage that the bot
file's `create_file_storage()` returns, else into a directory of the session; the bot finds them through
`runner_args.file_storage`. All uploads are deleted when the session ends.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.machinery
import inspect
import mimetypes
import mmap
import os
import shutil
import sys
import tempfile
import urllib.parse
import uuid
from collections.abc import Callable, Sequence
from email.message import Message
from pathlib import Path
from types import ModuleType
from typing import Any

from bot.loader import loaded_module
from bot.logs import logger
from bot.outcome import InvalidBot, describe
from bot.pieces import Arriving, part_of, too_large
from bot.problems import Problem, json_response
from bot.protocol import MAX_FILE_BYTES, PIECE_BYTES, PIECE_TAKEN, Piece, Request, Response

FILES_PATH = "files"

_RUNNER = "pipecat.runner.run"

MAX_UPLOADS = 100
"""Limit on the uploads of one session; the directory keeps the last ten, as the development runner does."""

MAX_DOWNLOAD_BYTES = 3_000_000
"""Limit on a file for the client: in base64, which adds a third, it must fit into one message of
the channel."""

MAX_NAME_BYTES = 255
"""Limit on a file's name: that of every file system that a machine has."""

_SHOWN = 80
"""Characters of a name that an error message shows."""

_DELETE_SECONDS = 1.0
"""Limit on deleting all uploads; the bot's storage may be remote."""


class _RunnerFinder:
    """Finds the development runner, and hands it over when it has been imported."""

    def __init__(self, imported: Callable[[ModuleType], None]) -> None:
        self._imported = imported

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _RUNNER:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _RunnerLoader(spec.loader.name, spec.loader.path)
            spec.loader.imported = self._imported
        return spec


class _RunnerLoader(importlib.machinery.SourceFileLoader):
    imported: Callable[[ModuleType], None]

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        self.imported(module)


class Files:
    """The files of one session. `storage` is None where uploads are switched off.

    Args:
        directory: The session's directory for files, for as long as the session lives; None on a machine that
            has no writable disk.
    """

    def __init__(self, storage: Any, directory: Path | None) -> None:
        self.storage = storage
        self._directory = directory
        self._downloads = directory / "downloads" if directory else None
        self._arriving = Arriving(directory / "arriving") if directory else None
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
        if runner := sys.modules.get(_RUNNER):
            files._share_downloads(runner)
        else:
            sys.meta_path.insert(0, _RunnerFinder(files._share_downloads))
        return files

    def _share_downloads(self, runner: ModuleType) -> None:
        """Make `runner_downloads_folder()` return the folder to the bot."""
        if self._downloads and getattr(runner, "RUNNER_DOWNLOADS_FOLDER", "") is None:
            self._downloads.mkdir(parents=True, exist_ok=True)
            runner.__dict__["RUNNER_DOWNLOADS_FOLDER"] = str(self._downloads)

    def takes(self, request: Request) -> bool:
        """Return True if the request is about files."""
        path, method = request.path.strip("/"), request.method.upper()
        return (path == FILES_PATH and method == "POST") or (
            path.startswith(f"{FILES_PATH}/") and method in ("GET", "HEAD")
        )

    async def call(self, request: Request) -> Response:
        """Save an upload, or return a file that the bot left.

        Raises:
            Problem: the request is wrong, or the storage failed.
        """
        if request.piece is not None:
            return await self._save_piece(request, request.piece)
        if request.method.upper() == "POST":
            return await self._save(request)
        if request.start is not None:
            return await self._give_piece(request, request.start)
        return await self._give(request)

    async def close(self) -> None:
        """Delete the uploads."""
        deleting = asyncio.create_task(self._delete())
        _, late = await asyncio.wait({deleting}, timeout=_DELETE_SECONDS)
        if late:
            deleting.cancel()
            logger.warning(f"{len(self._urls)} uploaded files were not deleted in {_DELETE_SECONDS:g} s")

    async def _save(self, request: Request) -> Response:
        self._check_uploads()
        return await self._store(request, *_file_of(request, base64.b64decode(request.body)))

    async def _save_piece(self, request: Request, piece: Piece) -> Response:
        """Add a piece to its upload, and save the upload once it is complete. The answer says how much has
        arrived."""
        try:
            self._check_uploads()
            if self._arriving is None:
                raise Problem(503, "no-uploads", "This machine has no directory to keep a large file in.")
            form = await self._arriving.add(piece, base64.b64decode(request.body))
            if form is None:
                size = self._arriving.size(piece)
                return Response(id=request.id, status=PIECE_TAKEN, size=size)
            try:
                found = await asyncio.to_thread(_file_in, request, form)
            finally:
                await asyncio.to_thread(form.unlink)
            answer = await self._store(request, *found)
        except Problem as problem:
            answer = problem.to_response(request.id)
        return answer.model_copy(update={"size": piece.offset})

    async def _give_piece(self, request: Request, start: int) -> Response:
        """Return a piece of a file that the bot left, with the headers of the whole file."""
        name = request.path.strip("/").removeprefix(f"{FILES_PATH}/")
        file, body, size = await self._read(name, start, PIECE_BYTES)
        if request.method.upper() == "HEAD":
            body = b""
        given = base64.b64encode(body).decode()
        return Response(id=request.id, status=200, headers=_headers(file), body=given, size=size)

    def _check_uploads(self) -> None:
        if self.storage is None:
            raise Problem(503, "no-uploads", "This bot takes no files: it has no file storage.")
        if self._count >= MAX_UPLOADS:
            text = f"The session has uploaded {self._count} files; allowed are {MAX_UPLOADS}."
            raise Problem(429, "too-many-files", text)

    async def _store(self, request: Request, name: str, contents: bytes, kind: str) -> Response:
        if len(contents) > MAX_FILE_BYTES:
            raise too_large()
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
        file, contents, size = await self._read(name, 0, MAX_DOWNLOAD_BYTES)
        if size > MAX_DOWNLOAD_BYTES:
            text = f"The file '{name[:_SHOWN]}' has {size} bytes; allowed are {MAX_DOWNLOAD_BYTES}."
            raise Problem(413, "file-too-large", text)
        body = base64.b64encode(contents).decode()
        return Response(id=request.id, status=200, headers=_headers(file), body=body)

    async def _read(self, name: str, start: int, most: int) -> tuple[Path, bytes, int]:
        found = self._downloads and await asyncio.to_thread(part_of, self._downloads, name, start, most)
        if not found:
            raise Problem(404, "no-such-file", f"The bot has left no file '{name[:_SHOWN]}'.")
        return found

    async def _delete(self) -> None:
        while self._urls:
            url = self._urls.pop()
            try:
                await self.storage.delete(url)
            except Exception as error:  # noqa: BLE001 - the others are still to be deleted
                logger.opt(exception=error).warning(f"the uploaded file {url} could not be deleted")
        if self._directory:
            await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)


def _new_directory() -> Path | None:
    """Return the name of a directory of the session's own, as machines of some hosts share one; None if not
    writable."""
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


def _headers(file: Path) -> tuple[tuple[str, str], ...]:
    quoted = urllib.parse.quote(os.fsencode(file.name))
    return (
        ("content-type", mimetypes.guess_type(file)[0] or "application/octet-stream"),
        # The dispatcher's own page has this origin, so a bot's file must never open as a page.
        ("content-disposition", f"attachment; filename*=UTF-8''{quoted}"),
        ("x-content-type-options", "nosniff"),
    )


def _file_in(request: Request, form: Path) -> tuple[str, bytes, str]:
    """Read the field `file` of a form on the disk; only that field's contents are held in memory."""
    with form.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as body:
        return _file_of(request, body)


def _file_of(request: Request, body: bytes | mmap.mmap) -> tuple[str, bytes, str]:
    """Return name, contents and media type of the field `file` of a form (RFC 7578)."""
    header = Message()
    header["content-type"] = dict(request.headers).get("content-type", "")
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        given = header["content-type"][:80]
        raise Problem(400, "bad-request", f"content-type: allowed is multipart/form-data, not '{given}'.")
    # RFC 2046: text before the first boundary and after the last one is ignored.
    line = b"\r\n--" + boundary.encode("latin-1")
    begin = 0 if body[: len(line) - 2] == line[2:] else body.find(line) + 2
    while begin >= 0 and (end := body.find(line, begin)) >= 0:
        head = body.find(b"\r\n\r\n", begin, end)
        fields = Message()
        for text in body[begin + len(line) - 2 : max(begin, head)].decode("utf-8", "replace").splitlines():
            name, colon, value = text.partition(":")
            if colon:
                fields[name.strip()] = value.strip()
        if head >= 0 and fields.get_param("name", header="content-disposition") == "file":
            return _name(fields), body[head + 4 : end], fields.get("content-type", "")
        begin = end + 2
    raise Problem(400, "bad-request", "file: the form has no such field.")


def _name(fields: Message) -> str:
    """Return the file's own name, without the directories that a client may put before it.

    A name that no file can have is `upload`: a bot's storage may write a file of that name.
    """
    name = Path((fields.get_filename() or "").replace("\\", "/")).name
    if name in ("", ".", "..") or "\0" in name or len(os.fsencode(name)) > MAX_NAME_BYTES:
        return "upload"
    return name
