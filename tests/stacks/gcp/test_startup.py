"""Start-up of a bot's VM: cloud-init and systemd take what we write, and the script runs the bot once.

The script runs with stand-ins of Docker and iptables, and with a server in the place of the VM's metadata and
of Secret Manager.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from stacks.gcp.startup import FILES, UNIT, StartUp, as_shell, settings, user_data

IMAGE = f"europe-west4-docker.pkg.dev/voice/prod/bot@sha256:{'1' * 64}"
SECRET = "projects/voice/secrets/prod-echo/versions/1"
COMMAND = ["timeout", "60", "python", "-m", "bot", "--machine-id", "m-1"]
VARIABLES = {"SWITCHBOARD_MACHINE_TOKEN": "hunter2-of-the-machine"}
SECONDS = 60.0

STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >>"$RECORD/calls"
case "$*" in
*login*) cat >"$RECORD/login" ;;
*pull*) exit "$PULLED" ;;
run*) cp -p "$RUN_DIRECTORY"/bot/* "$RECORD"; exit 3 ;;
esac
"""


def start(**changes: object) -> StartUp:
    given: dict[str, object] = {
        "agent": "echo",
        "image": IMAGE,
        "registry": "europe-west4-docker.pkg.dev",
        "secret": SECRET,
        "memory_mb": 1024,
        "udp_ports": (32768, 60999),
    }
    return StartUp(**{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{}, {"registry": "", "secret": "", "udp_ports": None}])
def test_cloud_init_takes_the_user_data(changes: dict[str, object], tmp_path: Path) -> None:
    if shutil.which("cloud-init") is None:
        pytest.skip("there is no `cloud-init`: install Debian's package, without starting it")
    (file := tmp_path / "user-data").write_text(user_data(start(**changes)))
    command = ["cloud-init", "schema", "--config-file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert "Valid" in done.stdout, "no part of it is deprecated"


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no `systemd-analyze`: install the package systemd")
    written = yaml.safe_load(user_data(start()))["write_files"]
    (unit := tmp_path / UNIT).write_text(
        next(one["content"] for one in written if one["path"].endswith(UNIT))
    )

    def complaints() -> list[str]:
        command = ["systemd-analyze", "verify", "--man=no", str(unit)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        # Programs of the VM may lack here.
        lines = [line for line in done.stderr.splitlines() if UNIT in line]
        return [line for line in lines if "is not executable" not in line and "not found" not in line]

    assert complaints() == []
    unit.write_text(unit.read_text().replace("Restart=no", "Restrat=no"))
    assert complaints(), "it finds a misspelt key"


class Google:
    """The metadata server and Secret Manager, at one address."""

    def __init__(self) -> None:
        self.attributes = {"command": json.dumps(COMMAND), "variables": json.dumps(VARIABLES)}
        self.secrets = {"ECHO_KEY": "hunter2 'of' echo"}
        self.put: dict[str, str] = {}
        google = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = google.answer(self.path, dict(self.headers))
                self.send_response(200 if text else 404)
                self.end_headers()
                self.wfile.write(text.encode())

            def do_PUT(self) -> None:
                size = int(self.headers["Content-Length"])
                google.put[self.path] = self.rfile.read(size).decode()
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str, headers: dict[str, str]) -> str:
        if path == f"/secrets/{SECRET}:access":
            assert headers["Authorization"] == "Bearer ya29.vm"
            data = base64.b64encode(json.dumps(self.secrets).encode()).decode()
            return json.dumps({"name": SECRET, "payload": {"data": data}}, indent=2)
        assert headers["Metadata-Flavor"] == "Google"
        if path == "/vm/service-accounts/default/token":
            return json.dumps({"access_token": "ya29.vm", "expires_in": 3000, "token_type": "Bearer"})
        return self.attributes.get(path.removeprefix("/vm/attributes/switchboard-"), "")


class Vm:
    """A directory as the VM's file system, in which the script runs."""

    def __init__(self, directory: Path, google: Google) -> None:
        self.google, self.record, self.run_directory = google, directory / "record", directory / "run"
        self.record.mkdir()
        self._directory = directory
        (programs := directory / "bin").mkdir()
        for name in ("docker", "iptables", "sleep", "chown"):
            (program := programs / name).write_text(STAND_IN)
            program.chmod(0o755)

    def run(self, pulled: int = 0, **changes: object) -> subprocess.CompletedProcess[str]:
        told = settings(start(**changes)) | {
            "METADATA": f"{self.google.url}/vm",
            "SECRETS": f"{self.google.url}/secrets",
            "RUN": str(self.run_directory),
            "START": str(FILES / "start.py"),
        }
        (file := self._directory / "settings").write_text(as_shell(told))
        environment = {
            "PATH": f"{self._directory / 'bin'}:{os.environ['PATH']}",
            "SWITCHBOARD_SETTINGS": str(file),
            "RECORD": str(self.record),
            "RUN_DIRECTORY": str(self.run_directory),
            "PULLED": str(pulled),
        }
        command = ["sh", str(FILES / "bot.sh")]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    @property
    def calls(self) -> list[str]:
        return (self.record / "calls").read_text().splitlines()


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Vm]:
    if shutil.which("curl") is None:
        pytest.skip("there is no `curl`: install the package")
    google = Google()
    yield Vm(tmp_path, google)
    google.server.shutdown()
    google.server.server_close()


