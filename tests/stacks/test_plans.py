"""A plan says what an up then does, on each cloud: the same resources, the same operations, no value lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from pulumi import automation
from pulumi.automation import PulumiCommand

from dispatcher.keys import hash_of
from stacks.engine.differences import UNKNOWN
from tests.fly.fake import FakeFly
from tests.fly.rates import Limits
from tests.fly.wire import served
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.stacks import stand_in_provider
from tests.stacks.checkouts import REPOSITORY, CheckoutCopy
from tests.stacks.plans import Steps, kept_to
from tests.stacks.stand_in_engine import standing_in

KEY = {"name": "web", "hash": hash_of("sk_test"), "scope": "start"}

THEIRS = f"registry.example.com/theirs@sha256:{'1' * 64}"

Config = dict[str, Any]


class Planned:
    """A checkout with a stack of one cloud, whose config and code a test changes."""

    def __init__(self, checkout: CheckoutCopy, plan: Path, config: Config) -> None:
        self.checkout = checkout
        self._plan = plan
        self._config = config
        self.checkout.write_config(**config)

    def change(self, **config: Any) -> None:
        self._config.update(config)
        self.checkout.write_config(**self._config)

    def change_fly(self, **fly: Any) -> None:
        self.change(fly={**self._config["fly"], **fly})

    def limit_of_an_agent(self) -> None:
        agents = self._config["agents"]
        self.change(agents={name: {**agent, "maxSessions": 3} for name, agent in agents.items()})

    def code_of_a_bot(self) -> None:
        (self.checkout.root / "bot" / "agents" / "helper.py").write_text("x = 1\n")

    def kept_to(self) -> Steps:
        """The steps that were planned, which are those that were done."""
        planned, done = kept_to(self.checkout, self._plan)
        assert planned.done == done.done
        return planned


@pytest.fixture
def prepared(
    tmp_path: Path, pulumi_engine: PulumiCommand, nobody_logged_in: None, monkeypatch: pytest.MonkeyPatch
) -> CheckoutCopy:
    """A checkout that images could be built of, with stand-ins for the providers' executables."""
    names = {name: version(f"pulumi-{name}") for name in ("docker", "docker-build")}
    for name, value in stand_in_provider.install(tmp_path / "bin", tmp_path / "asked", names).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ECHO_KEY", "hunter2-of-the-bot")
    monkeypatch.setenv("DAILY_API_KEY", "hunter2-of-daily")
    checkout = CheckoutCopy(tmp_path / "checkout", pulumi_engine)
    shutil.copytree(REPOSITORY / "images", checkout.root / "images")
    shutil.copy(REPOSITORY / "requirements-node.txt", checkout.root)
    for name in ("__init__.py", "output.py", "protocol.py", "versions.py"):
        shutil.copy(REPOSITORY / "bot" / name, checkout.root / "bot" / name)
    return checkout


@pytest.fixture
def local(checkout: CheckoutCopy, tmp_path: Path) -> Planned:
    agents = {"echo": {"bot": "bot/agents/echo.py", "env": ["ECHO_KEY"]}}
    return Planned(checkout, tmp_path / "plan.json", {"port": checkout.port, "agents": agents})


@pytest.fixture
def docker(prepared: CheckoutCopy, tmp_path: Path) -> Iterator[Planned]:
    """With a registry: what an image is called is known once it is pushed."""
    socket = tmp_path / "engine.sock"
    given = {"registry": "registry.example.com/team", "turn": True, "turnAddress": "203.0.113.7"}
    planned = Planned(
        prepared,
        tmp_path / "plan.json",
        {
            "cloud": "docker",
            "agents": {
                "echo": {
                    "bot": "bot/agents/echo.py",
                    "env": ["ECHO_KEY"],
                    "transports": ["webrtc", "daily"],
                }
            },
            "daily": {"domain": "acme"},
            "docker": {"host": f"unix://{socket}", **given},
        },
    )
    with standing_in(socket):
        yield planned


@pytest.fixture
def fly(prepared: CheckoutCopy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planned]:
    fake = FakeFly(limits=Limits(everything=None))
    fake.prepare_seconds = fake.boot_seconds = fake.destroy_seconds = 0.01
    with served(fake) as url:
        monkeypatch.setenv("FLY_API_TOKEN", fake.token())
        agent = {"bot": "bot/agents/echo.py", "env": ["ECHO_KEY"], "transports": ["daily"]}
        yield Planned(
            prepared,
            tmp_path / "plan.json",
            {
                "cloud": "fly",
                "agents": {"echo": agent, "theirs": {**agent, "image": THEIRS}},
                "keys": [KEY],
                "daily": {"domain": "voice", "domainId": "d1"},
                "fly": {"org": "tests", "prefix": "voice", "apiUrl": url},
            },
        )
    assert fake.violations == []


