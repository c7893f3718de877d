"""Make a layer out of a directory: leave out what is never run, compile the bytecode, and fix every time.

    python finish.py [--epoch SECONDS] [--strip] DIRECTORY

Two runs on the same files give the same bytes: the order is sorted, the bytecode's validity hangs on the
source's hash and not on its time (and is not checked at run time, as nothing can change it there), and every
file has the time SECONDS.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import marshal
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

LEFT_OUT = (
    # Tests of packages, and their data. (Packages named `testing` are for their users.)
    *("**/tests", "**/test"),
    # For type checkers, C programmers, and tools that modify models before they run.
    *("**/*.pyi", "**/*.pxd", "**/*.pyx", "**/*.a", "numpy/_core/include", "numpy/f2py"),
    *("onnxruntime/transformers", "onnxruntime/quantization", "onnxruntime/tools", "onnxruntime/datasets"),
    # numpy's interface to its vector instructions, and other libraries that tests alone import.
    *("numpy/_core/_simd*.so", "numpy/_core/_*_tests*.so", "multidict/_testcapi*.so"),
    # Calls that administer an organization at OpenAI: a bot has no key for them.
    *("openai/resources/admin", "openai/types/admin"),
    # ONNX runtime for other languages: Python's own module has all of it inside (28 MB).
    "onnxruntime/capi/libonnxruntime.so*",
)

WITHOUT_BYTECODE = (
    "openai/lib/beta/*",
    *(
        f"openai/{part}/{name}/*"
        for part in ("resources", "types")
        for name in (
            "beta",
            "containers",
            "evals",
            "fine_tuning",
            "graders",
            "skills",
            "uploads",
            "vector_stores",
        )
    ),
    # Pipecat's command line, and its tests of bots by language models.
    *("pipecat/cli/*", "pipecat/evals/*"),
    # What numpy and Pillow load when it is asked for.
    *("numpy/ma/*", "numpy/polynomial/*", "numpy/testing/*", "PIL/*ImagePlugin.py", "PIL/*FontFile.py"),
    *("PIL/ImageCms.py", "PIL/ImageDraw2.py", "PIL/ImageGrab.py", "PIL/ImageMath.py", "PIL/ImageMorph.py"),
    *("PIL/ImageQt.py", "PIL/ImageShow.py", "PIL/ImageTk.py", "PIL/ImageWin.py", "PIL/PSDraw.py"),
    *("PIL/ImageFont.py", "PIL/PdfParser.py"),
    # soundfile needs cffi's library alone, and not its compiler of C.
    *("cffi/*", "pycparser/*"),
    # Servers and tools of libraries that bots use as clients, and those for another loop than asyncio.
    *("aiohttp/web*.py", "aiohttp/test_utils.py", "aiohttp/pytest_plugin.py", "websockets/trio/*"),
    *("anyio/_backends/_trio.py", "anyio/pytest_plugin.py", "markdown/extensions/*", "pydantic/mypy.py"),
)
"""Parts of packages that Python compiles when they are imported, which no bot's session does: patterns, in
which `*` stands for any text, `/` too."""

STANDARD_WITHOUT_BYTECODE = (
    *("_pyrepl/*", "curses/*", "dbm/*", "wsgiref/*", "xmlrpc/*", "venv/*", "xml/dom/*", "xml/sax/*"),
    # Python's own versions of modules that are libraries.
    *("_pydecimal.py", "_pydatetime.py", "_pyio.py"),
    # Tools of programmers.
    *("turtle.py", "pydoc.py", "doctest.py", "pdb.py", "bdb.py", "cmd.py", "profile.py", "cProfile.py"),
    *("pstats.py", "trace.py", "pickletools.py", "modulefinder.py", "symtable.py", "compileall.py"),
    *("py_compile.py", "pyclbr.py", "tabnanny.py", "zipapp.py", "webbrowser.py", "rlcompleter.py"),
    # Protocols that no bot speaks.
    *("mailbox.py", "imaplib.py", "smtplib.py", "ftplib.py", "poplib.py", "plistlib.py", "http/server.py"),
    "encodings/*",
)
"""Likewise of the standard library."""

WITH_BYTECODE = (
    # Formats of pictures that bots send, and those that Pillow loads with them.
    *(f"PIL/{name}ImagePlugin.py" for name in ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Ppm", "Tiff", "WebP")),
    # Encodings but the code pages of languages and makers of computers.
    *("encodings/__init__.py", "encodings/aliases.py", "encodings/*_codec.py", "encodings/*_escape.py"),
    *("encodings/utf_*.py", "encodings/ascii.py", "encodings/latin_1.py", "encodings/iso8859_1.py"),
    *("encodings/charmap.py", "encodings/cp1252.py", "encodings/cp437.py", "encodings/idna.py"),
    "encodings/punycode.py",
)
"""Exceptions from both."""

WITHOUT_DOCSTRINGS = (
    *("aiohttp", "aioice", "aiortc", "anyio", "av", "click", "fastapi", "google/protobuf", "h2", "hpack"),
    *("httpcore", "httpcore2", "httpx", "httpx2", "hyperframe", "idna", "loguru", "markdown", "num2words"),
    *("openai", "packaging", "PIL", "pipecat", "pydantic", "starlette", "uvicorn", "websockets", "yaml"),
)
"""Packages whose bytecode has no docstrings: nothing reads them at run time. Nor does the bytecode of the
standard library, which works without, as with Python's option -OO. numpy completes its own as it is imported,
so it keeps them, and a bot's own packages may show theirs to a model."""

