"""Files that clients upload for a bot, and that a bot leaves for its client."""

import asyncio
import base64
import json
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from bot.files import MAX_DOWNLOAD_BYTES, MAX_UPLOADS
from bot.pieces import IDLE_SECONDS, MOST_ARRIVING, Arriving
from bot.problems import Problem
from bot.protocol import PIECE_BYTES, PIECE_TAKEN, Ended, Hello, Piece, Request, Response, Stop
from tests.bot.dispatcher import Dispatcher, assignment, dispatcher, machine
from tests.patience import PATIENCE

DAILY = assignment("daily", room_url="https://x.daily.co/r", token="room-token")
"""A session that needs no client's offer."""

PICTURE = bytes(range(256)) * 100 + b"\r\n--\r\n\r\n"


async def call(
    served: Dispatcher, method: str, path: str, headers: Any = (), body: bytes = b"", number: int = 0
) -> tuple[int, dict[str, str], bytes]:
    request = Request(
        id=f"{method} {path} {number}",
        method=method,
        path=path,
        headers=tuple(headers),
        body=base64.b64encode(body).decode(),
    )
    await served.send(request)
    answer = await served.wait_for(Response, lambda message: message.id == request.id)
    return answer.status, dict(answer.headers), base64.b64decode(answer.body)


async def upload(
    served: Dispatcher, name: str = "cat.png", contents: bytes = PICTURE, field: str = "file", number: int = 0
) -> tuple[int, dict[str, Any]]:
    """Send the form that an HTTP client makes."""
    form = httpx.Request("POST", "http://x/files", files={field: (name, contents)}, data={"more": "text"})
    status, _, body = await call(
        served, "POST", "files", form.headers.multi_items(), form.read(), number=number
    )
    return status, json.loads(body)


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def temporary(directory: Path) -> dict[str, str]:
    (directory / "tmp").mkdir()
    return {"TMPDIR": str(directory / "tmp")}


async def test_the_bot_reads_what_its_client_uploads_until_the_session_ends(tmp_path):
    async with (
        dispatcher() as served,
        machine(tmp_path, "reads_files.py", served.url, DAILY, environment=temporary(tmp_path)) as run,
    ):
        await served.wait_for(Hello)
        status, file = await upload(served, "C:\\pictures\\cat.png")
        assert (status, file["name"], file["format"]) == (200, "cat.png", "image/png")
        assert file["source"]["type"] == "url"
        (tmp_path / "url").write_text(file["source"]["url"])
        await until((tmp_path / "read").exists)
        assert (tmp_path / "read").read_bytes() == PICTURE
        await served.send(Stop(message="enough"))
        await served.wait_for(Ended)
        assert await run.exit_code() == 0
    assert [found for found in (tmp_path / "tmp").rglob("*") if found.is_file()] == []


async def test_a_bots_own_storage_takes_uploads_and_is_emptied_at_the_end(tmp_path):
    async with (
        dispatcher() as served,
        machine(tmp_path, "stores_files.py", served.url, DAILY) as run,
    ):
        await served.wait_for(Hello)
        status, file = await upload(served, "notes.unknown")
        assert (status, file["source"]["url"]) == (200, "shelf://notes.unknown")
        assert file["format"] == "application/octet-stream"
        assert (tmp_path / "shelf-notes.unknown").read_bytes() == PICTURE
        await served.send(Stop(message="enough"))
        await served.wait_for(Ended)
        assert await run.exit_code() == 0
    assert not (tmp_path / "shelf-notes.unknown").exists()


@pytest.mark.parametrize(
    ("returned", "reason", "words"),
    [
        ("return None", "stopped", ""),
        (
            "raise KeyError('BUCKET')",
            "invalid_bot",
            "of the bot file raised KeyError",
        ),
    ],
)
async def test_a_bot_may_have_no_storage_and_a_broken_one_is_said_to_be(tmp_path, returned, reason, words):
    bot = tmp_path / "own.py"
    waiting = "import asyncio\nasync def bot(runner_args):\n    await asyncio.sleep(3600)\n"
    bot.write_text(f"{waiting}def create_file_storage():\n    {returned}\n")

    async with dispatcher() as served, machine(tmp_path, str(bot), served.url, DAILY):
        await served.wait_for(Hello)
        if reason == "stopped":
            status, problem = await upload(served)
            assert (status, problem["code"]) == (503, "no-uploads")
            await served.send(Stop(message="enough"))
        ended = await served.wait_for(Ended)
        assert ended.reason == reason
        assert words in ended.message


