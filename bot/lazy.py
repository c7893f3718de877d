"""Lazy imports for packages that only re-export names: a module is imported when one of its names is read.

`openai.types` imports 500 modules of pydantic models so that each can be named in one place, and a bot uses a
dozen of them; that was a third of a voice bot's CPU time for its imports. Every name has the same value as
before; only the moment of the import differs.
"""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

LAZY = "openai.types"
"""The package whose imports, and whose subpackages' imports, become lazy."""


def install() -> None:
    """Import packages under `LAZY` lazily from now on. Does nothing if there are none."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


class _Finder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != LAZY and not name.startswith(LAZY + "."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.submodule_search_locations is None:
            return spec
        if isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a package's `__init__.py` lazily, if it contains nothing but `from .module import Name`."""

    def exec_module(self, module: ModuleType) -> None:
        names = _passed_on(self.get_data(self.path))
        if names is None:
            super().exec_module(module)
        else:
            _Names(module, names).install()


class _Names:
    """The `__getattr__` of such a package."""

    def __init__(self, module: ModuleType, names: dict[str, tuple[str, str]]) -> None:
        self._module = module
        self._names = names

    def install(self) -> None:
        self._module.__dict__.update(
            __getattr__=self._get, __dir__=self._list, __all__=[n for n in self._names if n[0] != "_"]
        )

    def _get(self, name: str) -> Any:
        package = self._module.__name__
        if name in self._names:
            module, original = self._names[name]
            value = getattr(importlib.import_module(module, package), original)
            # Cached: the next access does not come here.
            setattr(self._module, name, value)
            return value
        # The package's modules are its attributes, as if all were imported.
        if not name.startswith("__"):
            try:
                return importlib.import_module(f".{name}", package)
            except ModuleNotFoundError as error:
                if error.name != f"{package}.{name}":
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=self._module)

    def _list(self) -> list[str]:
        return sorted({*self._module.__dict__, *self._names})


def _passed_on(source: bytes) -> dict[str, tuple[str, str]] | None:
    """Return name → (module, name in it); None if the file does anything but re-export."""
    names: dict[str, tuple[str, str]] = {}
    for statement in ast.parse(source).body:
        match statement:
            case ast.ImportFrom(module="__future__", level=0):
                continue
            case ast.ImportFrom(module=str(module), level=1 | 2 | 3 as level):
                for alias in statement.names:
                    if alias.name == "*":
                        return None
                    names[alias.asname or alias.name] = ("." * level + module, alias.name)
            case _:
                return None
    return names
