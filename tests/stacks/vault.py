"""A stand-in for Vault's transit secrets engine, which encrypts for the engine's `hashivault://` provider.

Written from developer.hashicorp.com/vault/api-docs/secret/transit: "Encrypt data" and "Decrypt data".
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hvs.of-the-tests"
PREFIX = "vault:v1:"


class Handler(BaseHTTPRequestHandler):
    server: Vault  # type: ignore[assignment]

    def do_PUT(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(self.path)
        verb, _, key = self.path.removeprefix("/v1/transit/").partition("/")
        if self.headers["X-Vault-Token"] != TOKEN:
            self._answer(403, {"errors": ["permission denied"]})
        elif verb == "encrypt":
            # Not what Vault does with it, but nobody else reads it, and it is bound to its key.
            hidden = base64.b64encode(f"{key}:{asked['plaintext']}".encode()).decode()
            self._answer(200, {"data": {"ciphertext": PREFIX + hidden, "key_version": 1}})
        else:
            owner, _, plain = (
                base64.b64decode(asked["ciphertext"].removeprefix(PREFIX)).decode().partition(":")
            )
            if owner == key:
                self._answer(200, {"data": {"plaintext": plain}})
            else:
                self._answer(400, {"errors": ["cipher: message authentication failed"]})

    do_POST = do_PUT

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Vault(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def served() -> Iterator[Vault]:
    with Vault() as vault:
        thread = threading.Thread(target=vault.serve_forever, daemon=True)
        thread.start()
        try:
            yield vault
        finally:
            vault.shutdown()
            thread.join()
