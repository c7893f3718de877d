"""The command line of `python -m dispatcher.engine_proxy`, which serves until told to exit."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from pydantic import ValidationError
from pydantic_settings import SettingsError

from dispatcher import watchdog
from dispatcher.engine_proxy.proxy import serving
from dispatcher.engine_proxy.rules import Rules
from dispatcher.engine_proxy.settings import PROXY_PREFIX, ProxySettings
from dispatcher.telemetry import logs

log = logging.getLogger(__name__)


async def serve(settings: ProxySettings) -> None:
    """Serve until told to exit. A restarted engine is found at its socket's path."""
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    async with (
        watchdog.watching(),
        serving(Rules(settings), settings.socket, settings.host, settings.port, firewall=settings.firewall),
    ):
        log.info("serving the engine at %s to deployment %s", settings.socket, settings.deployment)
        await over.wait()


def main() -> int:
    """Run the command line; return the exit status."""
    try:
        settings = ProxySettings()  # pyright: ignore[reportCallIssue] - its fields come from the environment
    except (ValidationError, SettingsError) as error:
        print(f"engine proxy: {PROXY_PREFIX}…: {error}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level, settings.log_format)
    asyncio.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
