"""Arrows between modules, read from all imports: also those in functions and under TYPE_CHECKING."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("bot", "dispatcher", "stacks")

BESIDE = "beside"
"""Modules of `dispatcher/` that several packages share: they know `domain` and each other."""

FLOORS: tuple[tuple[str, ...], ...] = (
    ("domain",),
    (BESIDE,),
    ("machines", "transports", "reserve", "store"),
    # Checked by the providers and transports that are installed.
    ("settings",),
    ("agent_images", "outbound", "telemetry"),
    ("sessions", "readiness"),
    ("api",),
    (
        *("app", "configured", "core", "limits", "channel_socket", "server", "engine_proxy"),
        *("commands", "openapi", "new_key", "__main__"),
    ),
)
"""Packages and modules of `dispatcher/`, lowest first: each imports from lower floors alone. The highest
floor composes the rest, and its modules may import each other."""

EXCEPTIONS = {
    # What runs in a machine is also run by the process provider.
    ("dispatcher.machines", "bot.confinement"),
    ("dispatcher.machines", "bot.leader"),
    ("dispatcher.machines", "bot.output"),
    ("dispatcher.sessions", "bot.versions"),
    ("stacks.aws", "dispatcher.fields"),
    ("stacks.aws", "dispatcher.machines.ecs.sizes"),
    ("stacks.clouds", "dispatcher.plugins"),
    ("stacks.core_config", "dispatcher.fields"),
    ("stacks.core_config", "dispatcher.keys"),
    ("stacks.daily_config", "dispatcher.fields"),
    ("stacks.daily_webhook", "dispatcher.transports.daily.webhooks"),
    ("stacks.docker", "dispatcher.engine_proxy.settings"),
    ("stacks.docker", "dispatcher.fields"),
    ("stacks.docker", "dispatcher.image_table"),
    ("stacks.docker", "dispatcher.keys"),
    ("stacks.docker", "dispatcher.machines.container.request"),
    ("stacks.docker", "dispatcher.printable"),
    ("stacks.docs", "dispatcher.engine_proxy.settings"),
    ("stacks.docs", "dispatcher.fields"),
    ("stacks.docs", "dispatcher.keys"),
    ("stacks.docs", "dispatcher.machines.registry"),
    ("stacks.fly", "dispatcher.fields"),
    ("stacks.fly", "dispatcher.machines.fly.protocol"),
    ("stacks.fly", "dispatcher.machines.fly.request"),
    ("stacks.fly", "dispatcher.machines.fly.sizes"),
    ("stacks.gcp", "dispatcher.fields"),
    ("stacks.ice_config", "dispatcher.fields"),
    ("stacks.local", "bot.versions"),
    ("stacks.logs", "dispatcher.printable"),
    ("stacks.refusals", "dispatcher.fields"),
    ("stacks.refusals", "dispatcher.keys"),
    ("stacks.shared", "dispatcher.engine_proxy.settings"),
    ("stacks.shared", "dispatcher.fields"),
    ("stacks.shared", "dispatcher.keys"),
    ("stacks.shared", "dispatcher.version"),
    ("stacks.smoke", "dispatcher.transports.daily.domain"),
    ("stacks.smoke", "dispatcher.transports.daily.tokens"),
    ("stacks.smoke", "dispatcher.transports.daily.webhooks"),
}
"""(package, imported module) against the arrows: to be shrunk, never to grow."""


def test_imports_follow_the_arrows() -> None:
    found = set(_against_the_arrows(_imports(ROOT)))
    assert found - EXCEPTIONS == set(), "imports against the arrows of design.md"
    assert EXCEPTIONS - found == set(), "exceptions that nothing needs any more: delete them"


def test_no_circle_of_files() -> None:
    assert set(circles(_imports(ROOT))) == set()


def test_no_module_imports_the_package_of_a_cloud_that_is_not_its_own() -> None:
    clouds = {f"stacks.{name}" for name in CLOUD_PACKAGES}
    found = {
        (module, other)
        for module, imported in _imports(ROOT).items()
        for other in imported
        if _package(other) in clouds and _package(module) != _package(other)
    }
    assert found == set()


CLOUD_PACKAGES = sorted(
    path.name
    for path in (ROOT / "stacks").iterdir()
    if path.is_dir() and any((path / name).exists() for name in ("program.py", "placement.py", "prices.py"))
)


def test_no_circle_of_packages_in_dispatcher() -> None:
    arrows: dict[str, set[str]] = {}
    for module, imported in _imports(ROOT).items():
        for other in imported:
            if _top(module) == _top(other) == "dispatcher" and _package(module) != _package(other):
                arrows.setdefault(_package(module), set()).add(_package(other))
    assert set(circles(arrows)) == set()


def test_imports_in_functions_and_for_types_are_read(tmp_path: Path) -> None:
    for name, text in {
        "bot/protocol.py": "",
        "bot/runtime.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import dispatcher.app",
        "dispatcher/app.py": "def late():\n    from bot import protocol, runtime",
        "stacks/__init__.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    imports = _imports(tmp_path)
    assert imports["dispatcher.app"] == {"bot.protocol", "bot.runtime"}
    assert set(_against_the_arrows(imports)) == {
        ("bot.runtime", "dispatcher.app"),
        ("dispatcher.app", "bot.runtime"),
    }
    assert list(circles(imports)) == [frozenset({"bot.runtime", "dispatcher.app"})]


@functools.cache
def _imports(root: Path) -> Mapping[str, set[str]]:
    """Module → the modules of ours that it imports."""
    files = {_name(file.relative_to(root)): file for top in PACKAGES for file in (root / top).rglob("*.py")}
    return {name: set(_imported(file, files)) - {name} for name, file in files.items()}


def _imported(file: Path, ours: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in ours)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{file}: a relative import"
            for alias in node.names:
                named = f"{node.module}.{alias.name}"
                if named in ours:
                    yield named
                elif node.module in ours:
                    yield node.module


def _name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _top(module: str) -> str:
    return module.split(".")[0]


def _package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def _unit(module: str) -> str:
    """Return the part of `dispatcher/` that the arrows name."""
    name = module.split(".")[1] if "." in module else BESIDE
    return name if any(name in floor for floor in FLOORS) else BESIDE


def _against_the_arrows(imports: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, str]]:
    for module, imported in imports.items():
        for other in imported:
            if not _allowed(module, other):
                yield _importer(module), other


def _importer(module: str) -> str:
    return f"dispatcher.{_unit(module)}" if _top(module) == "dispatcher" else _package(module)


def _allowed(module: str, other: str) -> bool:
    match _top(module), _top(other):
        case "dispatcher", "dispatcher":
            return _goes_down(_unit(module), _unit(other))
        case "dispatcher", "bot":
            return other == "bot.protocol"
        case "stacks", "dispatcher":
            parts = other.split(".")
            return other == "dispatcher.settings" or (
                parts[1] in ("machines", "transports") and parts[-1] == "settings"
            )
        case first, second:
            return first == second


def _goes_down(unit: str, other: str) -> bool:
    floor, below = _floor(unit), _floor(other)
    return below < floor or unit == other or (floor == below == len(FLOORS) - 1)


def _floor(unit: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if unit in floor)


def circles(arrows: Mapping[str, Iterable[str]]) -> Iterator[frozenset[str]]:
    """Yield the strongly connected parts of more than one node (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> Iterator[frozenset[str]]:
        index[node] = low[node] = len(index)
        stack.append(node)
        for following in sorted(arrows.get(node, ())):
            if following not in index:
                yield from visit(following)
                low[node] = min(low[node], low[following])
            elif following in stack:
                low[node] = min(low[node], index[following])
        if low[node] == index[node]:
            members = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(members) > 1:
                yield frozenset(members)

    for node in sorted(arrows):
        if node not in index:
            yield from visit(node)
