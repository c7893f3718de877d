"""`python -m dispatcher`, as a process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import httpx
import pytest
from sqlalchemy import make_url

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
HANGS = "import time\nprint('importing', flush=True)\ntime.sleep(3600)\n"


@pytest.fixture
def command(tmp_path):
    """Runs the command line with an agent whose bot hangs at import, on a free port."""
    made = _Command(tmp_path)
    yield made
    if made.served:
        made.run("stop-machines")


class _Command:
    def __init__(self, directory: Path) -> None:
        bot_file = directory / "bot.py"
        bot_file.write_text(HANGS)
        self.served = False
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "PATH": os.environ["PATH"],
            "SWITCHBOARD_PORT": str(self.port),
            "SWITCHBOARD_DATA_DIR": str(directory / "data"),
            "SWITCHBOARD_AGENTS": json.dumps({"echo": {"bot": str(bot_file)}}),
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dispatcher", *arguments],
            cwd=ROOT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @contextlib.contextmanager
    def serving(self, log: int | IO[str] = subprocess.DEVNULL, **environment: str):
        process = subprocess.Popen(
            [sys.executable, "-m", "dispatcher"], cwd=ROOT, env=self.environment | environment, stderr=log
        )
        self.served = True
        try:
            self.until_ready(process)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0

    def until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert process.poll() is None
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200:
                    return
        raise TimeoutError(self.url)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"SWITCHBOARD_PORT": "seventy"}, "SWITCHBOARD_PORT: Input should be a valid integer"),
        ({"SWITCHBOARD_HOST": "0.0.0.0"}, "host '0.0.0.0' is reachable from other machines"),
        ({"SWITCHBOARD_LOG_LEVEL": "loud"}, "'debug', 'info', 'warning' or 'error'"),
        ({"SWITCHBOARD_KEYS": "{name: web}"}, 'field "keys" from source "EnvSettingsSource"; allowed: JSON'),
    ],
)
def test_a_bad_setting_is_one_line_and_status_2(command, environment, words):
    done = command.run(**environment)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_taken_port_is_one_line_and_status_2(command):
    with socket.socket() as other:
        other.bind(("127.0.0.1", command.port))
        other.listen()
        done = command.run()
    assert done.returncode == 2
    assert done.stderr == (
        f"dispatcher: port: {command.port} on 127.0.0.1 is taken by another program; allowed: any free port\n"
    )


def test_bots_outlive_the_dispatcher_and_stop_machines_ends_them(command):
    with command.serving():
        session_id = httpx.post(f"{command.url}/start", trust_env=False).json()["sessionId"]
    with command.serving():
        session = httpx.get(f"{command.url}/sessions/{session_id}", trust_env=False).json()
        assert session["state"] == "starting", "its bot is still importing"
    stopped = command.run("stop-machines")
    assert stopped.returncode == 0, stopped.stderr
    assert f"stopping machine m-{session_id}" in stopped.stderr
    with command.serving():
        session = httpx.get(f"{command.url}/sessions/{session_id}", trust_env=False).json()
        assert (session["state"], session["reason"]) == ("ended", "stopped")


def test_a_second_dispatcher_on_the_same_port_or_directory_is_refused(command, tmp_path):
    with command.serving():
        same_port = command.run(SWITCHBOARD_DATA_DIR=str(tmp_path / "other"))
        assert "is taken by another program" in same_port.stderr
        same_directory = command.run(SWITCHBOARD_PORT=str(free_port()))
        assert same_directory.returncode == 2
        assert same_directory.stderr.endswith("cannot be used: another dispatcher uses it\n")


@pytest.mark.parametrize("arguments", [[], ["stop-machines"]])
@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_secret_that_is_none_is_refused(command, tmp_path, content, arguments):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "machine-token.key").write_bytes(content)
    done = command.run(*arguments)
    assert done.returncode == 2
    assert f"has {len(content)} bytes, not 32; delete it" in done.stderr
    assert done.stderr.count("\n") == 1
    (tmp_path / "data" / "machine-token.key").unlink()


@pytest.mark.parametrize("arguments", [[], ["stop-machines"]])
def test_a_directory_that_cannot_be_used_is_one_line(command, arguments):
    done = command.run(*arguments, SWITCHBOARD_DATA_DIR="/dev/null/x")
    assert done.returncode == 2
    assert done.stderr.startswith("dispatcher: data_dir: /dev/null/x cannot be used")
    assert done.stderr.count("\n") == 1


SECRETS = json.dumps(["what all dispatchers of a test sign with"])


@pytest.mark.parametrize("arguments", [[], ["stop-machines"]])
def test_a_database_that_cannot_be_reached_is_one_line(command, arguments):
    url = f"postgresql://switchboard:hunter2@127.0.0.1:{free_port()}/switchboard"
    done = command.run(*arguments, SWITCHBOARD_DATABASE_URL=url, SWITCHBOARD_SECRETS=SECRETS)
    assert_one_line_about(done, "database_url", "onnection refused")


@pytest.mark.parametrize(
    ("part", "wrong", "words"),
    [
        ("password", "hunter2", "password authentication failed"),
        ("database", "moon", '"moon" does not exist'),
    ],
)
def test_a_database_that_refuses_is_one_line(command, postgres_url, part, wrong, words):
    url = make_url(postgres_url).set(**{part: wrong}).render_as_string(hide_password=False)
    done = command.run(SWITCHBOARD_DATABASE_URL=url, SWITCHBOARD_SECRETS=SECRETS)
    assert_one_line_about(done, "database_url", words)
    assert str(make_url(postgres_url).password) not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["stop-machines"]])
def test_a_file_that_is_no_database_is_one_line(command, tmp_path, arguments):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "switchboard.sqlite").write_text("what somebody put there" * 100)
    assert_one_line_about(command.run(*arguments), "data_dir", "file is not a database")
    (tmp_path / "data" / "switchboard.sqlite").unlink()


@pytest.mark.parametrize("path", ["dev/null/x", "dev"])
def test_a_file_that_cannot_be_opened_is_one_line(command, path):
    assert_one_line_about(command.run(SWITCHBOARD_DATABASE_URL=f"sqlite:////{path}"), "database_url", "")


def assert_one_line_about(done: subprocess.CompletedProcess[str], field: str, words: str) -> None:
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2
    assert last.startswith(f"dispatcher: {field}: the store cannot be used: ")
    assert words in last
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["stop-machines"]])
def test_a_tracing_variable_that_is_not_supported_is_refused_in_a_line(command, arguments):
    ended = command.run(*arguments, OTEL_TRACES_EXPORTER="zipkin")
    assert ended.returncode == 2
    assert (
        ended.stderr == "dispatcher: OTEL_TRACES_EXPORTER: 'zipkin' is not supported; allowed: otlp, none\n"
    )


def test_every_line_of_the_process_is_json_where_that_is_asked_for(command, tmp_path):
    with (tmp_path / "log").open("w") as log, command.serving(log, SWITCHBOARD_LOG_FORMAT="json"):
        httpx.post(f"{command.url}/start?wait=none", trust_env=False)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    loggers = {line["logger"] for line in lines}
    assert loggers >= {"dispatcher.commands", "uvicorn.error", "dispatcher.sessions.ledger"}
    assert all(line.keys() >= {"time", "level", "logger", "message", "replica"} for line in lines)


def test_a_start_imports_only_what_the_deployment_needs(command, tmp_path):
    """Each of them takes some 0.1 s of the processor, at every start."""
    others = ["aiodocker", "alembic", "opentelemetry.sdk", "psycopg", "sqlalchemy.dialects.postgresql"]
    start = (
        "import asyncio, sys, dispatcher.commands as commands, dispatcher.settings as settings\n"
        "dispatcher = commands.build(settings.Settings())\n"
        "async def serve():\n"
        "    async with dispatcher.running():\n"
        f"        print([name for name in {others} if name in sys.modules])\n"
        "asyncio.run(serve())"
    )
    done = subprocess.run(
        [sys.executable, "-c", start],
        cwd=ROOT,
        env=command.environment | {"SWITCHBOARD_PROCESS_TEMPLATES": "false"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


def test_a_dispatcher_that_hangs_ends(command, tmp_path):
    hangs = (
        "import signal, sys, time; from dispatcher import __main__, watchdog; watchdog.HANG_SECONDS = 2.0\n"
        "signal.signal(signal.SIGUSR1, lambda *_: time.sleep(60))\n"
        "sys.argv = ['dispatcher']; sys.exit(__main__.main())"
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", hangs], cwd=ROOT, env=command.environment, stderr=log
        )
    command.served = True
    command.until_ready(process)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 1
    assert "Timeout" in (tmp_path / "log").read_text()
