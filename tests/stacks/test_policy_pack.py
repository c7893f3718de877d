"""The policy pack under the real engine: a stack that passes, a broken one, and another program."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pulumi import automation
from pulumi.automation import LocalWorkspaceOptions
from pulumi.automation.errors import CommandError

from dispatcher.keys import hash_of
from stacks.engine import workspace
from tests.patience import PATIENCE
from tests.stacks.checkouts import REPOSITORY, CheckoutCopy

PACK = Path("stacks") / "policy_pack"
KEY = {"name": "web", "hash": hash_of("sk_test"), "scope": "start"}
UV = Path(sys.prefix) / "bin" / "uv"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the pack's own packages, which do not fit beside those of the stacks."""
    made = tmp_path_factory.mktemp("pack") / ".venv"
    wanted = str(REPOSITORY / PACK / "requirements.txt")
    for arguments in (
        ("venv", "--quiet", "--python", sys.executable, str(made)),
        ("pip", "install", "--quiet", "--require-hashes", "--python", str(made), "-r", wanted),
    ):
        subprocess.run([str(UV), *arguments], check=True, timeout=PATIENCE)
    return made


@pytest.fixture
def guarded(checkout: CheckoutCopy, packages: Path) -> CheckoutCopy:
    """A checkout whose pack has its packages."""
    (checkout.root / PACK / ".venv").symlink_to(packages)
    return checkout


HOST = f"""#!/bin/sh
PYTHONPATH={REPOSITORY} exec {sys.executable} -m tests.stacks.language_host "$@"
"""


@pytest.fixture
def full_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine finds a language host on PATH, and not the plugin that ours has in its place."""
    programs = tmp_path / "programs"
    shutil.copytree(workspace.BIN, programs, ignore=shutil.ignore_patterns("pulumi-analyzer-*"))
    launcher = programs / "pulumi-resource-pulumi-python"
    launcher.write_text(launcher.read_text().replace('$(dirname -- "$0")', str(workspace.BIN)))
    host = programs / "pulumi-language-python"
    host.write_text(HOST)
    host.chmod(0o755)
    monkeypatch.setattr(workspace, "BIN", programs)


def previewed(checkout: CheckoutCopy) -> str:
    """Preview the stack as `pulumi preview --policy-pack` does; return what the engine says."""
    prepared = checkout.driver().workspace

    def program() -> None:
        runpy.run_path(str(checkout.root / "__main__.py"), run_name="switchboard_program")

    stack = automation.create_or_select_stack(
        stack_name=prepared.stack,
        project_name=prepared.project,
        program=program,
        opts=LocalWorkspaceOptions(
            work_dir=str(prepared.directory),
            env_vars=prepared.environment,
            pulumi_command=checkout.engine,
        ),
    )
    return stack.preview(policy_packs=[str(checkout.root / PACK)], color="never").stdout


def refused(checkout: CheckoutCopy) -> str:
    with pytest.raises(CommandError) as refusal:
        previewed(checkout)
    return str(refusal.value)


def test_a_stack_that_keeps_the_policies_passes_and_a_broken_one_does_not(guarded: CheckoutCopy) -> None:
    config = {"port": guarded.port, "agents": {"echo": {"bot": "bot/agents/echo.py"}}, "keys": [KEY]}
    guarded.write_config(**config)
    said = previewed(guarded)
    assert "✅ switchboard@" in said
    assert "[mandatory]" not in said

    # The port of the dispatcher, to everybody.
    program = guarded.root / "stacks" / "local" / "program.py"
    program.write_text(program.read_text().replace('HOST = "127.0.0.1"', 'HOST = "0.0.0.0"'))
    said = refused(guarded)
    assert "[mandatory]" in said
    assert "no-public-ingress" in said
    assert f"the dispatcher at 0.0.0.0 tcp {guarded.port} is open to the internet" in said

    guarded.write_config(
        **config,
        policyExceptions={
            "no-public-ingress": {"the dispatcher at 0.0.0.0": "a firewall of ours is in front of it"}
        },
    )
    assert "[mandatory]" not in previewed(guarded)


def test_a_full_installation_runs_the_pack_by_its_language_host(
    guarded: CheckoutCopy, full_installation: None
) -> None:
    guarded.write_config(port=guarded.port, agents={"echo": {"bot": "bot/agents/echo.py"}}, keys=[KEY])
    said = previewed(guarded)
    assert "using pulumi-language-python from $PATH" in said
    assert "✅ switchboard@" in said
    program = guarded.root / "stacks" / "local" / "program.py"
    program.write_text(program.read_text().replace('HOST = "127.0.0.1"', 'HOST = "0.0.0.0"'))
    said = refused(guarded)
    assert "[mandatory]" in said
    assert "no-public-ingress" in said


def test_a_stack_whose_plan_cannot_be_made_is_refused_with_the_reason(guarded: CheckoutCopy) -> None:
    # Only for whoever judges: the program of the engine is loaded already.
    previewed(guarded)
    program = guarded.root / "stacks" / "local" / "program.py"
    program.write_text(program.read_text().replace('HOST = "127.0.0.1"', 'HOST = "0.0.0.0"'))
    assert "host '0.0.0.0' is reachable from other machines, so keys must be set" in refused(guarded)


def test_a_resource_that_no_plan_has_shown_is_refused(guarded: CheckoutCopy) -> None:
    with (guarded.root / "__main__.py").open("a") as program:
        program.write("from stacks.shared.secrets import SharedSecret\nSharedSecret('sneaked')\n")
    said = refused(guarded)
    assert "as-judged" in said
    assert "sneaked (pulumi-python:dynamic/switchboard:SharedSecret) was not judged" in said
