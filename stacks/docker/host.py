"""A Docker engine's API from here: over its socket, or over SSH as Docker's own client does it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from typing import IO, Any
from urllib.parse import quote, urlencode, urlsplit

from dispatcher.machines.container import request as container_version
from stacks.errors import StackError

CONNECT_SECONDS = 20

FRAME_BYTES = 8
"""Head of each piece of a command's output: which of the two it is of, and its length."""

ENDED_SECONDS, ENDED_LOOKS = 2.0, 20
"""How long, and how often, the engine is asked how a command ended whose output has."""

MOST_BYTES = 64 * 1024 * 1024
"""Of an answer: what is in containers is not ours alone."""

LAST_WORD_SECONDS = 1.0
"""For an ssh whose connection is over to end by itself."""


class EngineUnreachable(StackError):
    """The engine's host or the engine does not answer: the text says what was tried."""


class EngineFailed(StackError):
    """The engine refused or failed: the text is its own."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class _Connection(http.client.HTTPConnection):
    """HTTP over whatever leads to an engine."""

    def __init__(self, host: str, timeout: float) -> None:
        super().__init__("engine", timeout=timeout)
        self._engine = host
        self._ssh: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None

    def connect(self) -> None:
        # Again, where the engine has closed the connection after its first answer.
        self.hang_up()
        if self._engine.startswith("unix://"):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._engine.removeprefix("unix://"))
            return
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `hang_up`
        ours, theirs = socket.socketpair()
        ours.settimeout(self.timeout)
        self.sock = ours
        with theirs:
            # Not to be asked anything: nobody sits before it.
            self._ssh = subprocess.Popen(
                ssh_command(self._engine),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._said,
            )

    def last_word(self) -> str:
        """The last line that ssh has said, of a connection that failed; empty if there is none."""
        if self._ssh is None or self._said is None:
            return ""
        # What it was to read is at its end, which lets it end by itself.
        self.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._ssh.wait(LAST_WORD_SECONDS)
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def hang_up(self) -> None:
        """After `close`, which comes as soon as an answer has begun that is this connection's last."""
        if self._ssh is not None:
            self._ssh.terminate()
            self._ssh.wait()
            self._ssh = None
        if self._said is not None:
            self._said.close()
            self._said = None


def ssh_command(host: str) -> list[str]:
    url = urlsplit(host)
    port = ["-p", str(url.port)] if url.port else []
    user = ["-l", url.username] if url.username else []
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}"]
    # As it is written: `url.hostname` is in lower case, and a `Host` of ssh's configuration may not be.
    name = url.netloc.rpartition("@")[2].partition(":")[0]
    return ["ssh", *options, *port, *user, "--", name, "docker", "system", "dial-stdio"]


def call(host: str, method: str, path: str, /, timeout: float = 60, **query: str) -> Any:
    """One call of the engine's API, in its version; gives the JSON of its answer, None if there is none.

    Raises:
        EngineUnreachable, EngineFailed: as it says. What is not there is no failure.
    """
    text = _exchange(host, method, path, timeout, query)
    return json.loads(text) if text is not None and text.strip() else None


def post(host: str, path: str, content: Any, /, timeout: float = 60) -> bool:
    """Post the engine a JSON value; False if what it is for is not there. Raises as `call` does."""
    return _exchange(host, "POST", path, timeout, {}, json.dumps(content).encode()) is not None


def send(host: str, method: str, path: str, archive: bytes, /, timeout: float = 60, **query: str) -> bool:
    """Send the engine a tar archive; False if what it is for is not there. Raises as `call` does."""
    return _exchange(host, method, path, timeout, query, archive, "application/x-tar") is not None


def fetch(host: str, path: str, /, timeout: float = 60, **query: str) -> bytes | None:
    """Return an answer as it is; None if what is asked for is not there. Raises as `call` does."""
    return _exchange(host, "GET", path, timeout, query)


