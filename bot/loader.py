"""Imports the user's bot file, as `python bot.py` would have, except that its main block does not run."""

from __future__ import annotations

import ast
import asyncio
import importlib
import importlib.machinery
import importlib.util
import inspect
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from bot import packages
from bot.outcome import InvalidBot, describe, traceback_of

BotFunction = Callable[[Any], Any]

_OUR_PACKAGE = __package__ or "bot"
_OUR_DIRECTORY = Path(__file__).resolve().parent
_SPARE_NAME = "switchboard_bot_file"
"""The module name of a bot file whose own name is taken: `bot.py`, because the runtime's package is called
`bot`."""


def load(file: Path, arguments: Sequence[str] = ()) -> tuple[BotFunction, ModuleType]:
    """Import a bot file; return its `bot` function, and the module.

    May be called from any thread; `asyncio.get_event_loop()` and `signal.signal()` in the file work as they
    do in the main thread if the caller has used `as_main_thread`.

    Args:
        arguments: The bot's own command line.

    Raises:
        InvalidBot: the file is missing, cannot be imported, or has no `async def bot(runner_args)`.
    """
    if not file.is_file():
        raise InvalidBot(f"The bot file {file} does not exist.")
    # Links are followed, as Python does for its script: the file's neighbours are those of the real file.
    directory = file.resolve().parent
    sys.path.insert(0, str(directory))
    sys.argv = [str(file), *arguments]
    _share_our_name(directory)
    module = _import(file, _enter_package(file.resolve()))
    return _bot_function(file, module), module


def loaded_module(file: Path) -> ModuleType | None:
    """Return the module that `load` has made of the bot file."""
    modules = list(sys.modules.values())
    return next((module for module in modules if getattr(module, "__file__", None) == str(file)), None)


