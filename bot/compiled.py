"""What Python compiles anew in every process, kept in a file of the image as bytecode is.

`dataclass` writes the source of a class's methods and compiles it, and `re` compiles patterns: a tenth of the
CPU time that a voice bot's imports take. The results hang on nothing but the text and Python's version. What
the file does not have is compiled as ever.

    python -m bot.compiled FILE MODULE…    import the modules, those that are installed, and write FILE
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import marshal
import os
import re
import sys
import warnings
from array import array
from collections.abc import Mapping
from pathlib import Path
from re import _compiler  # pyright: ignore[reportAttributeAccessIssue] - `re` has no other way in
from typing import Any

FILE_VARIABLE = "SWITCHBOARD_COMPILED"
"""The path of the file; the image sets it."""

_VERSION = (importlib.util.MAGIC_NUMBER, _compiler._sre.MAGIC)
"""Of bytecode, and of the code of patterns."""

_HANGS_ON_MORE = re.DEBUG | re.LOCALE

_Patterns = dict[tuple[str | bytes, int], tuple[int, bytes, int, dict[str, int], tuple[str | None, ...]]]
"""Pattern and flags -> the arguments of the engine's `compile` after the pattern."""


def install(environment: Mapping[str, str] = os.environ) -> None:
    """From now on take from the file what it has. Does nothing without one, or with one of another Python."""
    try:
        kept = Path(environment[FILE_VARIABLE]).read_bytes()
    except (KeyError, OSError):
        return
    version, sources, patterns = marshal.loads(kept)  # noqa: S302 - a file of the image, as bytecode is
    if version == _VERSION:
        _install_dataclasses(sources)
        _install_patterns(patterns)


def _install_dataclasses(sources: dict[str, bytes]) -> None:
    def execute(source: Any, *namespaces: Any) -> None:
        kept = sources.get(source)
        code = source if kept is None else marshal.loads(kept)  # noqa: S302 - see above
        exec(code, *namespaces)  # noqa: S102 - as `dataclasses` does

    # The module's own name comes before the built-in one.
    dataclasses.__dict__["exec"] = execute


def _install_patterns(patterns: _Patterns) -> None:
    compile_anew, engine = _compiler.compile, _compiler._sre.compile

    def compile_pattern(pattern: Any, flags: int = 0) -> Any:
        kept = patterns.get((pattern, int(flags))) if isinstance(pattern, (str, bytes)) else None
        if kept is None:
            return compile_anew(pattern, flags)
        all_flags, code, groups, names, indices = kept
        # `copy`: a pattern shows its names as a read-only view of this dict.
        return engine(pattern, all_flags, array("I", code).tolist(), groups, dict(names), indices)

    _compiler.compile = compile_pattern


class _Recorder:
    """Compiles as ever and writes down what."""

    def __init__(self) -> None:
        self.sources: dict[str, bytes] = {}
        self.patterns: _Patterns = {}
        self._engine = _compiler._sre
        self._anew = _compiler.compile
        self._last: tuple[Any, ...] = ()

    def install(self) -> None:
        dataclasses.__dict__["exec"] = self._execute
        _compiler._sre = self
        _compiler.compile = self._compile_pattern
        re.purge()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def compile(self, pattern: Any, *arguments: Any) -> Any:
        """In the place of the engine's."""
        self._last = arguments
        return self._engine.compile(pattern, *arguments)

    def _execute(self, source: str, *namespaces: Any) -> None:
        code = compile(source, "<string>", "exec")
        self.sources[source] = marshal.dumps(code)
        exec(code, *namespaces)  # noqa: S102 - as `dataclasses` does

    def _compile_pattern(self, pattern: Any, flags: int = 0) -> Any:
        with warnings.catch_warnings(record=True) as said:
            compiled = self._anew(pattern, flags)
        for warning in said:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        all_flags, code, groups, names, indices = self._last
        if isinstance(pattern, (str, bytes)) and not said and not all_flags & _HANGS_ON_MORE:
            kept = (int(all_flags), array("I", map(int, code)).tobytes(), groups, dict(names), indices)
            self.patterns[pattern, int(flags)] = kept
        return compiled


def record(file: Path, modules: list[str]) -> None:
    """Import the modules, and write what was compiled for it."""
    recorder = _Recorder()
    recorder.install()
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    sources = dict(sorted(recorder.sources.items()))
    patterns = dict(sorted(recorder.patterns.items(), key=repr))
    file.write_bytes(marshal.dumps((_VERSION, sources, patterns)))


if __name__ == "__main__":
    record(Path(sys.argv[1]), sys.argv[2:])
