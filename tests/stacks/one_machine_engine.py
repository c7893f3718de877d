"""A stand-in for a Docker engine that a dispatcher runs containers on, with memory for one bot.

From Docker's API reference, v1.43: "Get system information", "List", "Create", "Start", "Inspect", "Stop" and
"Remove a container", "Inspect an image". The e2e tests ask a real one.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

MEMORY = 1536 * 1024 * 1024
"""Bytes of the host: enough for one agent of the default size, and not for two."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        engine = self.engine
        path = self._path()
        if path == "/_ping":
            self._send(200, b"OK")
        elif path == "/info":
            self._answer({"MemTotal": MEMORY})
        elif path.startswith("/images/"):
            self._answer({"Id": "sha256:1"})
        elif path == "/containers/json":
            self._answer([self._listed(name) for name in engine.created])
        elif (name := self._container(path)) in engine.created:
            self._answer(self._shown(name))
        else:
            self._answer({"message": "No such container"}, 404)

    def do_POST(self) -> None:
        engine, path = self.engine, self._path()
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/containers/create":
            name = parse_qs(urlsplit(self.path).query)["name"][0]
            engine.created[name] = json.loads(content)
            self._answer({"Id": name, "Warnings": []}, 201)
        elif path.endswith("/start"):
            engine.started.add(self._container(path))
            self._send(204, b"")
        else:
            self._send(204, b"")

    def do_DELETE(self) -> None:
        self._send(204, b"")

    @property
    def engine(self) -> OneMachineEngine:
        assert isinstance(self.server, OneMachineEngine)
        return self.server

    def _path(self) -> str:
        return re.sub(r"^/v[0-9.]+/", "/", urlsplit(self.path).path)

    def _container(self, path: str) -> str:
        return path.split("/")[2]

    def _listed(self, name: str) -> dict[str, Any]:
        labels, state = self.engine.created[name]["Labels"], self._state(name)
        return {"Id": name, "Names": [f"/{name}"], "State": state, "Labels": labels}

    def _shown(self, name: str) -> dict[str, Any]:
        config = {"Labels": self.engine.created[name]["Labels"], "Tty": False}
        return {"Id": name, "Name": f"/{name}", "State": {"Status": self._state(name)}, "Config": config}

    def _state(self, name: str) -> str:
        return "running" if name in self.engine.started else "created"

    def _answer(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Api-Version", "1.43")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


class OneMachineEngine(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.created: dict[str, dict[str, Any]] = {}
        """Name → the request that created the container."""
        self.started: set[str] = set()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def standing_in_for_one_machine() -> Iterator[OneMachineEngine]:
    with OneMachineEngine() as engine:
        thread = threading.Thread(target=engine.serve_forever, daemon=True)
        thread.start()
        yield engine
        engine.shutdown()
        thread.join()
