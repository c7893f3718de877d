"""The command line of `python -m dispatcher`.

`python -m dispatcher` serves; `python -m dispatcher stop-machines` stops every machine of this data_dir.
`python -m dispatcher new-key NAME` makes a key for callers, as `make key NAME=…` does.

Settings come from `SWITCHBOARD_…` environment variables. SIGTERM and SIGINT end the dispatcher but not its
bots: these are processes of their own and reconnect to the next dispatcher.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsError

from dispatcher.plugins import RegistryError

try:
    from dispatcher import new_key
    from dispatcher.refusals import in_words
    from dispatcher.settings import ENVIRONMENT_PREFIX, Settings
    from dispatcher.telemetry import logs
    from dispatcher.telemetry.export import InvalidExport
except RegistryError as error:
    print(f"dispatcher: {error}", file=sys.stderr)
    sys.exit(2)

log = logging.getLogger(__name__)


def main() -> int:
    """Run the command line; return the exit status."""
    if sys.argv[1:2] == ["new-key"]:
        return new_key.command(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m dispatcher", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["serve", "stop-machines", "new-key"], default="serve")
    command = parser.parse_args().command
    try:
        settings = Settings()  # pyright: ignore[reportCallIssue] - its fields come from the environment
    except ValidationError as error:
        return _fail("; ".join(_in_words(fault) for fault in error.errors(include_url=False)))
    except SettingsError as error:
        # The text names the field but not the value, which may be a secret.
        return _fail(f"{error}; allowed: JSON")
    try:
        file = settings.log_file if command == "serve" else None
        logs.configure(settings.log_level, settings.log_lines, file=file)
    except OSError as error:
        return _fail(f"log_file: {settings.log_file} cannot be opened: {error.strerror}")
    # Imported only once the settings are valid, with the collector off: imports leave no garbage, and
    # scanning their objects takes a tenth of the time.
    gc.disable()
    from dispatcher import commands

    gc.enable()
    try:
        return commands.stop_machines(settings) if command == "stop-machines" else commands.serve(settings)
    except InvalidExport as error:
        return _fail(str(error))
    except commands.Unusable as error:
        log.debug("the dispatcher cannot run", exc_info=error)
        return _fail(str(error))


def _in_words(fault: ErrorDetails) -> str:
    first, *rest = [str(part) for part in fault["loc"] if part != "[key]"] or [""]
    variable = ".".join([f"{ENVIRONMENT_PREFIX}{first.upper()}", *rest])
    if fault["type"] == "missing":
        return f"{variable} is not set"
    return f"{variable}: {in_words(fault)}" if first else in_words(fault)


def _fail(message: str) -> int:
    print(f"dispatcher: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
