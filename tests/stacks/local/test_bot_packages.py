"""A bot with packages of its own, through the real engine: its machines run in an environment that has them.

Its package is a wheel that the test makes; Pipecat comes from where pip takes its packages.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pulumi.automation import PulumiCommand

from stacks.errors import ConfigError, SetupError
from stacks.local import environments, packages
from stacks.shared import bot_packages
from tests.processes import title_of
from tests.stacks.checkouts import REPOSITORY, CheckoutCopy, until
from tests.stacks.local.test_whole_stack import ask, start_session
from tests.stacks.test_installer import wheel

QUICKSTART = """\
import asyncio
import json
import sys
from pathlib import Path

import voice_services
from pipecat.runner.types import RunnerArguments

Path(__file__).with_name("report.json").write_text(json.dumps([sys.prefix, voice_services.STT]))

async def bot(runner_args: RunnerArguments):
    await asyncio.sleep(600)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; uv's stays, or each test would download Pipecat."""
    tool = packages.uv()
    assert tool is not None
    kept = subprocess.run([tool, "cache", "dir"], capture_output=True, text=True, check=True)
    monkeypatch.setenv("UV_CACHE_DIR", kept.stdout.strip())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a bot in a directory below its root, and a package that only its index has."""
    root = tmp_path / "project"
    (root / "wheels").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / "server").mkdir()
    wheel(root / "wheels", "voice_services", {"voice_services.py": "STT = 'stub'\n"})
    (root / "requirements.txt").write_text("--find-links wheels\nvoice-services==1.0\n")
    (root / "server" / "bot.py").write_text(QUICKSTART)
    return root


@pytest.fixture
def checkout(
    tmp_path: Path, pulumi_engine: PulumiCommand, nobody_logged_in: None, cache: Path
) -> Iterator[CheckoutCopy]:
    copy = CheckoutCopy(tmp_path / "checkout", pulumi_engine)
    ignored = shutil.ignore_patterns("*.pyc.*", "node_modules", "src")
    for name in ("dispatcher", "bot"):
        shutil.rmtree(copy.root / name)
        shutil.copytree(REPOSITORY / name, copy.root / name, ignore=ignored)
    shutil.copy(REPOSITORY / "requirements.txt", copy.root)
    yield copy
    for process in copy.everything():
        process.kill()


def has_template(checkout: CheckoutCopy, prefix: str) -> bool:
    """Look for a template that is ready and has loaded libraries of this environment."""
    for process in checkout.everything():
        with contextlib.suppress(psutil.NoSuchProcess):
            if title_of(process).startswith("switchboard-template") and any(
                mapped.path.startswith(prefix) for mapped in process.memory_maps()
            ):
                return True
    return False


def test_quickstart_runs_with_its_own_packages_and_plans_no_change(
    checkout: CheckoutCopy, project: Path, cache: Path
) -> None:
    checkout.write_config(port=checkout.port, agents={"quickstart": {"bot": str(project / "server/bot.py")}})
    checkout.driver().up()
    session = start_session(checkout)
    report = project / "server" / "report.json"
    until("the bot file is imported", report.exists)
    prefix, stt = json.loads(report.read_text())
    assert Path(prefix).is_relative_to(cache / "switchboard" / "environments")
    assert stt == "stub"
    assert ask(checkout, f"/sessions/{session}")["endedAt"] is None
    if sys.platform == "linux":
        until("a template with the bot's packages can fork", lambda: has_template(checkout, prefix))
        report.unlink()
        start_session(checkout)
        until("a forked machine imports the bot file", report.exists)
        assert json.loads(report.read_text()) == [prefix, "stub"]
    assert checkout.driver().preview() == 0
    # Somebody emptied the cache: an up makes it anew.
    shutil.rmtree(prefix)
    checkout.driver().up()
    assert Path(prefix, "bin", "python").exists()
    checkout.driver().destroy()
    assert checkout.everything() == []


def test_up_refuses_an_old_pipecat_by_name(checkout: CheckoutCopy, project: Path) -> None:
    (project / "requirements.txt").write_text("pipecat-ai==1.0.0\n")
    file = project / "requirements.txt"
    needed = environments.requirements(["webrtc"])
    pins = checkout.root / "requirements.txt"
    with pytest.raises(SetupError) as refused:
        environments.make(environments.directory_of(file, pins, needed), file, pins, needed)
    text = str(refused.value)
    assert "pipecat-ai==1.0.0" in text
    assert "Pipecat 1.7 to 1.14 works here" in text


def test_up_warns_once_about_a_pipecat_newer_than_tested(
    tmp_path: Path, project: Path, pulumi_engine: PulumiCommand, nobody_logged_in: None, cache: Path
) -> None:
    """Its newer Pipecat is a wheel of the test's own, without content."""
    wheel(project / "wheels", "pipecat_ai", {}, version="1.99.0")
    (project / "requirements.txt").write_text("--find-links wheels\npipecat-ai==1.99.0\n")
    checkout = CheckoutCopy(tmp_path / "checkout", pulumi_engine)
    shutil.copy(REPOSITORY / "requirements.txt", checkout.root)
    agents = {"newer": {"bot": str(project / "server/bot.py")}}
    checkout.write_config(port=checkout.port, agents=agents)
    try:
        checkout.driver().up()
        warnings = [line for line in checkout.lines if "1.99.0" in line]
        assert len(warnings) == 1, checkout.lines
        assert (
            "agent newer: Pipecat 1.99.0 is newer than the versions tested here, 1.7 to 1.14." in warnings[0]
        )
        # An environment of the user's own is looked at too.
        (prefix,) = (path.parent for path in (cache / "switchboard" / "environments").glob("*/bin"))
        agents["newer"]["python"] = str(prefix / "bin" / "python")
        checkout.write_config(port=checkout.port, agents=agents)
        checkout.lines.clear()
        checkout.driver().preview()
        assert [line for line in checkout.lines if "1.99.0" in line] == warnings
    finally:
        checkout.driver().destroy()