def plan(checkout: CheckoutCopy, *options: str) -> tuple[int, str, str]:
    """Run `make plan`; return its exit status, output and error output."""
    with checkout.command("preview", "--stack", "local", *options) as run:
        said, errors = run.communicate(timeout=PATIENCE)
    return run.returncode, said, errors


def test_a_plan_exits_with_a_status_of_its_own_where_no_changes_were_expected(
    checkout: CheckoutCopy,
) -> None:
    status, said, errors = plan(checkout, "--expect-no-changes")
    assert status == 7
    assert said.splitlines()[-1] == "  2 to create, 0 to update, 0 to replace, 0 to delete, 0 unchanged"
    assert f"      port: {checkout.port}" in said.splitlines()
    assert "secrets: [secret]" in said
    assert errors.startswith("error: stack local is not as its program says: 2 to change, and none expected")
    assert plan(checkout)[0] == 0, "who does not ask for it gets no failure"
    checkout.driver().up()
    assert plan(checkout, "--expect-no-changes") == (0, "stack local: nothing to change\n", "")
    # An error is no change.
    checkout.write_config(port=0, agents={"echo": {"bot": "bot/agents/echo.py"}})
    assert plan(checkout, "--expect-no-changes")[0] == 1
    checkout.write_config(port=checkout.port, agents={"echo": {"bot": "bot/agents/echo.py"}})
    checkout.driver().destroy()


def review(checkout: CheckoutCopy, form: str, *options: str) -> tuple[int, str, str]:
    """Run `make plan FORMAT=…`; return its exit status, output and error output."""
    arguments = ("--stack", "local", "--deployed", "--format", form, *options)
    with checkout.command(*arguments, module="stacks.plan") as run:
        said, errors = run.communicate(timeout=PATIENCE)
    return run.returncode, said, errors


def changes(said: str) -> dict[str, Any]:
    """Return the first section of a plan in JSON."""
    title, section = next(iter(json.loads(said)["sections"].items()))
    assert title == "What changes"
    return section


def test_every_format_has_the_changes_that_the_engine_previews(checkout: CheckoutCopy) -> None:
    _, said, errors = review(checkout, "json")
    assert errors == ""
    nothing = ["No state of this stack is here: as far as is known, `make up` creates all that is below."]
    assert changes(said) == {"rows": [], "notes": nothing}
    config: Config = {"port": checkout.port, "agents": {"echo": {"bot": "bot/agents/echo.py"}}, "keys": [KEY]}
    checkout.write_config(**config)
    checkout.driver().up()
    status, said, errors = review(checkout, "json", "--expect-no-changes")
    assert (status, errors) == (0, "")
    unchanged = "Against what is deployed: 0 to create, 0 to update, 0 to replace, 0 to delete."
    assert changes(said) == {"rows": [], "notes": [unchanged]}

    checkout.write_config(**config, logLevel="debug")
    driver = checkout.driver()
    assert driver.preview() == 2
    steps = {one.name: one for one in driver.planned}
    assert set(steps) == {"machines", "dispatcher"}
    assert "environment.SWITCHBOARD_LOG_LEVEL: info → debug" in steps["dispatcher"].inputs
    status, said, errors = review(checkout, "json", "--expect-no-changes")
    assert status == 7
    assert errors.startswith("error: stack local is not as its program says: 2 to change, and none expected")
    rows = [
        {"change": "update", "kind": one.type.rpartition(":")[2], "name": name, "data": "–"}
        for name, one in steps.items()
    ]
    told = ["; ".join(one.inputs) for one in steps.values()]
    assert changes(said)["rows"] == [row | {"inputs": one} for row, one in zip(rows, told, strict=True)]
    counts = unchanged.replace("0 to update", "2 to update")
    assert changes(said)["notes"] == [counts]
    for form in ("markdown", "text"):
        status, said, _ = review(checkout, form)
        assert status == 0
        # A terminal names a cell only where it is below its row.
        words = " ".join(said.replace("inputs: ", "").split())
        assert counts in words
        for row, inputs in zip(rows, told, strict=True):
            assert shown(row, inputs, form) in words
    checkout.driver().destroy()


def shown(row: dict[str, str], inputs: str, form: str) -> str:
    """Return a row as a format writes it, but for where its lines end. Text has the change as a heading."""
    if form == "markdown":
        return f"| {row['change']} | {row['kind']} | {row['name']} | – | {inputs} |"
    return f"{row['kind']} {row['name']} {inputs}"


def test_a_plan_is_rendered_with_the_engines_refusal_where_it_has_one(checkout: CheckoutCopy) -> None:
    config: Config = {"port": checkout.port, "agents": {"echo": {"bot": "bot/agents/echo.py"}}, "keys": [KEY]}
    checkout.write_config(throwaway=False, **config)
    checkout.driver().up()
    try:
        state = checkout.state_dir / "stacks" / "switchboard" / "local.json"
        whole = state.read_text()
        state.write_text("not a state")
        status, said, errors = review(checkout, "json")
        assert status == 1
        (refusal,) = errors.splitlines()[-1:]
        (note,) = changes(said)["notes"]
        assert note == (
            "Against what is deployed: not all of it is known. " + refusal.removeprefix("error: ")
        )
        assert "Permissions" in json.loads(said)["sections"]
        state.write_text(whole)
    finally:
        checkout.write_config(throwaway=True, **config)
        checkout.driver().destroy()


