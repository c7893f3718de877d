"""`make logs`: lines of files that grow and are replaced, as a person reads them."""

import os
import sys

import pytest

from stacks import log_commands
from stacks.docker import logs as docker_logs
from stacks.errors import StackError
from stacks.log_commands import Together, show_commands, tool_of
from stacks.log_sources import Source
from stacks.logs import Files, formatted, main, show_files
from tests.patience import PATIENCE


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
    "session", ["nonsense", "", "5f0c1d2e-0a1b-4c2d-8e3f-40516273849", "../../etc/passwd"]
)
def test_a_session_that_is_none_is_refused_by_name(session, capsys):
    assert main(["--stack", "s", "--session", session or " "]) == 1
    assert "is no session's id; allowed: the `sessionId`" in capsys.readouterr().err


def test_files_of_a_session_that_is_not_there_are_refused(tmp_path, files):
    printed(tmp_path, f"m-{SESSION}", "here\n")
    show_files(files(SESSION), once=True)
    (tmp_path / "dispatcher.log").write_text(f"session {OTHER}: waits\n")
    show_files(files(OTHER), once=True)
    (tmp_path / "dispatcher.log").write_text("")
    with pytest.raises(StackError, match=f"session {OTHER} has no log on this stack"):
        show_files(files(OTHER), once=True)


SESSION, OTHER, NOBODYS = (f"5f0c1d2e-0a1b-4c2d-8e3f-{digit * 12}" for digit in "401")

DOCKER = """#!{python}
import sys, time
words = sys.argv[1:]
assert words[:2] == ["--host", "ssh://h"], words
if words[2] == "ps":
    label = "label=switchboard.deployment=voice"
    assert words[3:6] == ["--all", "--filter", label], words
    if any(word.endswith("{other}") or word.endswith("1" * 12) for word in words):
        sys.exit()
    print("m-{session} voice-1")
elif words[-1] == "dispatcher":
    print("session {session}: begins", flush=True)
    print("session {other}: begins", flush=True)
    if "--follow" in words:
        time.sleep({seconds})
else:
    assert words[-1] == "voice-1", words
    print("hello", words[3:-1], flush=True)
    print("its last word", file=sys.stderr, flush=True)
sys.exit({status})
"""

FLY = """#!{python}
import json, sys
words = sys.argv[1:]
if words[:2] == ["machine", "list"]:
    assert words[2] == "--app" and words[4:] == ["--json"], words
    own = {{"id": "e1", "config": {{"metadata": {{"switchboard_machine": "m-{session}"}}}}}}
    print(json.dumps([{{"id": "e0", "config": {{}}}}, own] if words[3] == "voice-b" else []))
    sys.exit()
assert words[:2] == ["logs", "--app"], words
print(words[2], "session {session}" if words[2] == "voice" else words[3:])
"""