def test_find_looks_up_to_the_repositorys_root_and_not_beyond(tmp_path: Path, project: Path) -> None:
    bot = project / "server" / "bot.py"
    elsewhere = tmp_path / "checkout"
    assert bot_packages.find(bot, elsewhere) == project / "requirements.txt"
    # A pyproject.toml with settings of tools alone lists no packages.
    (project / "server" / "pyproject.toml").write_text("[tool.ruff]\n")
    assert bot_packages.find(bot, elsewhere) == project / "requirements.txt"
    (project / "server" / "pyproject.toml").write_text("[project]\nname = 'x'\ndependencies = []\n")
    assert bot_packages.find(bot, elsewhere) == project / "server" / "pyproject.toml"
    (project / "server" / "pyproject.toml").unlink()
    (project / "requirements.txt").rename(tmp_path / "requirements.txt")
    assert bot_packages.find(bot, elsewhere) is None
    assert bot_packages.find(REPOSITORY / "bot" / "agents" / "echo.py", REPOSITORY) is None


def test_find_names_a_pyproject_that_is_no_toml(tmp_path: Path, project: Path) -> None:
    (project / "server" / "pyproject.toml").write_text("[project\n")
    with pytest.raises(ConfigError, match=r"pyproject\.toml: cannot be read"):
        bot_packages.find(project / "server" / "bot.py", tmp_path)


@pytest.mark.parametrize("tool", ["uv", "pip"])
@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml"])
def test_packages_are_installed_with_our_pins_unless_the_bot_asks_for_others(
    project: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, name: str
) -> None:
    """Where the set-up could not install uv, pip does the same."""
    if tool == "pip":
        monkeypatch.setattr(packages, "uv", lambda: None)
    # Both tools take their packages from the test's directory alone.
    monkeypatch.setenv("PIP_FIND_LINKS", str(project / "wheels"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(project / "wheels"))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    hashes = wheel(project / "wheels", "voice_services", {"voice_services.py": ""}, version="1.0")
    wheel(project / "wheels", "voice_services", {"voice_services.py": ""}, version="2.0")
    pins = tmp_path / "pins.txt"
    pins.write_text(f"# ours\nvoice-services==1.0 ; python_version >= '3' \\\n    --hash=sha256:{hashes}\n")
    file = project / name
    for wanted, got in (("voice-services", "1.0"), ("voice-services==2.0", "2.0")):
        listed = f"[project]\nname = 'x'\nversion = '1'\ndependencies = ['{wanted}']\n"
        file.write_text(listed if name == "pyproject.toml" else f"{wanted}\n")
        directory = environments.directory_of(file, pins, [])
        environments.make(directory, file, pins, [])
        assert list(directory.glob(f"lib/python3*/site-packages/voice_services-{got}.dist-info"))
    file.write_text(listed.replace("==2.0", "==3.0") if name == "pyproject.toml" else "voice-services==3.0\n")
    with pytest.raises(SetupError, match=f"the packages of {file} were not installed"):
        environments.make(environments.directory_of(file, pins, []), file, pins, [])


def test_environment_is_another_when_an_included_file_changes(project: Path, cache: Path) -> None:
    file, pins = project / "requirements.txt", REPOSITORY / "requirements.txt"
    file.write_text("-r more.txt\n")
    (project / "more.txt").write_text("cowsay\n")
    before = environments.directory_of(file, pins, ["x"])
    assert environments.directory_of(file, pins, ["x"]) == before
    (project / "more.txt").write_text("cowsay<6\n")
    assert environments.directory_of(file, pins, ["x"]) != before