def test_a_refusal_is_told_once_where_only_the_engine_can_read_the_config(checkout: CheckoutCopy) -> None:
    workspace = checkout.driver().workspace
    automation.create_or_select_stack(
        stack_name="local",
        project_name="switchboard",
        program=lambda: None,
        opts=automation.LocalWorkspaceOptions(
            work_dir=str(workspace.directory),
            env_vars=workspace.environment,
            pulumi_command=checkout.engine,
        ),
    ).set_config("switchboard:dailyApiKey", automation.ConfigValue("hunter2-of-daily", secret=True))
    encrypted = yaml.safe_load((workspace.directory / "Pulumi.local.yaml").read_text())
    encrypted["config"]["switchboard:port"] = 0
    (checkout.root / "stacks" / "Pulumi.local.yaml").write_text(yaml.safe_dump(encrypted))
    refused = 'switchboard:port: "0" is refused; allowed: a whole number, 1 to 65535'
    assert plan(checkout) == (1, "", f"error: {refused}\n")


def own(steps: Steps) -> set[tuple[str, str]]:
    """Without the engine's own resources: a provider is told of each change of the config."""
    return {(name, op) for name, op in steps.done if not name.startswith("default")}


def test_a_plan_is_kept_to_when_a_local_stack_changes(local: Planned) -> None:
    first = local.kept_to()
    assert {("machines", "create"), ("dispatcher", "create")} <= first.done
    assert UNKNOWN not in first.planned("dispatcher").values()

    for change in (
        local.code_of_a_bot,
        local.limit_of_an_agent,
        lambda: local.change(port=free_port()),
    ):
        change()
        assert ("dispatcher", "update") in own(local.kept_to())
    local.checkout.driver().destroy()


def test_a_plan_is_kept_to_when_a_docker_stack_changes(docker: Planned) -> None:
    first = docker.kept_to()
    unknown = {path for path, value in first.planned("dispatcher-variables").items() if value == UNKNOWN}
    assert unknown == {"values.SWITCHBOARD_KEYS", "values.SWITCHBOARD_MACHINE_NETWORKS"}
    assert first.planned("dispatcher-variables")["values.SWITCHBOARD_TURN_SECRET"] == "[secret]"
    assert [value for value in first.planned("engine-proxy").values() if value == UNKNOWN] == [UNKNOWN]

    docker.code_of_a_bot()
    steps = docker.kept_to()
    assert own(steps) == {
        ("bot-bot-agents-image", "update"),
        ("rollout", "update"),
    }
    assert steps.differing("rollout") == {"images": UNKNOWN}

    changes: list[tuple[Callable[[], None], str, str]] = [
        (docker.limit_of_an_agent, "values.SWITCHBOARD_AGENTS.echo.max_sessions", "3"),
        (lambda: docker.change(port=7999), "values.SWITCHBOARD_PUBLIC_URL", "http://127.0.0.1:7999"),
    ]
    for change, path, value in changes:
        change()
        steps = docker.kept_to()
        assert ("dispatcher", "replace") in own(steps)
        assert steps.differing("dispatcher-variables") == {path: value}


def test_a_plan_is_kept_to_when_a_fly_stack_changes(fly: Planned) -> None:
    first = fly.kept_to()
    unknown = {path for path, value in first.planned("dispatcher-0").items() if value == UNKNOWN}
    assert unknown == {
        "config.env.SWITCHBOARD_IMAGES",
        "config.image",
        "config.mounts[0].volume",
        "secretsVersion",
    }
    assert first.planned("store")["app"] == "voice", "an app's name is known before the app is there"

    changes: list[tuple[Callable[[], None], set[str], dict[str, str]]] = [
        (fly.code_of_a_bot, {"bot-bot-agents-image"}, {"config.env.SWITCHBOARD_IMAGES": UNKNOWN}),
        (
            fly.limit_of_an_agent,
            set(),
            {f"config.env.SWITCHBOARD_AGENTS.{agent}.max_sessions": "3" for agent in ("echo", "theirs")},
        ),
        (lambda: fly.change(logLevel="debug"), set(), {"config.env.SWITCHBOARD_LOG_LEVEL": "debug"}),
        (
            lambda: fly.change_fly(regions=["iad", "lhr"]),
            set(),
            {f"config.env.SWITCHBOARD_PLACEMENTS.{agent}.region": "iad,lhr" for agent in ("echo", "theirs")},
        ),
    ]
    for change, others, differing in changes:
        change()
        steps = fly.kept_to()
        assert own(steps) == {("dispatcher-0", "update"), *((name, "update") for name in others)}
        assert steps.differing("dispatcher-0") == differing
