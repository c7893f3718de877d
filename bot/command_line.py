"""A bot's own command line: `runner_args.cli_args`, as Pipecat's development runner gives it.

The runner adds its options to the parser that a bot file hands to its `main(parser)`, parses the command line
and gives every session the result. Here the command line is the agent's `arguments`.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from bot.outcome import InvalidBot, describe, traceback_of

_RUNNER = "pipecat.runner.run"
_RECORDER = "__switchboard_main__"
_TYPES = {"port": int, "uploads_folder_max_files": int}
_SHORT = {"transport": "-t", "proxy": "-x", "direct": "-d", "downloads_folder": "-f", "uploads_folder": "-u"}

RUNNER_DEFAULTS: dict[str, Any] = {
    "host": "localhost",
    "port": 7860,
    "transport": None,
    "proxy": None,
    "direct": False,
    "downloads_folder": None,
    "uploads_folder": None,
    "uploads_folder_max_files": 10,
    "runner_body": None,
    "verbose": 0,
    "dialin": True,
    "esp32": False,
    "whatsapp": False,
    "ws_auth": "none",
    "ice_servers": None,
    "allowed_origins": None,
    "moq_connect": None,
    "moq_bind": None,
    "moq_serve": None,
    "moq_namespace": None,
    "moq_bot_id": "response",
    "moq_client_id": "request",
    "moq_tls_cert": None,
    "moq_tls_key": None,
    "moq_tls_insecure": False,
    "moq_tls_generate": None,
}
"""Options of the runner and their defaults (`main` in pipecat/runner/run.py, 1.14; a test compares them)."""

_LISTS = ("ice_servers", "allowed_origins")


class _Recorded(BaseException):
    """Ends a main block at its call of `main`: nothing catches it by accident."""


def parse(file: Path, module: ModuleType, arguments: list[str]) -> argparse.Namespace:
    """Parse the agent's `arguments` with the bot file's own parser, if it has one, and the runner's options.

    Raises:
        InvalidBot: the parser refuses the arguments, or the bot file's main block failed before it had one.
    """
    parser = _own_parser(file, module) or argparse.ArgumentParser(description="Pipecat Development Runner")
    _add_runner_options(parser)

    def refuse(message: str) -> NoReturn:
        raise InvalidBot(
            f"The bot's arguments are refused: {message}. Set `arguments` in the agent's config."
        )

    parser.error = refuse
    try:
        parsed = parser.parse_args(arguments)
    except SystemExit:  # --help and --version print and exit
        refuse(f"{' '.join(arguments)} ends the bot before it starts")
    for name in _LISTS:
        setattr(parsed, name, getattr(parsed, name) or [])
    return parsed


def _add_runner_options(parser: argparse.ArgumentParser) -> None:
    for name, default in RUNNER_DEFAULTS.items():
        names = [*filter(None, [_SHORT.get(name)]), "--" + name.replace("_", "-")]
        if name == "verbose":
            parser.add_argument("-v", *names, action="count", default=default)
        elif name == "dialin":
            parser.add_argument(*names, action=argparse.BooleanOptionalAction, default=default)
        elif default is False or name == "moq_serve":
            parser.add_argument(*names, action="store_true", default=default)
        elif name in _LISTS:
            parser.add_argument(*names, nargs="*", default=default)
        else:
            parser.add_argument(*names, type=_TYPES.get(name, str), default=default)


def _own_parser(file: Path, module: ModuleType) -> argparse.ArgumentParser | None:
    """Run the main block up to its `main(parser)`; None, and nothing is run, where it has no such call."""
    block = _main_block(file)
    if block is None:
        return None
    recorded: list[Any] = []

    def record(parser: Any = None) -> NoReturn:
        recorded.append(parser)
        raise _Recorded

    names = module.__dict__
    names[_RECORDER] = record
    try:
        # The user's own file, which has just been imported.
        exec(compile(block, str(file), "exec"), names)  # noqa: S102
    except _Recorded:
        pass
    except (Exception, SystemExit) as error:
        text = f"The main block of the bot file {file.name} failed: {describe(error)}"
        raise InvalidBot(text, traceback_of(error)) from error
    finally:
        del names[_RECORDER]
    parser = recorded[0] if recorded else None
    return parser if isinstance(parser, argparse.ArgumentParser) else None


def _main_block(file: Path) -> ast.Module | None:
    """Return the main block with its call of the runner's `main(…)` renamed, if that call has an argument."""
    tree = ast.parse(file.read_bytes())
    mains = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == _RUNNER
        for alias in node.names
        if alias.name == "main"
    }
    for statement in tree.body:
        if isinstance(statement, ast.If) and _asks_for_main(statement.test):
            block = ast.Module(statement.body, [])
            calls = [
                call
                for call in ast.walk(block)
                if isinstance(call, ast.Call)
                and isinstance(call.func, ast.Name)
                and call.func.id in mains
                and (call.args or call.keywords)
            ]
            for call in calls:
                call.func = ast.copy_location(ast.Name(_RECORDER, ast.Load()), call.func)
            return _without_import(block) if calls else None
    return None


def _asks_for_main(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


def _without_import(block: ast.Module) -> ast.Module:
    """Leave out the import of the runner's `main`: nobody calls it, and it would import a web server."""
    for node in list(block.body):
        if isinstance(node, ast.ImportFrom) and node.module == _RUNNER:
            node.names = [alias for alias in node.names if alias.name != "main"]
            if not node.names:
                block.body.remove(node)
    return block