async def test_uploads_are_refused_when_malformed_or_too_many(tmp_path):
    async with dispatcher() as served, machine(tmp_path, "tidy.py", served.url, DAILY):
        await served.wait_for(Hello)
        status, _, body = await call(served, "POST", "files", [("content-type", "text/plain")], b"hi")
        assert (status, json.loads(body)["code"]) == (400, "bad-request")
        assert "allowed is multipart/form-data, not 'text/plain'" in json.loads(body)["detail"]
        status, problem = await upload(served, field="picture", number=1000)
        assert (status, problem["detail"]) == (400, "file: the form has no such field.")
        for number in range(1, MAX_UPLOADS + 1):
            status, _ = await upload(served, contents=b"x", number=number)
            assert status == 200
        status, problem = await upload(served, number=MAX_UPLOADS + 1)
        assert (status, problem["code"]) == (429, "too-many-files")


async def upload_in_pieces(served: Dispatcher, contents: bytes, size: int) -> Response:
    """Send the form of a file in pieces; return the last answer."""
    form = httpx.Request("POST", "http://x/files", files={"file": ("cat.png", contents)})
    body, name = form.read(), uuid.uuid4().hex
    offset = 0
    while True:
        part = body[offset : offset + size]
        is_last = offset + size >= len(body)
        answer = await served.ask(
            *("PUT", "files", part),
            headers=tuple(form.headers.multi_items()),
            piece=Piece(upload=name, offset=offset, is_last=is_last),
        )
        if is_last or answer.status != PIECE_TAKEN:
            return answer
        offset += len(part)
        assert answer.size == offset


async def test_file_that_comes_in_pieces_is_saved_whole(tmp_path):
    async with (
        dispatcher() as served,
        machine(tmp_path, "reads_files.py", served.url, DAILY, environment=temporary(tmp_path)) as run,
    ):
        await served.wait_for(Hello)
        # Wherever it is cut: in the form's head, its boundary, the file.
        for size in (1, 7, 100, PIECE_BYTES):
            contents = PICTURE[-300:] if size < 100 else PICTURE
            answer = await upload_in_pieces(served, contents, size)
            assert answer.status == 200, base64.b64decode(answer.body)
            file = json.loads(base64.b64decode(answer.body))
            assert (file["name"], file["format"]) == ("cat.png", "image/png")
        (tmp_path / "url").write_text(file["source"]["url"])
        await until((tmp_path / "read").exists)
        assert (tmp_path / "read").read_bytes() == PICTURE
        # Nothing is left of the forms.
        assert len([found for found in (tmp_path / "tmp").rglob("*") if found.is_file()]) == 4
        await served.send(Stop(message="enough"))
        await served.wait_for(Ended)
        assert await run.exit_code() == 0
    assert [found for found in (tmp_path / "tmp").rglob("*") if found.is_file()] == []


async def test_piece_that_has_no_place_is_refused_with_a_size(tmp_path):
    """The dispatcher knows by the size that the machine knows of pieces."""

    async with dispatcher() as served, machine(tmp_path, "tidy.py", served.url, DAILY):
        await served.wait_for(Hello)
        late = await served.ask("PUT", "files", b"x", piece=Piece(upload="a", offset=5))
        assert (late.status, late.size) == (409, 5)
        for name in range(MOST_ARRIVING):
            answer = await served.ask("PUT", "files", b"x", piece=Piece(upload=str(name), offset=0))
            assert (answer.status, answer.size) == (PIECE_TAKEN, 1)
        more = await served.ask("PUT", "files", b"x", piece=Piece(upload="more", offset=0))
        assert (more.status, more.size) == (429, 0)


