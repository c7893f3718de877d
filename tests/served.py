"""An application behind a port of this host, for as long as a test needs it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from tests.ports import free_port


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """The ASGI application, in a thread with a loop of its own; gives its URL."""
    port = free_port()
    config = uvicorn.Config(app, host="127.0.0.1", port=port, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name=f"served-{port}")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server ended before it served"
            thread.join(0.005)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server does not end"
