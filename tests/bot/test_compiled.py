"""What was compiled before gives what would have been compiled now."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bot.compiled import FILE_VARIABLE
from tests.bot.dispatcher import CHECKOUT

MODULE = """
import dataclasses, re

@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: int = 3
    names: list = dataclasses.field(default_factory=list)

@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    name: str

PATTERNS = [
    re.compile(r"(?P<word>\\w+)-(?:[a-f]|x){2,5}?(\\d)?", re.IGNORECASE),
    re.compile(rb"(?s)a.(?=b)"),
    re.compile(r"^\u00e9[^\\s]*$", re.MULTILINE | re.VERBOSE),
]
"""

SAY = """
import dataclasses, json, re, subject
point = subject.Point(1)
try:
    subject.Named("a").name = "b"
except dataclasses.FrozenInstanceError as error:
    frozen = str(error)
words = subject.PATTERNS[0].fullmatch("Wort-XA7")
print(json.dumps([
    repr(point), point == subject.Point(1, 3), point < subject.Point(2), frozen,
    subject.Point.__init__.__annotations__ == {}, subject.Point.__init__.__qualname__,
    words.groupdict(), words.groups(), [m.span() for m in subject.PATTERNS[1].finditer(b"a\\nb")],
    bool(subject.PATTERNS[2].search("x\\n\u00e9t")),
    [[str(p.pattern), p.flags, p.groups, dict(p.groupindex)] for p in subject.PATTERNS],
]))
"""

COUNT = """
import re._parser
parse, patterns = re._parser.parse, []
re._parser.parse = lambda *given: patterns.append(given[0]) or parse(*given)
import subject
print(len(patterns))
"""


def run(directory: Path, code: str, **variables: str) -> str:
    path = os.pathsep.join([str(directory), str(CHECKOUT)])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **variables},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    (tmp_path / "subject.py").write_text(MODULE)
    file = tmp_path / "compiled"
    command = [sys.executable, "-m", "bot.compiled", str(file), "subject", "nowhere_to_be_found"]
    path = os.pathsep.join([str(tmp_path), str(CHECKOUT)])
    subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=True, cwd=tmp_path)
    return file


INSTALL = "import bot.compiled; bot.compiled.install()\n"


def test_classes_and_patterns_are_the_same(tmp_path: Path, kept: Path) -> None:
    anew = run(tmp_path, SAY)
    assert json.loads(anew)
    assert run(tmp_path, INSTALL + SAY, **{FILE_VARIABLE: str(kept)}) == anew


def test_nothing_is_compiled_that_was_before(tmp_path: Path, kept: Path) -> None:
    assert run(tmp_path, INSTALL + COUNT) == "3\n"
    assert run(tmp_path, INSTALL + COUNT, **{FILE_VARIABLE: str(kept)}) == "0\n"


def test_what_was_not_compiled_before_is_now(tmp_path: Path, kept: Path) -> None:
    (tmp_path / "subject.py").write_text(MODULE.replace("y: int = 3", "y: int = 4").replace("{2,5}", "{2,6}"))
    anew = run(tmp_path, SAY)
    assert run(tmp_path, INSTALL + SAY, **{FILE_VARIABLE: str(kept)}) == anew


def test_a_file_of_another_python_is_not_used(tmp_path: Path, kept: Path) -> None:
    import marshal

    _, sources, patterns = marshal.loads(kept.read_bytes())
    kept.write_bytes(marshal.dumps(((b"older", 1), sources, patterns)))
    assert run(tmp_path, INSTALL + COUNT, **{FILE_VARIABLE: str(kept)}) == "3\n"