async def test_pieces_for_a_route_of_the_bots_own_are_refused(tmp_path):
    async with dispatcher() as served, machine(tmp_path, own_route(tmp_path), served.url, DAILY):
        await served.wait_for(Hello)
        answer = await served.ask("PUT", "files", b"x", piece=Piece(upload="a", offset=0))
        assert (answer.status, answer.size) == (413, 0)


async def test_uploads_that_nobody_goes_on_with_make_room(tmp_path):
    now = 0.0
    arriving = Arriving(tmp_path / "arriving", now=lambda: now)
    for name in range(MOST_ARRIVING):
        assert await arriving.add(Piece(upload=str(name), offset=0), b"x") is None
    with pytest.raises(Problem, match="4 large files at a time"):
        await arriving.add(Piece(upload="more", offset=0), b"x")
    now += IDLE_SECONDS + 1
    assert await arriving.add(Piece(upload="0", offset=1), b"y") is None
    assert await arriving.add(Piece(upload="more", offset=0), b"x") is None
    assert len(list((tmp_path / "arriving").iterdir())) == MOST_ARRIVING
    whole = await arriving.add(Piece(upload="0", offset=2, is_last=True), b"z")
    assert whole is not None
    assert whole.read_bytes() == b"xyz"


async def test_upload_that_grows_too_large_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr("bot.pieces.MAX_UPLOAD_BYTES", 10)

    arriving = Arriving(tmp_path / "arriving")
    assert await arriving.add(Piece(upload="a", offset=0), b"x" * 10) is None
    with pytest.raises(Problem, match="exceeds the limit"):
        await arriving.add(Piece(upload="a", offset=10, is_last=True), b"x")
    assert list((tmp_path / "arriving").iterdir()) == []


async def test_a_client_gets_what_the_bot_leaves_in_the_downloads_folder(tmp_path):
    async with (
        dispatcher() as served,
        machine(tmp_path, "leaves_files.py", served.url, DAILY, environment=temporary(tmp_path)) as run,
    ):
        await served.wait_for(Hello)
        await until((tmp_path / "left").exists)
        status, headers, body = await call(served, "GET", "files/report.txt")
        assert (status, body) == (200, b"all is well")
        assert headers["content-type"] == "text/plain"
        assert headers["content-disposition"] == "attachment; filename*=UTF-8''report.txt"
        for path in ("files/none.txt", "files/../../left", "files//etc/passwd", "files/."):
            status, _, body = await call(served, "GET", path)
            assert (status, json.loads(body)["code"]) == (404, "no-such-file"), path
        for start, expected in ((0, b"all is well"), (4, b"is well"), (99, b"")):
            piece = await served.ask("GET", "files/report.txt", start=start)
            assert (piece.status, piece.size, base64.b64decode(piece.body)) == (200, 11, expected)
            assert dict(piece.headers) == headers
        head = await served.ask("HEAD", "files/report.txt", start=0)
        assert (head.status, head.size, head.body) == (200, 11, "")
        for path in ("files/none.txt", "files/../../left", "files//etc/passwd", "files/.", "files/a\0b"):
            assert (await served.ask("GET", path, start=0)).status == 404, path
        assert (await served.ask("GET", f"files/{'x' * 5000}", start=0)).status == 404
        await served.send(Stop(message="enough"))
        await served.wait_for(Ended)
        assert await run.exit_code() == 0
    assert [found for found in (tmp_path / "tmp").rglob("*") if found.is_file()] == []


LEAVES_ODD_ONES = """
import asyncio, os
from pathlib import Path
from pipecat.runner.run import runner_downloads_folder

async def bot(runner_args):
    folder = Path(runner_downloads_folder())
    os.truncate(os.open(folder / "most", os.O_CREAT | os.O_WRONLY), {most})
    os.truncate(os.open(folder / "huge", os.O_CREAT | os.O_WRONLY), 1 << 40)
    os.mkfifo(folder / "fifo")
    (folder / "directory").mkdir()
    (folder / "circle").symlink_to("circle")
    (folder / "elsewhere").symlink_to(Path("outside").resolve())
    (folder / "link").symlink_to("most")
    Path("outside").write_text("secret")
    Path("left").touch()
    await asyncio.sleep(3600)
"""


