"""moto's server in a process of its own, with a log of the calls that it got.

    python -m tests.stacks.aws.moto_server LOG

It prints its port. A line of the log is `service:Operation`, as a policy names it, with the status and the
caller's user agent after it.
Tasks stay RUNNING: moto's own default ends them at the second look.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Moto:
    """A running server."""

    url: str
    log: Path

    def calls(self, by: str = "") -> list[str]:
        """Return the calls so far, such as `ec2:CreateVpc`; each once, in the order of the first.

        Args:
            by: A part of the caller's user agent.
        """
        lines = [line for line in self.log.read_text().splitlines() if by in line]
        return list(dict.fromkeys(line.split()[0] for line in lines))

    def client(self, service: str, region: str = "us-east-1") -> Any:
        """Return a client of botocore's."""
        import botocore.session

        return botocore.session.get_session().create_client(
            service,
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )


@contextlib.contextmanager
def serving(log: Path) -> Iterator[Moto]:
    """Run a server until the block ends."""
    log.touch()
    command = [sys.executable, "-m", "tests.stacks.aws.moto_server", str(log)]
    environment = {
        **os.environ,
        "MOTO_ECS_NEW_ARN": "true",
        # Seconds until a certificate is valid, whatever its DNS record is.
        "MOTO_ACM_VALIDATION_WAIT": "0",
        "PYTHONWARNINGS": "ignore",
    }
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            assert port, f"moto's server did not start; it exited with {process.poll()}"
            yield Moto(f"http://127.0.0.1:{port}", log)
        finally:
            process.kill()


class Logged:
    """A WSGI application that notes each call before another handles it."""

    def __init__(self, application: Any, log: Path) -> None:
        self._application = application
        self._log = log
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        call, agent = _call(environ), environ.get("HTTP_USER_AGENT", "")

        def started(status: str, *rest: Any) -> Any:
            if call:
                with self._lock, self._log.open("a") as log:
                    log.write(f"{call} {status.split()[0]} {agent}\n")
            return start_response(status, *rest)

        return self._application(environ, started)


def _call(environ: dict[str, Any]) -> str:
    """Return the operation as botocore's service models name it; nothing for moto's own pages."""
    scope = re.search(r"Credential=[^/]+/\d+/[^/]*/([a-z0-9-]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    if scope is None:
        return ""
    service = scope[1]
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return f"{service}:{target.rpartition('.')[2]}"
    if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        import io

        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        if action := parse_qs(body.decode()).get("Action"):
            return f"{service}:{action[0]}"
    return f"{service}:{_by_path(service, environ['REQUEST_METHOD'], environ['PATH_INFO'])}"


def _by_path(service: str, method: str, path: str) -> str:
    """Return the operation of a REST service by its method and path."""
    import botocore.session

    model = botocore.session.get_session().get_service_model(service)
    found = []
    # A property that its type does not know as one.
    operations: Any = model.operation_names
    for name in operations:
        http = model.operation_model(name).http
        # One of the SDKs leaves a last slash out.
        uri = http["requestUri"].partition("?")[0].rstrip("/")
        pattern = re.sub(r"\\\{[^}]+\\\}", "[^/]+", re.escape(uri))
        if http["method"] == method and re.fullmatch(pattern, path.rstrip("/")):
            found.append(name)
    return max(found, key=len) if found else f"{method} {path}"


def main(log: Path) -> None:
    from moto.moto_api import state_manager
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Write nothing: the log of calls has them."""

    state_manager.set_transition("ecs::task", {"progression": "time", "seconds": 86_400})
    application = Logged(DomainDispatcherApplication(create_backend_app), log)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
