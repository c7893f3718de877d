"""`python -m dispatcher`, as a process of its own or, where that makes no difference, in this one."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import httpx
import pytest

from dispatcher.__main__ import main
from tests.patience import PATIENCE
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
HANGS = "import time\nprint('importing', flush=True)\ntime.sleep(3600)\n"

OURS = ("SWITCHBOARD_", "OTEL_")
"""What the variables that the dispatcher reads begin with."""


class Command:
    """The command line, with an agent whose bot hangs at import, on a free port.

    Its machines are not forked: a template takes more of the processor than all else that a dispatcher does.
    """

    def __init__(self, directory: Path) -> None:
        bot_file = directory / "bot.py"
        bot_file.write_text(HANGS)
        self.served = False
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # No TLS: to load the certificates takes as long as a start of the dispatcher in ten requests.
        self.http = httpx.Client(base_url=self.url, trust_env=False, verify=False, timeout=PATIENCE)
        self.environment = {
            "PATH": os.environ["PATH"],
            "SWITCHBOARD_PORT": str(self.port),
            "SWITCHBOARD_DATA_DIR": str(directory / "data"),
            "SWITCHBOARD_AGENTS": json.dumps({"echo": {"bot": str(bot_file)}}),
            "SWITCHBOARD_PROCESS_TEMPLATES": "false",
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dispatcher", *arguments],
            cwd=ROOT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def begin(self) -> subprocess.Popen[bytes]:
        """Begin to serve. Whoever calls it ends it, and its machines."""
        serve = [sys.executable, "-m", "dispatcher"]
        return subprocess.Popen(serve, cwd=ROOT, env=self.environment, stderr=subprocess.DEVNULL)

    def here(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Run it in this process, which saves its imports: the status that it ends with, and its stderr.

        Only for what does not serve: that has signals of its own, and does not return.
        """
        root, said = logging.getLogger(), io.StringIO()
        before = root.handlers, root.level
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
            for name in [name for name in os.environ if name.startswith(OURS)]:
                patch.delenv(name)
            for name, value in (self.environment | environment).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["dispatcher", *arguments])
            root.handlers = []
            try:
                return main(), said.getvalue()
            finally:
                root.handlers, root.level = before

    @contextlib.contextmanager
    def serving(
        self,
        log: int | IO[str] = subprocess.DEVNULL,
        descriptors: int | None = None,
        **environment: str,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Serve until the block ends, with a hard limit of file descriptors where one is given."""
        command = [sys.executable, "-m", "dispatcher"]
        if descriptors is not None:
            command = ["/bin/sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh", *command]
        process = subprocess.Popen(command, cwd=ROOT, env=self.environment | environment, stderr=log)
        self.served = True
        try:
            self.until_ready(process)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0

    def until_ready(self, process: subprocess.Popen[bytes]) -> None:
        self._until_readyz(process, 200)

    def until_draining(self, process: subprocess.Popen[bytes]) -> None:
        self._until_readyz(process, 503)

    def _until_readyz(self, process: subprocess.Popen[bytes], status: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert process.poll() is None
            with contextlib.suppress(httpx.TransportError):
                if self.http.get("/readyz").status_code == status:
                    return
            time.sleep(0.05)
        raise TimeoutError(self.url)

    def close(self) -> None:
        """End every machine that is left."""
        self.http.close()
        if self.served:
            status, said = self.here("stop-machines")
            assert status == 0, said