@pytest.fixture
def tools(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def put(name, text, **more):
        given = {"python": sys.executable, "session": SESSION, "other": OTHER, "seconds": 0, "status": 0}
        path = tmp_path / name
        path.write_text(text.format(**{**given, **more}))
        path.chmod(0o755)

    return put


def shown(log, bots, session="", once=True):
    seen = []
    show_commands(tool_of(log, bots), session, lambda *line: seen.append(line), once=once)
    return sorted(seen)


DOCKER_LOG = "docker --host ssh://h logs dispatcher"


def test_docker_shows_dispatcher_and_bots(tools):
    tools("docker", DOCKER)
    assert shown(DOCKER_LOG, ["voice"]) == [
        ("dispatcher", f"session {OTHER}: begins"),
        ("dispatcher", f"session {SESSION}: begins"),
        (f"m-{SESSION}", "hello []"),
        (f"m-{SESSION}", "its last word"),
    ]


def test_docker_follows_what_bots_print_from_now_on(tools):
    tools("docker", DOCKER, seconds=2)
    seen = shown(DOCKER_LOG, ["voice"], once=False)
    assert (f"m-{SESSION}", "hello ['--follow', '--tail', '0']") in seen
    assert len(seen) == 4, "a bot is followed once"


def test_docker_shows_one_session_from_its_beginning(tools):
    tools("docker", DOCKER, seconds=1)
    assert shown(DOCKER_LOG, ["voice"], SESSION, once=False) == [
        ("dispatcher", f"session {SESSION}: begins"),
        (f"m-{SESSION}", "hello ['--follow']"),
        (f"m-{SESSION}", "its last word"),
    ]


def test_a_session_without_a_machine_has_the_dispatchers_lines(tools):
    tools("docker", DOCKER, seconds=1)
    assert shown(DOCKER_LOG, ["voice"], OTHER, once=False) == [
        ("dispatcher", "(the session has no machine's log here: it has none yet, or it was deleted)"),
        ("dispatcher", f"session {OTHER}: begins"),
    ]
    with pytest.raises(StackError, match=f"GET /v1/sessions/{NOBODYS}/logs"):
        shown(DOCKER_LOG, ["voice"], NOBODYS, once=False)


def test_fly_shows_every_app_or_the_machine_of_a_session(tools):
    tools("fly", FLY)
    assert shown("fly logs --app voice", ["voice-a", "voice-b"]) == [
        ("dispatcher", f"voice session {SESSION}"),
        ("voice-a", "voice-a ['--no-tail']"),
        ("voice-b", "voice-b ['--no-tail']"),
    ]
    assert shown("fly logs --app voice", ["voice-a", "voice-b"], SESSION) == [
        ("dispatcher", f"voice session {SESSION}"),
        (f"m-{SESSION}", "voice-b ['--machine', 'e1', '--no-tail']"),
    ]
    with pytest.raises(StackError, match="has no log on this stack"):
        shown("fly logs --app voice", ["voice-a", "voice-b"], OTHER)


def test_command_that_cannot_be_run_or_fails_is_an_error(tools):
    with pytest.raises(StackError, match="/nowhere/docker cannot be run"):
        shown("/nowhere/docker --host ssh://h logs d", ["voice"])
    tools("docker", DOCKER, status=3)
    with pytest.raises(StackError, match="status 3"):
        shown(DOCKER_LOG, ["voice"])
    tools("docker", DOCKER, status=4)
    with pytest.raises(StackError, match="`docker --host ssh://h logs dispatcher` ended with status 4"):
        shown(DOCKER_LOG, [])


MANY = """#!{python}
import sys, time
from pathlib import Path
looks = Path(__file__).with_name("looks")
if sys.argv[3] == "ps":
    looks.write_text("1" + (looks.read_text() if looks.exists() else ""))
    if len(looks.read_text()) in (2, 3):
        sys.exit("connection reset")
    print("m-a a", "m-b b", "m-c c", sep="\\n")
elif sys.argv[-1] == "dispatcher":
    deadline = time.monotonic() + {seconds}
    while time.monotonic() < deadline and not Path(__file__).with_name("c").exists():
        time.sleep(0.05)
    time.sleep(0.5)
else:
    Path(__file__).with_name(sys.argv[-1]).touch()
    print("x" * 100_000, flush=True)
    sys.exit({status} if sys.argv[-1] == "a" else 0)
"""


def test_bots_get_the_places_of_those_that_ended_and_a_look_may_fail(tools, monkeypatch):
    monkeypatch.setattr(log_commands, "MOST_FOLLOWED", 2)
    monkeypatch.setattr(docker_logs, "SSH_LOOK_SECONDS", 0.1)
    tools("docker", MANY, seconds=PATIENCE, status=4)
    seen = shown(DOCKER_LOG, ["voice"], once=False)
    for name in ("m-a", "m-b", "m-c"):
        parts = [line for source, line in seen if source == name and line.startswith("x")]
        assert sum(map(len, parts)) == 100_000, "each is followed once"
        assert max(map(len, parts)) <= log_commands.CHUNK
    told = [line for _, line in seen if line.startswith("(")]
    assert sum("2 bots are followed at a time" in line for line in told) == 1
    assert sum("connection reset" in line for line in told) == 2
    assert sum("not followed any more: `docker --host" in line for line in told) == 1


def test_looks_that_fail_again_and_again_are_an_error(tools, monkeypatch):
    monkeypatch.setattr(docker_logs, "SSH_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(log_commands, "MOST_FAILED_LOOKS", 1)
    tools("docker", MANY, seconds=PATIENCE)
    with pytest.raises(StackError, match="connection reset"):
        shown(DOCKER_LOG, ["voice"], once=False)


def test_fly_that_answers_something_else_is_an_error(tools):
    tools("fly", "#!/bin/sh\necho nothing\n")
    with pytest.raises(StackError, match="answers something else"):
        shown("fly logs --app voice", ["voice-a"], SESSION)


class Printing:
    """A tool whose bots print a line; or one that fails."""

    look_seconds = 1.0

    def __init__(self, name, *, fails="", command=sys.executable):
        self._name, self._fails, self._command = name, fails, command

    def dispatcher(self, session, *, once):
        return Source("dispatcher", [sys.executable, "-c", "print('up')"])

    def bots(self, session, *, first, once):
        if self._fails:
            raise StackError(self._fails)
        return [Source(self._name, [self._command, "-c", f"print('of {self._name}')"])]


def together(*others):
    said = []
    tool = Together(Printing("own"), dict(others), lambda *line: said.append(line))
    show_commands(tool, "", lambda *line: said.append(line), once=True)
    return sorted(said)


def test_bots_of_other_clouds_are_shown_with_the_hosts():
    lines = [("dispatcher", "up"), ("app", "of app"), ("own", "of own")]
    assert together(("fly", Printing("app"))) == sorted(lines)


def test_bots_that_another_tool_cannot_show_are_named():
    lines = [("dispatcher", "up"), ("own", "of own")]
    refused = ("dispatcher", "(bots at fly are not shown: not logged in)")
    assert together(("fly", Printing("app", fails="not logged in"))) == sorted([*lines, refused])
    missing = ("dispatcher", "(bots at fly are not shown: `no-such-tool` is not on PATH)")
    assert together(("fly", Printing("app", command="no-such-tool"))) == sorted([*lines, missing])


def test_tool_of_a_stack_with_bots_elsewhere_knows_both():
    tool = tool_of("docker --host unix:///x logs d", ["dep"], {"fly": ["acme-echo-0"]})
    assert isinstance(tool, Together)
    said = []
    tool_of("docker --host unix:///x logs d", ["dep"], {"acme": ["x"]}, lambda *line: said.append(line))
    assert said == [
        ("dispatcher", "(bots at acme are not shown: use that cloud's own tool for x)"),
    ]
