"""The setup does a step only when what it is made from has changed.

pip, uv, npm and node are scripts of the tests; `test_installer.py` has the real pip and uv.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stacks.errors import SetupError
from stacks.setup import Checkout
from tests import system_packages
from tests.test_requirements import ROOT


def program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    made = Checkout(tmp_path / "checkout")
    web = made.web
    (web / "src").mkdir(parents=True)
    for name in ("package.json", "package-lock.json", "build.mjs", "src/main.ts"):
        (web / name).write_text(name)
    for name in ("", "-dev", "-node", "-docker", "-aws", "-fly"):
        (made.root / f"requirements{name}.txt").write_text(name)
    (made.root / "images").mkdir()
    (made.root / "images/requirements-build.txt").write_text("uv")
    log = tmp_path / "log"
    log.touch()
    program(made.python, f'[ "$3" = config ] || echo "python $*" >> {log}')
    program(made.venv / "bin/uv", f'echo "uv $*" >> {log}')
    program(tmp_path / "bin/node", "echo v20.1.0")
    # npm ci makes node_modules anew, the page's build makes dist anew.
    program(
        tmp_path / "bin/npm",
        f'echo "npm $*" >> {log}\n'
        "case $1 in\n"
        "ci) rm -rf node_modules; mkdir node_modules;;\n"
        "run) rm -rf dist; mkdir dist; touch dist/index.html;;\n"
        "esac",
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return made


def steps(checkout: Checkout) -> list[str]:
    """Return the runs since the last call, by program and last argument; checks of the venv are not counted.

    Sorted, since npm runs beside the others.
    """
    log = checkout.root.parent / "log"
    lines = [line.split() for line in log.read_text().splitlines() if "import pip" not in line]
    log.write_text("")
    return sorted(f"{words[0]} {words[1]} {words[-1].rpartition('/')[2]}" for words in lines)


UV = "python -m requirements-build.txt"
PAGE = ["npm ci --loglevel=error", "npm run --silent"]


def test_everything_once_and_then_nothing(checkout: Checkout) -> None:
    checkout.set_up(dev=False)
    assert steps(checkout) == [*PAGE, UV, "uv pip requirements.txt"]
    checkout.set_up(dev=False)
    assert steps(checkout) == []


@pytest.mark.parametrize(
    "line",
    ["switchboard:cloud: docker", "cloud: docker # here", "'switchboard:cloud': \"docker\""],
)
def test_a_stack_gets_the_packages_of_its_cloud(checkout: Checkout, line: str) -> None:
    (checkout.root / "stacks").mkdir()
    (checkout.root / "stacks/Pulumi.home.yaml").write_text(f"config:\n  {line}\n")
    checkout.set_up(dev=False, stack="home")
    assert steps(checkout) == [*PAGE, UV, "uv pip requirements-docker.txt"]
    # They contain what every stack needs.
    checkout.set_up(dev=False)
    assert steps(checkout) == []


def test_packages_are_checked_against_their_hashes(checkout: Checkout) -> None:
    checkout.installer.install("requirements.txt")
    uv, packages = (checkout.root.parent / "log").read_text().splitlines()
    assert "--require-hashes" in uv.split()
    assert "--require-hashes" in packages.split()


def test_new_pins_install_only_packages(checkout: Checkout) -> None:
    checkout.set_up(dev=False)
    steps(checkout)
    (checkout.root / "requirements.txt").write_text("others")
    checkout.set_up(dev=False)
    assert steps(checkout) == ["uv pip requirements.txt"]


def test_a_new_source_builds_the_page_and_keeps_its_packages(checkout: Checkout) -> None:
    checkout.set_up(dev=False)
    steps(checkout)
    (checkout.web / "src/main.ts").write_text("changed")
    checkout.set_up(dev=False)
    assert steps(checkout) == ["npm run --silent"]


def test_a_lost_page_is_built_again(checkout: Checkout) -> None:
    checkout.set_up(dev=False)
    steps(checkout)
    (checkout.web / "dist/index.html").unlink()
    checkout.set_up(dev=False)
    assert steps(checkout) == ["npm run --silent"]


def test_the_packages_for_tests_contain_the_others(checkout: Checkout) -> None:
    checkout.installer.install("requirements-dev.txt", "requirements.txt")
    checkout.installer.install("requirements.txt")
    assert steps(checkout) == [UV, "uv pip requirements-dev.txt"]


def test_what_some_tests_lack_is_said_and_stops_nothing(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(what: str) -> None:
        raise SetupError(f"no {what}:\nE: offline")

    monkeypatch.setattr(system_packages, "find_browser", lambda: refuse("browser"))
    monkeypatch.setattr(system_packages, "install_engine", lambda: refuse("engine"))
    checkout.set_up(dev=True)
    said = capsys.readouterr().out
    assert said == "notice: no browser:\nE: offline\nnotice: no engine:\nE: offline\n"


@pytest.mark.parametrize("node", ["echo v18.20.0", "exit 1", "echo nonsense"])
def test_a_node_that_will_not_do_is_replaced_by_pypis(checkout: Checkout, node: str) -> None:
    program(checkout.root.parent / "bin/node", node)
    checkout.set_up(dev=False)
    assert steps(checkout) == [*PAGE, UV, "uv pip requirements-node.txt", "uv pip requirements.txt"]


def test_a_step_that_fails_says_what_and_why_and_is_done_again(checkout: Checkout) -> None:
    program(checkout.root.parent / "bin/npm", "echo npm error 404; exit 1")
    with pytest.raises(SetupError) as caught:
        checkout.build_page()
    assert str(caught.value) == "the voice page's packages were not installed:\nnpm error 404"
    assert not (checkout.web / "node_modules/.switchboard-packages").exists()


def test_a_venv_whose_python_is_gone_is_made_anew(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    program(checkout.python, "exit 1")
    checkout.make_venv()
    assert "it is made anew" in capsys.readouterr().out
    assert checkout.python.resolve() == Path(sys.executable).resolve()


def test_packages_that_fail_end_npm(checkout: Checkout) -> None:
    """Nothing of a setup that has failed goes on."""
    begun, ended = checkout.root.parent / "begun", checkout.root.parent / "ended"
    npm = f"trap 'touch {ended}; exit 1' TERM; touch {begun}; while :; do sleep 0.05; done"
    program(checkout.root.parent / "bin/npm", npm)
    # npm is told to end only when it can write down that it was.
    fails = f"until [ -e {begun} ]; do sleep 0.05; done; echo no index; exit 1"
    for name in ("python", "uv"):
        program(checkout.venv / "bin" / name, f'[ "$2" = "import pip" ] && exit 0; {fails}')
    with pytest.raises(
        SetupError, match=r"^the packages of requirements\.txt were not installed:\nno index$"
    ):
        checkout.set_up(dev=False)
    assert ended.exists()


def test_a_page_that_fails_is_said_once_the_packages_are_installed(checkout: Checkout) -> None:
    program(checkout.root.parent / "bin/npm", "echo npm error 404; exit 1")
    with pytest.raises(SetupError, match=r"^the voice page's packages were not installed:\nnpm error 404$"):
        checkout.set_up(dev=False)
    assert steps(checkout) == [UV, "uv pip requirements.txt"]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`make` in this checkout, with the setup that it has: nothing is installed."""
    command = ["make", "--no-print-directory", "-o", "setup", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_make_key_prints_a_key_when_the_shell_has_no_environment() -> None:
    made = make("key", "NAME=site", "AGENT=one two", "ORIGIN=https://a.example", "PER_SECOND=2", "DAYS=9")
    assert made.returncode == 0, made.stderr
    key, entry = (line.strip() for line in made.stdout.splitlines() if line.startswith("  "))
    assert key.startswith("pk_")
    found = json.loads(entry)
    assert (found["name"], found["agents"], found["rate"]["perSecond"]) == ("site", ["one", "two"], 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((), "error: NAME is missing"), (("NAME=a", "SCOPE=all"), "--scope: invalid choice: 'all'")],
)
def test_make_key_refuses_when_an_argument_is_wrong(arguments: tuple[str, ...], words: str) -> None:
    made = make("key", *arguments)
    assert made.returncode != 0
    assert words in made.stderr