def execute(host: str, container: str, words: list[str], timeout: float = 60) -> tuple[int, str]:
    """Run a command in a container; gives its exit status and what it printed.

    Raises:
        EngineUnreachable, EngineFailed: as they say; the latter for a container that does not run, too.
    """
    wanted = json.dumps({"AttachStdout": True, "AttachStderr": True, "Cmd": words}).encode()
    made = _exchange(host, "POST", f"containers/{container}/exec", timeout, {}, wanted)
    if made is None:
        raise EngineFailed(f"the Docker engine at {host}: there is no container {container}", 404)
    path = f"exec/{json.loads(made)['Id']}"
    attached = json.dumps({"Detach": False, "Tty": False}).encode()
    printed = _exchange(host, "POST", f"{path}/start", timeout, {}, attached) or b""
    # The engine may say for a moment that a command runs whose output is at its end.
    for _ in range(ENDED_LOOKS):
        told = call(host, "GET", f"{path}/json") or {}
        if not told.get("Running") and told.get("ExitCode") is not None:
            return int(told["ExitCode"]), _unframed(printed)
        time.sleep(ENDED_SECONDS / ENDED_LOOKS)
    raise EngineFailed(
        f"the Docker engine at {host}: it does not say how a command in {container} ended", 500
    )


def run_once(host: str, name: str, wanted: Mapping[str, Any], timeout: float = 60) -> tuple[int, str]:
    """Run a new container to its end, and remove it; gives its exit status and what it printed.

    Args:
        wanted: The engine's request for it, but for its name.

    Raises:
        EngineUnreachable, EngineFailed: as they say; the latter for an image that is not there, too.
    """
    path = f"containers/{name}"
    # One that an interrupted run has left.
    call(host, "DELETE", path, timeout, force="true", v="true")
    content = json.dumps(wanted).encode()
    if _exchange(host, "POST", "containers/create", timeout, {"name": name}, content) is None:
        raise EngineFailed(f"the Docker engine at {host}: there is no image {wanted['Image']}", 404)
    try:
        call(host, "POST", f"{path}/start", timeout)
        ended = call(host, "POST", f"{path}/wait", timeout)
        printed = fetch(host, f"{path}/logs", timeout, stdout="true", stderr="true") or b""
    finally:
        call(host, "DELETE", path, timeout, force="true", v="true")
    if ended is None:
        raise EngineFailed(f"the Docker engine at {host}: container {name} was removed while it ran", 404)
    return int(ended["StatusCode"]), _unframed(printed)


def _unframed(stream: bytes) -> str:
    """The text of a stream in which the engine tells a command's two outputs apart: 8 bytes, then so many."""
    text = b""
    while len(stream) >= FRAME_BYTES:
        size = int.from_bytes(stream[4:FRAME_BYTES], "big")
        text += stream[FRAME_BYTES : FRAME_BYTES + size]
        stream = stream[FRAME_BYTES + size :]
    return text.decode(errors="replace").strip()


def _exchange(
    host: str,
    method: str,
    path: str,
    timeout: float,
    query: Mapping[str, str],
    content: bytes | None = None,
    kind: str = "application/json",
) -> bytes | None:
    """One call of the engine's API, in its version; gives its answer, None if that is 404."""
    connection = _Connection(host, timeout)
    try:
        connection.request("GET", f"/{container_version.PING}")
        with connection.getresponse() as pong:
            pong.read()
        version = container_version.chosen(pong.getheader(container_version.HEADER))
        target = f"/{version}/{quote(path)}" + (f"?{urlencode(query)}" if query else "")
        connection.request(method, target, content, {} if content is None else {"Content-Type": kind})
        answer = connection.getresponse()
        text = answer.read(MOST_BYTES)
        if len(text) == MOST_BYTES:
            raise EngineFailed(
                f"the Docker engine at {host}: an answer has more than {MOST_BYTES} bytes", 500
            )
    except (OSError, http.client.HTTPException) as error:
        words = connection.last_word() or str(error) or type(error).__name__
        raise EngineUnreachable(f"the Docker engine at {host} does not answer: {words}") from None
    finally:
        connection.close()
        connection.hang_up()
    if answer.status == 404:
        return None
    if answer.status >= 400:
        said = text.decode(errors="replace").strip()
        raise EngineFailed(f"the Docker engine at {host}: {said}", answer.status)
    return text
