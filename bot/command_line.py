"""A bot's own command line: `runner_args.cli_args`, as Pipecat's development runner gives it.

The runner adds its options to the parser that a bot file hands to its `main(parser)`, parses the command line
and gives every session the result. Here the command line is the agent's `arguments`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from bot.logs import logger
from bot.outcome import InvalidBot, describe, traceback_of

_RUNNER = "pipecat.runner.run"
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
    """Ends a main block at its call of `main`; a BaseException, so that no `except Exception` catches it."""


def parse(file: Path, module: ModuleType, arguments: list[str]) -> argparse.Namespace:
    """Parse the agent's `arguments` with the bot file's own parser, if it has one, and the runner's options.

    Raises:
        InvalidBot: the parser refuses the arguments, or the bot file's main block failed before it had one
            and there are arguments.
    """
    try:
        own = _own_parser(file, module)
    except InvalidBot as error:
        if arguments:
            raise
        # The main block may use paths that only its author's machine has, and `bot` may need none of it.
        logger.warning(f"{error} The bot runs without what its main block sets.")
        own = None
    parser = own or argparse.ArgumentParser(description="Pipecat Development Runner")
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
    """Run the main block up to its call of the runner's `main`; return the parser that it gives, if any.

    Also without a parser: a bot may read what its main block has set. Nothing is run where the block does
    nothing before that call, or where the file does not know the runner's `main`.
    """
    block = _main_block(file)
    if block is None:
        return None
    recorded: list[Any] = []

    def record(parser: Any = None) -> NoReturn:
        recorded.append(parser)
        raise _Recorded

    try:
        with _recording(record, module):
            # The user's own file, which has just been imported.
            exec(compile(block, str(file), "exec"), module.__dict__)  # noqa: S102
    except _Recorded:
        pass
    except (Exception, SystemExit) as error:
        text = f"The main block of the bot file {file.name} failed: {describe(error)}"
        raise InvalidBot(text, traceback_of(error)) from error
    parser = recorded[0] if recorded else None
    return parser if isinstance(parser, argparse.ArgumentParser) else None


@contextlib.contextmanager
def _recording(record: Callable[..., NoReturn], module: ModuleType) -> Iterator[None]:
    """Replace the runner's `main` by `record`, also where it is imported already."""
    runner = sys.modules.get(_RUNNER)
    if runner is None:
        # The runner itself would import a web server, which few bots need.
        stub = _Stub(record)
        try:
            yield
        finally:
            stub.leave()
        return
    theirs = runner.__dict__["main"]
    held = [name for name, value in vars(module).items() if value is theirs]
    places = [(runner.__dict__, "main"), *((module.__dict__, name) for name in held)]
    try:
        for names, name in places:
            names[name] = record
        yield
    finally:
        for names, name in places:
            names[name] = theirs


class _Stub(ModuleType):
    """A stand-in for the runner with a `main` that is recorded; any other name comes from the real one."""

    def __init__(self, record: Callable[..., NoReturn]) -> None:
        super().__init__(_RUNNER)
        self.main = record
        package, _, self._name = _RUNNER.rpartition(".")
        self._package = importlib.import_module(package)
        sys.modules[_RUNNER] = self
        setattr(self._package, self._name, self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(_RUNNER), name)

    def leave(self) -> None:
        """Remove the stand-in from the imported modules."""
        if sys.modules.get(_RUNNER) is self:
            del sys.modules[_RUNNER]
            delattr(self._package, self._name)


def _main_block(file: Path) -> ast.Module | None:
    """Return the main block, if it does more than call the runner's `main` without arguments."""
    tree = ast.parse(file.read_bytes())
    if not any(_imports_main(node) for node in ast.walk(tree)):
        return None
    # The last one: those before it prepare a script's own imports.
    for statement in reversed(tree.body):
        if isinstance(statement, ast.If) and _asks_for_main(statement.test):
            first = next(
                (one for one in statement.body if not isinstance(one, ast.Import | ast.ImportFrom)), None
            )
            return None if first is None or _is_bare_call(first, tree) else ast.Module(statement.body, [])
    return None


def _imports_main(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name == _RUNNER for alias in node.names)
    if not isinstance(node, ast.ImportFrom):
        return False
    names = {alias.name for alias in node.names}
    parent, _, name = _RUNNER.rpartition(".")
    return (node.module == _RUNNER and "main" in names) or (node.module == parent and name in names)


def _is_bare_call(statement: ast.stmt, tree: ast.Module) -> bool:
    """Tell whether a statement is `main()`, by whatever name the file has imported it."""
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == _RUNNER
        for alias in node.names
        if alias.name == "main"
    }
    call = statement.value if isinstance(statement, ast.Expr) else None
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in names
        and not call.args
        and not call.keywords
    )


def _asks_for_main(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"