WITH_DOCSTRINGS = ("pipecat/adapters", "pipecat/flows", "pipecat/workers")
"""Parts of these that keep them: some are the descriptions of tools, which a model reads."""

PROCESSES = 4
"""Number of processes that compile. Bytecode depends on what its process compiled before (on which strings
are shared), so each has a fixed share of the modules, in a fixed order, on any number of cores."""


def prune(directory: Path) -> None:
    """Remove `LEFT_OUT` under every site-packages in the directory."""
    for packages in directory.rglob("site-packages"):
        for pattern in LEFT_OUT:
            for path in list(packages.glob(pattern)):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(
                    missing_ok=True
                )


def strip(directory: Path) -> None:
    """Remove symbols that only a debugger reads: 50 MB of the wheels' libraries."""
    libraries = [path for path in _files(directory) if ".so" in path.name and _is_elf(path)]
    subprocess.run(["strip", "--strip-unneeded", *libraries], check=True)  # noqa: S607 - from the base's Debian


def compile_bytecode(directory: Path) -> None:
    """Write every module's bytecode; skip files that are not valid Python (templates of packages)."""
    modules = [path for path in _files(directory) if path.suffix == ".py"]
    shares = [(directory, modules[number::PROCESSES]) for number in range(PROCESSES)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=spawn, max_tasks_per_child=1) as processes:
        list(processes.map(_compile, shares))


def _compile(share: tuple[Path, list[Path]]) -> None:
    directory, modules = share
    for module in modules:
        packages, _, name = module.as_posix().rpartition("/site-packages/")
        standard = "" if packages else _in_standard_library(module)
        if is_rare(name if packages else standard, standard=not packages):
            continue
        source = module.read_bytes()
        try:
            tree = ast.parse(source)
            if packages and _is_in(name, ("pipecat",)) and _lacks_a_package(tree, module, name):
                continue
            if standard or (
                packages and _is_in(name, WITHOUT_DOCSTRINGS) and not _is_in(name, WITH_DOCSTRINGS)
            ):
                _remove_docstrings(tree)
            # The path that tracebacks show is the one inside the image.
            code = compile(tree, f"/{module.relative_to(directory).as_posix()}", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            continue
        target = Path(importlib.util.cache_from_source(module))
        target.parent.mkdir(exist_ok=True)
        # PEP 552: the flag of bytecode that hangs on the source's hash and is not checked.
        head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source)
        target.write_bytes(head + marshal.dumps(code))


def is_rare(name: str, *, standard: bool) -> bool:
    """Return whether a module has no bytecode, by its path in site-packages or in the standard library."""
    rare = STANDARD_WITHOUT_BYTECODE if standard else WITHOUT_BYTECODE
    return _matches(name, rare) and not _matches(name, WITH_BYTECODE)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _in_standard_library(module: Path) -> str:
    """Return the module's path in the standard library; empty if it is not in there."""
    found = re.search(r"/lib/python3\.\d+/(?!dist-packages/)(.+)", module.as_posix())
    return found[1] if found else ""


def _is_in(name: str, parts: tuple[str, ...]) -> bool:
    return name.startswith(tuple(f"{part}/" for part in parts))


def _remove_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            # A block has a statement, and a comment would do only for people.
            node.body[:1] = [] if len(node.body) > 1 else [ast.copy_location(ast.Pass(), node.body[0])]


def _lacks_a_package(tree: ast.Module, module: Path, name: str) -> bool:
    """Return whether the module cannot be imported, as it needs a package that is not in the image."""
    packages = module.parents[name.count("/")]
    return not all(_is_there(imported, packages) for imported in _needed(tree.body))


def _needed(statements: list[ast.stmt]) -> Iterator[str]:
    """Give the modules that are imported in any case, or whose absence the module refuses."""
    for statement in statements:
        match statement:
            case ast.Import(names=names):
                yield from (one.name for one in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case ast.Try(body=body, handlers=handlers) if all(
                isinstance(handler.body[-1], ast.Raise) for handler in handlers
            ):
                yield from _needed(body)


def _is_there(imported: str, packages: Path) -> bool:
    first, _, rest = imported.partition(".")
    if first in sys.stdlib_module_names:
        return True
    if not (packages / first).is_dir():
        return any(packages.glob(f"{first}.*"))
    # A namespace, such as `google`, has packages of several makers.
    is_namespace = rest and not (packages / first / "__init__.py").exists()
    return not is_namespace or any(packages.glob(f"{first}/{rest.partition('.')[0]}*"))


def fix_times(directory: Path, epoch: int) -> None:
    for path in (*_paths(directory), directory):
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def _paths(directory: Path) -> Iterator[Path]:
    return iter(sorted(directory.rglob("*")))


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in _paths(directory) if path.is_file() and not path.is_symlink())


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epoch", type=int, default=0, help="the time of every file, in seconds since 1970")
    parser.add_argument("--strip", action="store_true", help="strip libraries too")
    parser.add_argument("--no-bytecode", action="store_true", help="leave Python files as they are")
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    # The hash seed sets the order of a frozen set in bytecode.
    if os.environ.get("PYTHONHASHSEED") != "0":
        sys.exit("finish.py: PYTHONHASHSEED must be 0, for the same bytecode in every build")
    prune(arguments.directory)
    if arguments.strip:
        strip(arguments.directory)
    if not arguments.no_bytecode:
        compile_bytecode(arguments.directory)
    fix_times(arguments.directory, arguments.epoch)


if __name__ == "__main__":
    main()
