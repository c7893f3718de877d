"""A plan against another revision: what differs, what holds data first, and which revisions are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stacks.plan.base import Change, changes
from stacks.plan.graph import Graph, Resource
from tests.plans.stacks import CHECKOUT

PARTS = ("stacks", "dispatcher", "bot", "images", "switchboard.dist-info")


def resource(name: str, type_: str = "docker:index/volume:Volume", **inputs: Any) -> Resource:
    return Resource(type_, name, "", inputs)


def told(found: list[Change]) -> list[tuple[str, str]]:
    return [(one.kind, one.resource.name) for one in found]


def test_what_goes_comes_before_what_comes() -> None:
    before = Graph(
        "p", "s", [resource("kept", size=1), resource("same"), resource("gone"), resource("other")]
    )
    other = resource("other", "docker:index/network:Network")
    after = Graph("p", "s", [resource("new"), other, resource("kept", size=2), resource("same")])
    found = changes(before, after)
    assert told(found) == [("delete", "gone"), ("replace", "other"), ("update", "kept"), ("create", "new")]
    assert found[2].inputs == ["size: 1 → 2"]


def test_stack_that_the_other_revision_does_not_have_is_created() -> None:
    assert told(changes(None, Graph("p", "s", [resource("new")]))) == [("create", "new")]


def test_a_mark_that_is_taken_off_is_a_change() -> None:
    before = Graph("p", "s", [Resource("docker:index/volume:Volume", "store", "", {}, protected=True)])
    (found,) = changes(before, Graph("p", "s", [resource("store")]))
    assert found.inputs == ["protected: true → false"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository of two commits: the second one changes the port and the agent's name."""
    root = tmp_path_factory.mktemp("repository")
    for part in PARTS:
        left = shutil.ignore_patterns("node_modules", "__pycache__")
        shutil.copytree(CHECKOUT / part, root / part, ignore=left)
    for one in CHECKOUT.iterdir():
        if one.suffix in (".yaml", ".py", ".toml", ".txt"):
            shutil.copy(one, root / one.name)
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=one")
    file = root / "stacks" / "Pulumi.docker.yaml"
    config = yaml.safe_load(file.read_text())
    config["config"] |= {"switchboard:port": 8080, "switchboard:throwaway": True}
    file.write_text(yaml.safe_dump(config))
    git(root, "commit", "--quiet", "--all", "--message=two")
    yield root
    shutil.rmtree(root)


def git(root: Path, *arguments: str) -> None:
    names = ["-c", "user.name=tests", "-c", "user.email=tests@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *names, *arguments], cwd=root, check=True, capture_output=True, timeout=60)


def plan(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stacks.plan", *arguments],
        cwd=root,
        env={"PATH": os.environ["PATH"], "HOME": str(root), "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_plan_of_a_commit_shows_its_changes_and_that_data_is_no_longer_protected(
    repository: Path,
) -> None:
    made = plan(repository, "--stack", "docker", "--base", "HEAD~1", "--format", "json")
    assert made.returncode == 0, made.stderr
    rows = json.loads(made.stdout)["sections"]["What changes"]["rows"]
    found = {row["name"]: row for row in rows}
    assert set(found) == {"dispatcher", "dispatcher-variables", "store"}
    assert "ports[0].external: 7860.0 → 8080.0" in found["dispatcher"]["inputs"]
    assert found["store"]["data"] == "HOLDS DATA"
    assert found["store"]["inputs"] == "protected: true → false; retained: true → false"


def test_revision_that_is_not_there_is_refused_in_one_line(repository: Path) -> None:
    made = plan(repository, "--stack", "docker", "--base", "no-such-branch")
    assert (made.returncode, made.stdout) == (1, "")
    (line,) = made.stderr.splitlines()
    assert line.startswith("error: BASE: 'no-such-branch' is no revision of this repository")


def test_revision_that_is_an_option_of_git_is_refused(repository: Path) -> None:
    made = plan(repository, "--stack", "docker", "--base=--output=/tmp/taken")
    assert made.returncode == 1
    assert "is no revision" in made.stderr


def test_revision_without_a_project_is_refused_in_one_line(repository: Path) -> None:
    tree = subprocess.run(
        ["git", "mktree"], cwd=repository, input="", capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()
    git(repository, "tag", "empty", commit_of(repository, tree))
    made = plan(repository, "--stack", "docker", "--base", "empty")
    assert (made.returncode, made.stdout) == (1, "")
    (line,) = made.stderr.splitlines()
    assert line.startswith("error: BASE: 'empty' (")
    assert line.endswith("has no plan to compare with; allowed: a later one")


def commit_of(root: Path, tree: str) -> str:
    names = ["-c", "user.name=tests", "-c", "user.email=tests@example.com", "-c", "commit.gpgsign=false"]
    made = subprocess.run(
        ["git", *names, "commit-tree", tree, "-m", "empty"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return made.stdout.strip()


AGENTS = "  switchboard:agents: {echo: {bot: bot/agents/echo.py}}\n"


@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        ("config: [1", "error: "),
        (f"config:\n  switchboard:cloud: nowhere\n{AGENTS}", "error: switchboard:cloud: "),
        (f"config:\n  switchboard:prot: 1\n{AGENTS}", "error: switchboard:prot: "),
    ],
)
def test_broken_config_is_refused_in_one_line(repository: Path, content: str, refusal: str) -> None:
    file = repository / "stacks" / "Pulumi.broken.yaml"
    file.write_text(content)
    made = plan(repository, "--stack", "broken")
    file.unlink()
    assert (made.returncode, made.stdout) == (1, "")
    (line,) = made.stderr.splitlines()
    assert line.startswith(refusal)
