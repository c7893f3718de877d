"""`python -m dispatcher`, as a process."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys

import httpx
import pytest
from sqlalchemy import make_url

from dispatcher.keys import NAME_WORDS
from tests.dispatcher.command import ROOT, Command
from tests.patience import PATIENCE
from tests.ports import free_port


@pytest.fixture
def command(tmp_path):
    made = Command(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            {"SWITCHBOARD_PORT": "seventy"},
            "SWITCHBOARD_PORT: 'seventy' is refused; allowed: a valid integer\n",
        ),
        (
            {"SWITCHBOARD_KEEP_SESSIONS_DAYS": "1000000"},
            "SWITCHBOARD_KEEP_SESSIONS_DAYS: '1000000' is refused; allowed: less than or equal to 3650\n",
        ),
        (
            {"SWITCHBOARD_AGENTS": '{"Echo": {"bot": "b.py"}}'},
            f"SWITCHBOARD_AGENTS.Echo: 'Echo' is refused; allowed: {NAME_WORDS}\n",
        ),
        (
            {"SWITCHBOARD_AGENTS": '{"echo": {"bot": "b.py", "env": ["sk_secret!"]}}'},
            "SWITCHBOARD_AGENTS.echo.env.0: is refused; allowed: ",
        ),
        (
            {"SWITCHBOARD_DAILY_API_KEY": "short"},
            "SWITCHBOARD_DAILY_API_KEY: is refused; allowed: at least 8 items after validation",
        ),
        ({"SWITCHBOARD_HOST": "0.0.0.0"}, "host '0.0.0.0' is reachable from other machines"),
        ({"SWITCHBOARD_LOG_LEVEL": "loud"}, "'debug', 'info', 'warning' or 'error'"),
        ({"SWITCHBOARD_KEYS": "{name: web}"}, 'field "keys" from source "EnvSettingsSource"; allowed: JSON'),
    ],
)
def test_a_bad_setting_is_one_line_and_status_2(command, environment, words):
    status, said = command.here(**environment)
    assert status == 2
    assert words in said
    assert said.count("\n") == 1
    assert "sk_secret" not in said


def test_a_taken_port_is_one_line_and_status_2(command):
    with socket.socket() as other:
        other.bind(("127.0.0.1", command.port))
        other.listen()
        assert command.here() == (
            2,
            f"dispatcher: port: {command.port} on 127.0.0.1 is taken by another program; "
            "allowed: any free port\n",
        )


def test_bots_outlive_the_dispatcher_and_stop_machines_ends_them(command):
    with command.serving():
        session_id = command.http.post("/start").json()["sessionId"]
    with command.serving():
        session = command.http.get(f"/sessions/{session_id}").json()
        assert session["state"] == "starting", "its bot is still importing"
    stopped = command.run("stop-machines")
    assert stopped.returncode == 0, stopped.stderr
    assert f"stopping machine m-{session_id}" in stopped.stderr
    with command.serving():
        session = command.http.get(f"/sessions/{session_id}").json()
        assert (session["state"], session["reason"]) == ("ended", "stopped")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_draining_dispatcher_refuses_starts_until_a_second_signal(command, second):
    # The longest that is allowed: it ends before, by the second signal alone.
    with command.serving(SWITCHBOARD_DRAIN_SECONDS="60") as process:
        session_id = command.http.post("/start?wait=started").json()["sessionId"]
        process.send_signal(signal.SIGTERM)
        command.until_draining(process)
        ready = command.http.get("/readyz")
        assert (ready.status_code, ready.json()["code"]) == (503, "draining")
        # As a caller who comes only now, on a connection of its own.
        refused = httpx.post(f"{command.url}/start", trust_env=False, timeout=PATIENCE)
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert refused.headers["retry-after"] == "2"
        assert command.http.get(f"/sessions/{session_id}").json()["state"] == "starting"
        assert command.http.delete(f"/sessions/{session_id}").status_code == 200
        process.send_signal(second)
        assert process.wait(50) == 0


def test_what_the_dispatcher_keeps_is_closed_to_other_users(command, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    # As an earlier release has left it.
    sqlite3.connect(data / "switchboard.sqlite").close()
    (data / "switchboard.sqlite").touch(0o644)
    with command.serving():
        session_id = command.http.post("/start?wait=started").json()["sessionId"]
        made = [data, *data.glob("*"), *(data / "machines" / f"m-{session_id}").glob("*")]
        assert len(made) > 6
        reached = [path for path in made if path.stat().st_mode & 0o066 and not path.is_symlink()]
        assert reached == []


def test_a_second_dispatcher_on_the_same_port_or_directory_is_refused(command, tmp_path):
    with command.serving():
        _, said = command.here(SWITCHBOARD_DATA_DIR=str(tmp_path / "other"))
        assert "is taken by another program" in said
        same_directory = command.run(SWITCHBOARD_PORT=str(free_port()))
        assert same_directory.returncode == 2
        assert same_directory.stderr.endswith("cannot be used: another dispatcher uses it\n")


@pytest.mark.parametrize("arguments", [[], ["stop-machines"]])
@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_secret_that_is_none_is_refused(command, tmp_path, content, arguments):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "machine-token.key").write_bytes(content)
    status, said = command.here(*arguments)
    assert status == 2
    assert f"has {len(content)} bytes, not 32; delete it" in said
    assert said.count("\n") == 1
    (tmp_path / "data" / "machine-token.key").unlink()


@pytest.mark.parametrize("arguments", [[], ["stop-machines"]])
def test_a_directory_that_cannot_be_used_is_one_line(command, arguments):
    status, said = command.here(*arguments, SWITCHBOARD_DATA_DIR="/dev/null/x")
    assert status == 2
    assert said.startswith("dispatcher: data_dir: /dev/null/x cannot be used")
    assert said.count("\n") == 1


SECRETS = json.dumps(["what all dispatchers of a test sign with"])


@pytest.mark.parametrize("arguments", [[], ["stop-machines"]])
def test_a_database_that_cannot_be_reached_is_one_line(command, arguments):
    url = f"postgresql://switchboard:hunter2@127.0.0.1:{free_port()}/switchboard"
    done = command.here(*arguments, SWITCHBOARD_DATABASE_URL=url, SWITCHBOARD_SECRETS=SECRETS)
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
    status, said = command.here(SWITCHBOARD_DATABASE_URL=url, SWITCHBOARD_SECRETS=SECRETS)
    assert_one_line_about((status, said), "database_url", words)
    assert str(make_url(postgres_url).password) not in said


@pytest.mark.parametrize("arguments", [[], ["stop-machines"]])
def test_a_file_that_is_no_database_is_one_line(command, tmp_path, arguments):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "switchboard.sqlite").write_text("what somebody put there" * 100)
    assert_one_line_about(command.here(*arguments), "data_dir", "file is not a database")
    (tmp_path / "data" / "switchboard.sqlite").unlink()


@pytest.mark.parametrize("path", ["dev/null/x", "dev"])
def test_a_file_that_cannot_be_opened_is_one_line(command, path):
    done = command.here(SWITCHBOARD_DATABASE_URL=f"sqlite:////{path}")
    assert_one_line_about(done, "database_url", "")


def assert_one_line_about(done: tuple[int, str], field: str, words: str) -> None:
    status, said = done
    last = said.splitlines()[-1]
    assert status == 2
    assert last.startswith(f"dispatcher: {field}: the store cannot be used: ")
    assert words in last
    assert "Traceback" not in said
    assert "hunter2" not in said


@pytest.mark.parametrize("arguments", [[], ["stop-machines"]])
def test_a_tracing_variable_that_is_not_supported_is_refused_in_a_line(command, arguments):
    assert command.here(*arguments, OTEL_TRACES_EXPORTER="zipkin") == (
        2,
        "dispatcher: OTEL_TRACES_EXPORTER: 'zipkin' is not supported; allowed: otlp, none\n",
    )


def test_every_line_of_the_process_is_json_where_that_is_asked_for(command, tmp_path):
    with (tmp_path / "log").open("w") as log, command.serving(log, SWITCHBOARD_LOG_FORMAT="json"):
        command.http.post("/start?wait=none")
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    loggers = {line["logger"] for line in lines}
    assert loggers >= {"dispatcher.commands", "uvicorn.error", "dispatcher.sessions.repository"}
    assert all(line.keys() >= {"time", "level", "logger", "message", "replica"} for line in lines)


def elsewhere(machine_url: str = "", of_placement: str = "") -> dict[str, str]:
    """Return the variables of a dispatcher whose machines are at Fly."""
    overflow = {"provider": "fly", "apps": ["bots"], "region": "iad", "images": {"echo": "x@sha256:1"}}
    placement = overflow | ({"machineUrl": of_placement} if of_placement else {})
    return {
        "SWITCHBOARD_PLACEMENTS": json.dumps({"overflow": placement}),
        "SWITCHBOARD_FLY_API_TOKEN": "FlyV1 fm2_x",
        "SWITCHBOARD_FLY_API_URL": "http://127.0.0.1:9",
        **({"SWITCHBOARD_MACHINE_URL": machine_url} if machine_url else {}),
    }


def test_machines_elsewhere_that_would_look_for_the_dispatcher_at_home_are_refused(command):
    assert command.here(**elsewhere()) == (
        2,
        "dispatcher: SWITCHBOARD_MACHINE_URL: is not set, and machines of placement 'overflow' run on other "
        "hosts, where they would look for the dispatcher at 127.0.0.1; allowed: a URL at which they reach "
        "it, here or as the placement's machineUrl\n",
    )


@pytest.mark.parametrize(
    "given", [{"machine_url": "https://x.example"}, {"of_placement": "https://x.example"}]
)
def test_machines_elsewhere_are_served_where_they_are_told_a_url(command, tmp_path, given):
    with (tmp_path / "log").open("w") as log, command.serving(log, **elsewhere(**given)):
        assert command.http.get("/healthz").status_code == 200


def test_a_start_imports_only_what_the_deployment_needs(command, tmp_path):
    """Each of them takes some 0.1 s of the processor, at every start."""
    others = [
        "aiobotocore",
        "aiodocker",
        "alembic",
        "botocore",
        "opentelemetry.sdk",
        "psycopg",
        "sqlalchemy.dialects.postgresql",
    ]
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
        env=command.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


def test_a_dispatcher_that_hangs_ends(command, tmp_path):
    hangs = (
        "import signal, sys, time; from dispatcher import __main__, watchdog; watchdog.HANG_SECONDS = 2.0\n"
        "signal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))\n"
        "sys.argv = ['dispatcher']; sys.exit(__main__.main())"
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", hangs], cwd=ROOT, env=command.environment, stderr=log
        )
    command.served = True
    command.until_ready(process)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(PATIENCE) == 1
    assert "Timeout" in (tmp_path / "log").read_text()
