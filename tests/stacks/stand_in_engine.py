"""A stand-in for Docker's engine: its answers to what the `docker` stack's own resources ask.

From Docker's API reference, v1.43: "List containers", "Create", "Start", "Stop", "Remove" and "Wait for a
container", "Get container logs", "Extract an archive", "Create", "Start" and "Inspect an exec instance". The
e2e tests ask a real one.
"""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from stacks.docker.bots import DEPLOYMENT_LABEL


class Handler(BaseHTTPRequestHandler):
    """An engine with two bots of the deployment, of which one runs, and one of another deployment."""

    def do_GET(self) -> None:
        engine = self.server
        assert isinstance(engine, StandInEngine)
        if "/exec/" in self.path:
            told = {"Running": True, "ExitCode": None} if engine.runs_on > 0 else {"Running": False}
            engine.runs_on -= 1
            self._send(200, json.dumps({"ExitCode": 1 if engine.lacks else 0, **told}).encode())
            return
        if "/archive?" in self.path:
            self._send(200, engine.table)
            return
        if "/logs?" in self.path:
            engine.asked.append((self.command, self.path))
            self._send(200, b"")
            return
        given = parse_qs(urlsplit(self.path).query).get("filters", [f'{{"label": ["{DEPLOYMENT_LABEL}=x"]}}'])
        deployment = json.loads(given[0])["label"][0].partition("=")[2]
        bots = [("running-bot", "running", deployment), ("exited-bot", "exited", deployment)]
        if not engine.filters:
            bots.append(("others-bot", "running", "others"))
        self._answer(
            [{"Id": name, "State": state, "Labels": {DEPLOYMENT_LABEL: owner}} for name, state, owner in bots]
        )

    def do_PUT(self) -> None:
        engine = self.server
        assert isinstance(engine, StandInEngine)
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Content-Type"] == "application/x-tar"
        engine.asked.append((self.command, self.path))
        engine.table = None if engine.has_no_container else content
        self._send(404 if engine.has_no_container else 200, b"")

    def do_POST(self) -> None:
        engine = self.server
        assert isinstance(engine, StandInEngine)
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/exec") and engine.hangs_up:
            engine.hangs_up -= 1
            self.close_connection = True
        elif self.path.endswith("/exec"):
            engine.executed.append(json.loads(content)["Cmd"])
            self._send(200, b'{"Id": "1"}')
        elif "/exec/" in self.path:
            words = engine.lacks.encode()
            self._send(200, b"\x01\0\0\0" + len(words).to_bytes(4, "big") + words)
        elif self.path.endswith("/update"):
            engine.updated[self.path.split("/")[-2]] = json.loads(content)
            self._send(200, b"{}")
        elif "/containers/create?" in self.path:
            engine.asked.append((self.command, self.path))
            engine.created = json.loads(content)
            self._send(404 if engine.created["Image"] in engine.absent else 201, b'{"Id": "1"}')
        elif self.path.split("/")[-2] in engine.absent:
            engine.asked.append((self.command, self.path))
            self._send(404, b"")
        else:
            ended = self.path.partition("?")[0].endswith("/wait")
            self._answer({"StatusCode": 0} if ended else None)

    def do_DELETE(self) -> None:
        self._answer(None)

    def _answer(self, content: Any) -> None:
        engine = self.server
        assert isinstance(engine, StandInEngine)
        if self.path == "/_ping":
            self.send_response(200)
            self.send_header("Api-Version", engine.newest)
            self.end_headers()
            return
        engine.asked.append((self.command, self.path))
        status = 204 if content is None else 200
        if engine.fails_always or (engine.fails and self.command != "GET"):
            status, content = 500, {"message": "the disk is gone"}
        elif self.command == "DELETE" and engine.removing:
            status, content = 409, {"message": "removal of container running-bot is already in progress"}
        self.send_response(status)
        self.end_headers()
        if content is not None:
            self.wfile.write(json.dumps(content).encode())

    def _send(self, status: int, content: bytes | None) -> None:
        self.send_response(404 if content is None else status)
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, format: str, *args: object) -> None:
        pass


class StandInEngine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.asked: list[tuple[str, str]] = []
        self.fails = False
        self.filters = True
        """False: it ignores the filters of a list."""
        self.fails_always = False
        self.removing = False
        """True if it is removing its containers already when it is asked to."""
        self.newest = "1.43"
        """Version of the API that it has."""
        self.table: bytes | None = None
        """The last archive that it was sent."""
        self.has_no_container = False
        self.executed: list[list[str]] = []
        """Commands that were run in containers."""
        self.absent: set[str] = set()
        """Containers and images that it does not have."""
        self.created: dict[str, Any] = {}
        """The container that was made last."""
        self.hangs_up = 0
        """How many commands it will not take: it closes the connection."""
        self.runs_on = 0
        """How often it still says that a command runs whose output is at its end."""
        self.updated: dict[str, Any] = {}
        """Container → how it was updated last."""
        self.lacks = ""
        """What the dispatcher lacks, by its probe."""
        super().__init__(str(path), Handler)

    def get_request(self) -> tuple[Any, Any]:
        request, _ = super().get_request()
        return request, ("engine", 0)


@contextlib.contextmanager
def standing_in(socket: Path) -> Iterator[StandInEngine]:
    """An engine at this socket."""
    with StandInEngine(socket) as engine:
        thread = threading.Thread(target=engine.serve_forever, daemon=True)
        thread.start()
        yield engine
        engine.shutdown()
        thread.join()