IMPORTS_LATE = """
import asyncio
from pathlib import Path

async def bot(runner_args):
    from pipecat.runner.run import runner_downloads_folder
    (Path(runner_downloads_folder() or "nowhere") / "report.txt").write_text("late")
    Path("left").touch()
    await asyncio.sleep(3600)
"""


async def test_downloads_folder_is_there_when_bot_imports_the_runner_late(tmp_path):
    bot = tmp_path / "own.py"
    bot.write_text(IMPORTS_LATE)

    async with (
        dispatcher() as served,
        machine(tmp_path, str(bot), served.url, DAILY, environment=temporary(tmp_path)),
    ):
        await served.wait_for(Hello)
        await until((tmp_path / "left").exists)
        status, _, body = await call(served, "GET", "files/report.txt")
        assert (status, body) == (200, b"late")


async def test_only_regular_files_of_a_size_that_the_channel_takes_are_given(tmp_path):
    bot = tmp_path / "own.py"
    bot.write_text(LEAVES_ODD_ONES.format(most=MAX_DOWNLOAD_BYTES))

    environment = temporary(tmp_path)
    async with (
        dispatcher() as served,
        machine(tmp_path, str(bot), served.url, DAILY, environment=environment),
    ):
        await served.wait_for(Hello)
        await until((tmp_path / "left").exists)
        for name in ("most", "link"):
            status, _, body = await call(served, "GET", f"files/{name}")
            assert (status, len(body)) == (200, MAX_DOWNLOAD_BYTES)
        absent = ("fifo", "directory", "circle", "elsewhere", "most/x", "a\0b", "x" * 256, "y/" * 5000)
        for name in absent:
            status, _, body = await call(served, "GET", f"files/{name}")
            problem = json.loads(body)
            assert (status, problem["code"]) == (404, "no-such-file"), name
            assert len(problem["detail"]) < 200
        status, _, body = await call(served, "GET", "files/huge")
        problem = json.loads(body)
        assert (status, problem["code"]) == (413, "file-too-large")
        assert problem["detail"] == "The file 'huge' has 1099511627776 bytes; allowed are 3000000."


@pytest.mark.parametrize(
    "given",
    [
        'filename=""',
        'filename="."',
        'filename=".."',
        'filename="a/.."',
        'filename="C:\\.."',
        "filename*=utf-8''a%00b",
        f'filename="{"x" * 256}"',
        "",
    ],
)
async def test_upload_without_a_name_that_a_file_can_have_is_named_upload(tmp_path, given):
    form = (
        f'--b\r\nContent-Disposition: form-data; name="file"; {given}\r\n'
        "Content-Type: image/png\r\n\r\nx\r\n--b--\r\n"
    )

    async with dispatcher() as served, machine(tmp_path, "stores_files.py", served.url, DAILY):
        await served.wait_for(Hello)
        kind = [("content-type", "multipart/form-data; boundary=b")]
        status, _, body = await call(served, "POST", "files", kind, form.encode())
        file = json.loads(body)
        assert (status, file["name"], file["format"]) == (200, "upload", "image/png")
        assert file["source"]["url"] == "shelf://upload"


def own_route(directory: Path) -> str:
    """Write a bot file with a route of its own for uploads; return its path."""
    bot = directory / "own.py"
    bot.write_text(
        "import asyncio\n"
        "from pipecatcloud_system import app\n"
        "@app.post('/files')\n"
        "async def mine():\n    return {'mine': True}\n"
        "async def bot(runner_args):\n    await asyncio.sleep(3600)\n"
    )
    return str(bot)


async def test_a_bots_own_route_for_files_is_its_own(tmp_path):
    async with dispatcher() as served, machine(tmp_path, own_route(tmp_path), served.url, DAILY):
        await served.wait_for(Hello)
        assert await upload(served) == (200, {"mine": True})
