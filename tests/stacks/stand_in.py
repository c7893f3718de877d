"""A stand-in for the dispatcher, copied into a test's checkout as `dispatcher/__main__.py`.

It answers its health checks, unless the file `fault` in its checkout names a fault:
`dies` ends with a message, `never-ready` answers 503 at /readyz, `slow` takes 3 s to listen.
"""

import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
FAULT = (CHECKOUT / "fault").read_text() if (CHECKOUT / "fault").exists() else ""
DATA = Path(os.environ["SWITCHBOARD_DATA_DIR"])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if FAULT == "never-ready" and self.path == "/readyz" else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> int:
    if sys.argv[1:] == ["stop-machines"]:
        with (DATA / "machines-stopped").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return 0
    if FAULT == "dies":
        print("first line\nport 7 is cursed", file=sys.stderr)
        return 2
    if FAULT == "slow":
        time.sleep(3)
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["SWITCHBOARD_PORT"])), Handler)
    print(f"serving with {sorted(os.environ)}", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