@contextmanager
def as_main_thread(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Make this thread look like the main one to a bot file.

    Args:
        loop: The main thread's event loop, which `asyncio.get_event_loop()` returns here too. It must run:
            signal handlers are set through it.
    """
    set_signal = signal.signal

    def set_on_main_thread(number: int, handler: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            return set_signal(number, handler)

        async def on_loop() -> Any:
            return set_signal(number, handler)

        return asyncio.run_coroutine_threadsafe(on_loop(), loop).result()

    asyncio.set_event_loop(loop)
    signal.signal = set_on_main_thread
    try:
        yield
    finally:
        signal.signal = set_signal
        asyncio.set_event_loop(None)


def _module_name(file: Path) -> str:
    """Return the file's own name, so that a neighbour that imports it gets the same module; else a
    spare one."""
    name = file.stem
    taken = name in sys.modules or name in sys.stdlib_module_names or name == "__main__"
    return _SPARE_NAME if taken or not name.isidentifier() else name


def _enter_package(file: Path) -> str:
    """Make the packages importable that the file's relative imports need; return their name, "" for none.

    `python -m package.bot` does the same from the directory above them.
    """
    try:
        depth = _relative_level(ast.parse(file.read_bytes()))
    except (SyntaxError, ValueError):  # its import says so
        return ""
    if depth == 0:
        return ""
    above = file.parents
    while depth < len(above) - 1 and (above[depth] / "__init__.py").is_file():
        depth += 1
    names = [directory.name for directory in reversed(above[:depth])]
    if not all(name.isidentifier() for name in names):
        return ""
    sys.path.insert(1, str(above[depth]))
    if names[0] == _OUR_PACKAGE:
        sys.modules[_OUR_PACKAGE].__path__.append(str(above[depth - 1]))
    return ".".join(names)


def _relative_level(node: ast.AST) -> int:
    """Return the most dots of any relative import. One inside a `try` is not counted, as it has an
    alternative."""
    if isinstance(node, ast.Try | ast.expr):
        return 0
    if isinstance(node, ast.ImportFrom):
        return node.level
    return max(map(_relative_level, ast.iter_child_nodes(node)), default=0)


def _import(file: Path, package: str) -> ModuleType:
    name = f"{package}.{file.stem}" if package else _module_name(file)
    loader = importlib.machinery.SourceFileLoader(name, str(file))
    spec = importlib.util.spec_from_loader(name, loader)
    if spec is None:
        raise InvalidBot(f"The bot file {file} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        if package:
            importlib.import_module(package)
        loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        text = describe(error)
        if isinstance(error, SystemExit):
            text = f"it called sys.exit({error.code!r})."
        text = f"{text} {packages.advice(error)}".rstrip()
        message = f"The bot file {file.name} could not be imported: {text}"
        raise InvalidBot(message, traceback_of(error)) from error
    return module


def _bot_function(file: Path, module: ModuleType) -> BotFunction:
    wanted = "a bot file needs `async def bot(runner_args)`."
    function = getattr(module, "bot", None)
    if function is None:
        raise InvalidBot(f"The bot file {file.name} has no function `bot`: {wanted}")
    if not callable(function):
        raise InvalidBot(f"`bot` in the bot file {file.name} is a {type(function).__name__}: {wanted}")
    # A decorator may return a plain function that gives a coroutine; a plain `def bot` is a mistake for sure.
    plain = isinstance(function, FunctionType) and function.__code__.co_name == "bot"
    if plain and not inspect.iscoroutinefunction(function):
        raise InvalidBot(f"`bot` in the bot file {file.name} is not async: {wanted}")
    try:
        inspect.signature(function).bind(object())
    except TypeError as error:
        raise InvalidBot(
            f"`bot` in the bot file {file.name} cannot take one argument ({error}): {wanted}"
        ) from None
    except ValueError:  # a callable without a signature, from C
        return function
    return function


def _share_our_name(directory: Path) -> None:
    """Let the user's files `import bot` and get their own `bot.py`, or `bot/`, beside the bot file.

    The name belongs to the runtime's package; attributes that it lacks are looked up in the user's module.
    """
    if directory.is_relative_to(_OUR_DIRECTORY):
        return
    package, module = directory / _OUR_PACKAGE, directory / f"{_OUR_PACKAGE}.py"
    initial = package / "__init__.py"
    file = initial if initial.is_file() else module
    ours = sys.modules[_OUR_PACKAGE]
    if package.is_dir():
        ours.__path__.append(str(package))
    if file.is_file():
        ours.__dict__["__getattr__"] = _Theirs(file)


class _Theirs:
    """The `__getattr__` of the runtime's package: attributes of the user's module of the same name."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._module: ModuleType | None = None

    def __call__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._find(), name)

    def _find(self) -> ModuleType:
        # The bot file itself, if it is that one; it may still be in the middle of its import.
        loaded = sys.modules.get(_SPARE_NAME)
        if loaded is not None and Path(loaded.__file__ or "").resolve() == self._file.resolve():
            return loaded
        if self._module is None:
            name = f"{_SPARE_NAME}_neighbour"
            # Their package is on our package's path; under its own name, each module is imported once.
            # If one is named like one of ours, its relative imports must not find ours.
            is_package = self._file.name == "__init__.py"
            known = _OUR_PACKAGE if is_package and not _shares_a_name(self._file.parent) else name
            loader = importlib.machinery.SourceFileLoader(known, str(self._file))
            spec = importlib.util.spec_from_file_location(known, self._file, loader=loader)
            if spec is None:
                raise ImportError(f"{self._file} is not a Python file")
            module = importlib.util.module_from_spec(spec)
            self._module = sys.modules[name] = module
            loader.exec_module(module)
        return self._module


def _shares_a_name(theirs: Path) -> bool:
    """Return True if a module of the user's package has the name of one of the runtime's."""
    ours = {entry.stem for entry in _OUR_DIRECTORY.iterdir()} - {"__init__", "__pycache__"}
    return any(entry.stem in ours for entry in theirs.iterdir())