def test_bot_gets_its_command_and_secrets_in_files_of_its_own(vm: Vm) -> None:
    done = vm.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((vm.record / "command.json").read_text()) == COMMAND
    assert json.loads((vm.record / "variables.json").read_text()) == VARIABLES
    assert json.loads((vm.record / "secrets.json").read_text()) == vm.google.secrets
    assert (vm.record / "secrets.json").stat().st_mode & 0o777 == 0o400
    assert (vm.record / "login").read_text() == "ya29.vm"
    shown = "\n".join(vm.calls) + done.stdout
    assert "hunter2" not in shown
    assert "ya29" not in shown
    assert f"chown -R 10001:10001 {vm.run_directory}/bot" in vm.calls


def test_exit_code_of_the_bot_is_noted(vm: Vm) -> None:
    assert "the bot exited with 3" in vm.run().stdout
    assert vm.google.put == {"/vm/guest-attributes/switchboard/exit-code": "3"}


@pytest.mark.parametrize(
    ("ports", "rule"),
    [
        ((32768, 60999), "iptables -w -I OUTPUT -d 169.254.169.254 -p tcp ! --dport 53 -m owner"),
        (None, "iptables -w -I DOCKER-USER -d 169.254.169.254 -p tcp ! --dport 53 -j REJECT"),
    ],
)
def test_metadata_server_is_blocked_before_the_bot_runs(
    vm: Vm, ports: tuple[int, int] | None, rule: str
) -> None:
    vm.run(udp_ports=ports)
    at = next(number for number, call in enumerate(vm.calls) if call.startswith(rule))
    runs = [number for number, call in enumerate(vm.calls) if call.startswith("docker run")]
    assert len(runs) == 1
    assert at < runs[0]


def test_image_that_cannot_be_pulled_is_told_and_nothing_runs(vm: Vm) -> None:
    done = vm.run(pulled=1)
    assert done.returncode == 1
    assert f"switchboard: the image {IMAGE} cannot be pulled" in done.stderr
    assert sum(" pull " in call for call in vm.calls) == 3
    assert not any(call.startswith("docker run") for call in vm.calls)


def test_lacking_command_is_told_by_its_key(vm: Vm) -> None:
    del vm.google.attributes["command"]
    done = vm.run()
    assert done.returncode == 1
    assert "the VM has no metadata switchboard-command" in done.stderr


def test_start_reads_its_files_once_and_becomes_the_command(tmp_path: Path) -> None:
    shutil.copy(FILES / "start.py", tmp_path)
    script = "import os; print(os.environ['ECHO_KEY'], sorted(os.listdir('.')))"
    (tmp_path / "secrets.json").write_text(json.dumps({"ECHO_KEY": "of echo"}))
    (tmp_path / "command.json").write_text(json.dumps([sys.executable, "-c", script]))
    command = [sys.executable, "-P", str(tmp_path / "start.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert done.stdout == "of echo ['start.py']\n"
