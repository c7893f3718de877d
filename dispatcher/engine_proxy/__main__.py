"""`python -m dispatcher.engine_proxy` serves until it is told to exit."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from pydantic import ValidationError
from pydantic_settings import SettingsError

from dispatcher import watchdog
from dispatcher.clock import SystemClock
from dispatcher.engine_proxy.proxy import serving, until_lost
from dispatcher.engine_proxy.rules import Rules
from dispatcher.engine_proxy.settings import PROXY_PREFIX, ProxySettings
from dispatcher.telemetry import logs

log = logging.getLogger(__name__)


async def serve(settings: ProxySettings) -> int:
    """Serve until told to exit, or until the engine is lost; gives the exit status."""
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    async with (
        watchdog.watching(),
        serving(Rules(settings), settings.socket, settings.host, settings.port) as proxy,
    ):
        log.info("serving the engine at %s to deployment %s", settings.socket, settings.deployment)
        told = asyncio.create_task(over.wait())
        lost = asyncio.create_task(until_lost(proxy.engine_answers, SystemClock()))
        await asyncio.wait({told, lost}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        lost.cancel()
    return 0 if over.is_set() else 1


def main() -> int:
    """Run the command line; gives the exit status."""
    try:
        settings = ProxySettings()  # pyright: ignore[reportCallIssue] - its fields come from the environment
    except (ValidationError, SettingsError) as error:
        print(f"engine proxy: {PROXY_PREFIX}…: {error}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level, settings.log_format)
    return asyncio.run(serve(settings))


if __name__ == "__main__":
    sys.exit(main())
