"""A provider in a package outside the tree is found, configured, checked and measured as ours are."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from dispatcher.machines import registry
from dispatcher.plugins import distributions
from dispatcher.settings import CoreSettings, settings_class
from stacks.metadata import contents
from tests.contracts.conformance import CHECKS
from tests.contracts.memory import InMemory
from tests.doubles import VirtualClock
from tests.e2e.browser import until
from tests.e2e.dispatcher import NO_TLS, Dispatcher, agent
from tests.patience import PATIENCE

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "tests" / "outside_provider"
PLACEMENTS = {"north": {"provider": "acme", "region": "north-1"}}
IMAGE = f"registry.example/bot@sha256:{'0' * 64}"


def install(site: Path) -> Path:
    """Lay a directory out as pip does for the package: its modules, and its metadata beside them."""
    (site / "acme_machines").symlink_to(PACKAGE / "acme_machines")
    for path, text in contents(PACKAGE).items():
        (site / path).parent.mkdir(exist_ok=True)
        (site / path).write_text(text)
    return site


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(install(site)))
    registry.providers.cache_clear()
    yield site
    registry.providers.cache_clear()


def settings(**changes: Any) -> CoreSettings:
    given: dict[str, Any] = {
        "agents": {"echo": {"bot": "/app/bot.py", "image": IMAGE}},
        "placements": PLACEMENTS,
        "acme_api_token": "acme_secret",
    }
    return settings_class().model_validate(given | changes)


class Acme(InMemory):
    """Acme on a virtual clock."""

    def __init__(self, region: Any = None, clock: VirtualClock | None = None, deployment: str = "sb") -> None:
        from acme_machines import provider  # pyright: ignore[reportMissingImports] - of the fixture

        self._acme = provider
        self._region = region or provider.Region()
        ends_by = (provider.EXIT_AFTER, provider.EXIT_CODE)
        super().__init__(self._region, clock or VirtualClock(), ends_by, deployment)

    def provider(self):
        return self._acme.AcmeProvider(self._region, self.deployment, self.clock)

    def neighbour(self):
        return Acme(self._region, self.clock, "neighbour")

    async def running(self):
        prefix, now = f"{self.deployment}-", self.clock.now()
        instances = self._region.instances.values()
        return [one.machine_id for one in instances if one.name.startswith(prefix) and one.ends_at > now]


@pytest.mark.parametrize("check", CHECKS)
def test_outside_provider_keeps_the_contract(check: str, installed: Path):
    harness = Acme()
    harness.run(CHECKS[check](harness))


def test_outside_provider_is_built_from_settings(installed: Path):
    from dispatcher.configured import providers_of

    made = settings()
    provider = providers_of(made, VirtualClock())["north"]  # pyright: ignore[reportArgumentType]
    assert provider.name == "acme"
    assert "acme_secret" not in repr(made) + json.dumps(made.to_environment())
    assert json.loads(made.to_environment()["SWITCHBOARD_PLACEMENTS"]) == PLACEMENTS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"acme_api_token": None}, "acme_api_token is missing, and placement 'north' is at Acme"),
        ({"acme_api_token": "acme\nsecret"}, "no line break"),
        ({"placements": {"north": {"provider": "acme", "region": "North"}}}, "placements.north.region"),
        ({"agents": {"echo": {"bot": "b.py", "image": IMAGE, "cpu": 9}}}, "cpu 9 is more than Acme has"),
        ({"agents": {"echo": {"bot": "b.py"}}}, "image is missing, and placement 'north' runs images"),
        ({"placements": {"a": {"provider": "unknown"}}}, "allowed: .*acme"),
    ],
)
def test_outside_provider_refuses_bad_settings(changes: dict[str, Any], words: str, installed: Path):
    with pytest.raises(ValidationError, match=words) as refused:
        settings(**changes)
    assert "secret" not in str(refused.value).replace("acme_secret", "")


def test_broken_provider_harms_only_who_uses_it(installed: Path, tmp_path: Path):
    info = installed / "broken.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\nbroken = no_such_module:Placement\n")
    registry.providers.cache_clear()
    distributions.cache_clear()
    settings()
    with pytest.raises(ValidationError, match=r"'broken' .*cannot be imported: No module named"):
        settings(placements={"a": {"provider": "broken"}})


def test_dispatcher_serves_placements_of_outside_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    site = tmp_path / "site"
    site.mkdir()
    more = {"PLACEMENTS": json.dumps(PLACEMENTS), "ACME_API_TOKEN": "acme_secret"}

    monkeypatch.setenv("PYTHONPATH", str(install(site)))
    serving = Dispatcher(tmp_path, {"echo": agent(Path("/app/bot.py"), image=IMAGE)}, more=more)
    serving.start()
    try:
        with httpx.Client(base_url=serving.url, verify=NO_TLS, timeout=PATIENCE) as client:
            started = client.post("/start", json={}, params={"wait": "none"})
            assert started.is_success, started.text
            until(lambda: _creates_shown(client), PATIENCE, "a create in the metrics")
    finally:
        serving.stop()


def _creates_shown(client: httpx.Client) -> bool:
    lines = client.get("/metrics").text.splitlines()
    return any('placement="north"' in line and 'action="create"' in line for line in lines)


def test_no_file_of_ours_names_it():
    ours = subprocess.run(
        [
            "git",
            "grep",
            "-il",
            "acme_machines\\|AcmePlacement",
            "--",
            "dispatcher",
            "stacks",
            "bot",
            "images",
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert ours.stdout == ""


PROVIDERS = ("process", "container", "fly", "compute-engine", "cloud-run-jobs")
MAY_NAME = {
    # The engine's proxy is the container provider's other half.
    "container": ("dispatcher/engine_proxy/",),
}


def test_dispatcher_names_no_provider():
    """No module outside a provider's package imports it, or has its name as a text of its own."""
    found = []
    for path in sorted((CHECKOUT / "dispatcher").rglob("*.py")):
        name = path.relative_to(CHECKOUT).as_posix()
        if "node_modules" in name or "/migrations/" in name:
            continue
        tree = ast.parse(path.read_text())
        for provider in PROVIDERS:
            own = provider.replace("-", "_")
            if name.startswith((f"dispatcher/machines/{own}/", *MAY_NAME.get(provider, ()))):
                continue
            package = f"dispatcher.machines.{own}"
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package):
                    found.append(f"{name}:{node.lineno}: imports {package}")
                if isinstance(node, ast.Constant) and node.value == provider:
                    found.append(f"{name}:{node.lineno}: says '{provider}'")
    assert found == []


def test_dispatcher_imports_no_client_library_of_a_provider():
    code = "import sys, dispatcher.app; print(*sorted({'aiodocker', 'aiohttp'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout.strip() == "", done.stderr
