"""`make logs`: lines of files that grow and are replaced, as a person reads them."""

import os
import sys

import pytest

from stacks.errors import StackError
from stacks.logs import Files, command, formatted, show_command


@pytest.fixture
def files(tmp_path):
    made = []

    def make(session=""):
        made.append(Files(tmp_path / "dispatcher.log", tmp_path / "machines", session))
        return made[-1]

    yield make
    for one in made:
        one.close()


def printed(tmp_path, machine_id, text):
    directory = tmp_path / "machines" / machine_id
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "output.log").open("a") as file:
        file.write(text)


def test_line_has_its_source_and_no_escape_code():
    assert formatted("m-1", "a\x1b[2Jb", colors=False) == r"m-1 | a\x1b[2Jb"


def test_line_is_coloured_by_its_level():
    line = "2026-11-21 10:54:38.123 ERROR    bot:run:1 no"
    assert f"\x1b[31m{line}\x1b[0m" in formatted("m-1", line, colors=True)


def test_files_follow_dispatcher_and_bots(tmp_path, files):
    (tmp_path / "dispatcher.log").write_text("up\n")
    printed(tmp_path, "m-old", "long ago\n")
    shown = files()
    assert list(shown.lines()) == [("dispatcher", "up")]
    printed(tmp_path, "m-new", "hello\nhal")
    printed(tmp_path, "m-old", "again\n")
    assert list(shown.lines()) == [("m-new", "hello"), ("m-old", "again")]
    printed(tmp_path, "m-new", "f\n")
    assert list(shown.lines()) == [("m-new", "half")]


def test_files_show_a_session_from_its_beginning(tmp_path, files):
    (tmp_path / "dispatcher.log").write_text("session abc: begins\nsession other: begins\n")
    printed(tmp_path, "m-abc", "first\n")
    printed(tmp_path, "m-other", "not this\n")
    assert list(files("abc").lines()) == [("dispatcher", "session abc: begins"), ("m-abc", "first")]


def test_files_follow_when_the_log_is_rotated(tmp_path, files):
    shown = files()
    printed(tmp_path, "m-1", "one\n")
    assert list(shown.lines()) == [("m-1", "one")]
    log = tmp_path / "machines" / "m-1" / "output.log"
    printed(tmp_path, "m-1", "two\n")
    log.rename(log.with_name("output.1.log"))
    printed(tmp_path, "m-1", "three\n")
    assert list(shown.lines()) == [("m-1", "two"), ("m-1", "three")]


def test_files_wait_for_no_fifo_and_follow_no_link(tmp_path, files):
    for name in ("m-1", "m-2"):
        (tmp_path / "machines" / name).mkdir(parents=True)
    os.mkfifo(tmp_path / "machines" / "m-1" / "output.log")
    (tmp_path / "machines" / "m-2" / "output.log").symlink_to("/dev/zero")
    assert list(files().lines()) == []


@pytest.mark.parametrize(
    ("log", "once", "words"),
    [
        ("docker --host ssh://h logs c", False, ["docker", "--host", "ssh://h", "logs", "--follow", "c"]),
        ("docker --host ssh://h logs c", True, ["docker", "--host", "ssh://h", "logs", "c"]),
        ("fly logs --app a", False, ["fly", "logs", "--app", "a"]),
        ("fly logs --app a", True, ["fly", "logs", "--app", "a", "--no-tail"]),
    ],
)
def test_command_follows_as_the_tool_does(log, once, words):
    assert command(log, once=once) == words


def test_command_shows_a_session_alone(capfd):
    show_command([sys.executable, "-c", "print('of abc'); print('of d')"], "abc")
    assert capfd.readouterr().out == "dispatcher | of abc\n"


@pytest.mark.parametrize("words", [["/nowhere/docker"], [sys.executable, "-c", "raise SystemExit(3)"]])
def test_command_that_fails_is_an_error(words):
    with pytest.raises(StackError, match=r"cannot be run|status 3"):
        show_command(words, "")
