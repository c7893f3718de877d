"""Lazy packages: whoever asks for a name gets what they would have got."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.bot.dispatcher import CHECKOUT

NAMES = """
import importlib, json, pkgutil
import openai.types as types
packages = [types.__name__]
packages += [f"{types.__name__}.{m.name}" for m in pkgutil.iter_modules(types.__path__) if m.ispkg]

def seen(value):
    return [type(value).__name__, getattr(value, "__qualname__", repr(value)[:200])]

found = {}
for package in packages:
    module = importlib.import_module(package)
    names = [name for name in dir(module) if name[0] != "_" and name != "annotations"]
    found[package] = {name: seen(getattr(module, name)) for name in names}
print(json.dumps(found))
"""

COUNT = "import sys; print(sum(name.startswith('openai.types.') for name in sys.modules))"


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout


def imported(how: str) -> tuple[list[int], dict[str, dict[str, list[str]]]]:
    """Count the modules of `openai.types` that each statement imports, and list every name there."""
    counts = [
        f"{statement}\n{COUNT}" for statement in ("import openai", "import pipecat.services.openai.llm")
    ]
    *counted, names = run("\n".join([how, *counts, NAMES])).splitlines()
    return [int(count) for count in counted], json.loads(names)


def test_every_name_is_the_one_that_it_was_and_what_nobody_asks_for_is_not_imported() -> None:
    """In one test, since each of these processes takes seconds."""
    eager_counts, eager = imported("")
    lazy_counts, lazily = imported("import bot.lazy; bot.lazy.install()")
    assert len(lazy_counts) == 2
    for lazy_count, eager_count in zip(lazy_counts, eager_counts, strict=True):
        assert lazy_count < eager_count / 4
    assert eager.keys() == lazily.keys()
    assert len(eager) > 10
    for package, names in eager.items():
        # What is no module, and modules as far as somebody has imported them.
        wanted = {name: kind for name, kind in names.items() if kind[0] != "module"}
        assert {name: kind for name, kind in lazily[package].items() if kind[0] != "module"} == wanted


def test_the_ways_to_ask() -> None:
    code = """
import bot.lazy
bot.lazy.install()
import openai.types
from openai.types import *
from openai.types.chat import ChatCompletion, ChatCompletionMessage as Message
assert Embedding is openai.types.Embedding is openai.types.embedding.Embedding
assert openai.types.chat.chat_completion.ChatCompletion is ChatCompletion
assert "ChatCompletion" in dir(openai.types.chat)
assert not hasattr(openai.types, "NoSuchThing")
try:
    from openai.types.chat import NoSuchThing
except ImportError as error:
    print(error)
"""
    assert "cannot import name 'NoSuchThing' from 'openai.types.chat'" in run(code)


def test_a_package_that_does_more_is_imported_as_ever(tmp_path) -> None:
    package = tmp_path / "openai" / "types"
    package.mkdir(parents=True)
    (tmp_path / "openai" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("from .one import One as One\nprint('does more')\n")
    (package / "one.py").write_text("One = 1\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import bot.lazy; bot.lazy.install()\n"
    said = run(code + "import openai.types; print('openai.types.one' in sys.modules, openai.types.One)")
    assert said == "does more\nTrue 1\n"
