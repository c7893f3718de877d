"""The `docker` stack under the real Pulumi engine, with stand-ins for its providers and for Docker."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from pulumi.automation import PulumiCommand

from dispatcher.engine_proxy.settings import PROXY_PREFIX
from dispatcher.image_table import content_of, mark_of
from stacks.docker.rollout import FILE, archive
from stacks.errors import EngineError
from tests.stacks import stand_in_provider
from tests.stacks.checkouts import REPOSITORY, CheckoutCopy
from tests.stacks.stand_in_engine import StandInEngine, standing_in

PREFIX = "switchboard-local"


class Stack:
    """A checkout with a `docker` stack, its stand-ins, and what they were asked."""

    def __init__(self, checkout: CheckoutCopy, engine: StandInEngine, log: Path) -> None:
        self.checkout = checkout
        self.engine = engine
        self._log = log

    def write_config(self, bot: str, socket: Path) -> None:
        agent = {"bot": bot, "env": ["ECHO_KEY"], "transports": ["webrtc", "daily"]}
        self.checkout.write_config(
            cloud="docker",
            agents={"echo": agent},
            daily={"domain": "acme"},
            docker={"host": f"unix://{socket}", "turn": True, "turnAddress": "203.0.113.7"},
        )

    def table(self) -> dict[str, dict[str, str]]:
        """The table that the dispatcher was handed last."""
        assert self.engine.table is not None
        with tarfile.open(fileobj=io.BytesIO(self.engine.table)) as files:
            (entry,) = files.getmembers()
            assert (entry.name, entry.mode) == (FILE, 0o644)
            file = files.extractfile(entry)
            assert file is not None
            return json.load(file)

    def noted(self) -> list[tuple[str, str]]:
        """(operation, name) since the last call."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        self._log.write_text("")
        return [(line["operation"], line["name"]) for line in lines]


@pytest.fixture
def stack(
    tmp_path: Path, pulumi_engine: PulumiCommand, nobody_logged_in: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    log = tmp_path / "asked"
    names = {"docker": version("pulumi-docker"), "docker-build": version("pulumi-docker-build")}
    for name, value in stand_in_provider.install(tmp_path / "bin", log, names).items():
        monkeypatch.setenv(name, value)
    checkout = CheckoutCopy(tmp_path / "checkout", pulumi_engine)
    shutil.copytree(REPOSITORY / "images", checkout.root / "images")
    shutil.copy(REPOSITORY / "requirements-node.txt", checkout.root)
    for name in ("__init__.py", "output.py", "protocol.py", "versions.py"):
        shutil.copy(REPOSITORY / "bot" / name, checkout.root / "bot" / name)
    socket = tmp_path / "engine.sock"
    monkeypatch.setenv("DAILY_API_KEY", "hunter2-of-daily")
    with standing_in(socket) as engine:
        stack = Stack(checkout, engine, log)
        stack.write_config("bot/agents/echo.py", socket)
        yield stack


def test_from_a_preview_to_the_end(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test for all of it: each run of the engine takes seconds."""
    monkeypatch.setenv("ECHO_KEY", "hunter2-but-longer")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    assert stack.checkout.driver().preview() > 10
    assert stack.noted() == []
    assert stack.engine.asked == []
    changed = {line.strip() for line in stack.checkout.lines}
    assert {"+ dispatcher: create", "+ engine-proxy: create", "+ turn: create"} <= changed

    outputs = stack.checkout.driver().up()
    url = outputs["url"].value
    assert url.startswith("http://127.0.0.1:7860/#key=pk_")
    created = [name for _, name in stack.noted()]
    before = {
        "dispatcher": {"dispatcher-image", "bot-bot-agents-image", "engine-proxy", "store"},
        "engine-proxy": {"dispatcher-image", "control-network"},
        "turn": {"machines-network"},
    }
    for name, needed in before.items():
        assert needed <= set(created[: created.index(name)]), name

    # Nothing that is secret can be read in the state, but of the key its hash.
    files = stack.checkout.state_dir.rglob("*")
    written = "".join(file.read_text() for file in files if file.is_file())
    assert "hunter2" not in written
    assert url.partition("#key=")[2] not in written
    assert "switchboard-local-store" in written

    assert stack.checkout.driver().up()["url"].value == url, "the page's key stays"
    assert stack.noted() == []

    stack.engine.asked.clear()
    (stack.checkout.root / "bot" / "agents" / "helper.py").write_text("x = 1\n")
    stack.checkout.driver().up()
    noted = stack.noted()
    assert noted[0] == ("update", "bot-bot-agents-image")
    # No container is replaced: the dispatcher is handed a new table of images.
    assert {name for _, name in noted} == {"bot-bot-agents-image"}
    (handed,) = stack.engine.asked
    assert handed == ("PUT", "/v1.41/containers/switchboard-local-dispatcher/archive?path=%2Fdata")
    images = stack.table()
    assert set(images) == {"echo"}
    limited = {one: limits["PidsLimit"] for one, limits in stack.engine.updated.items()}
    assert sorted(name.split("-")[0] for name in limited) == ["dispatcher", "engine", "firewall", "turn"]
    assert set(limited.values()) == {512}
    probe = ["/opt/venv/bin/python", "-P", "-m", "dispatcher.probe", mark_of(images), "20"]
    assert stack.engine.executed[-1] == probe
    stack.engine.asked.clear()

    # Names are taken: the old container goes before the new one comes. Of the bots nobody is touched.
    (stack.checkout.root / "dispatcher" / "more.py").write_text("x = 1\n")
    stack.checkout.driver().up()
    noted = stack.noted()
    for name in ("engine-proxy", "dispatcher"):
        assert noted.index(("delete", name)) < noted.index(("create", name))
    assert not {"turn", "store", "machines-network", "bot-bot-agents-image"} & {name for _, name in noted}
    stack.engine.asked.clear()

    # A bot that moves is built before anything is replaced, and its old image is allowed until it is used.
    moved = stack.checkout.root / "bots"
    shutil.copytree(stack.checkout.root / "bot" / "agents", moved)
    stack.write_config("bots/echo.py", tmp_path / "engine.sock")
    stack.checkout.driver().up()
    noted = stack.noted()
    assert noted.index(("create", "bot-bots-image")) < noted.index(("delete", "engine-proxy"))
    assert ("delete", "dispatcher") not in noted
    told = stack.checkout.state()["engine-proxy"]["inputs"]["envs"]
    (repositories,) = [line for line in told if line.startswith(f"{PROXY_PREFIX}REPOSITORIES=")]
    both = ["switchboard-local-bot-bot-agents", "switchboard-local-bot-bots"]
    assert json.loads(repositories.partition("=")[2]) == both
    assert stack.table()["echo"]["image"].startswith("switchboard-local-bot-bots:")
    stack.checkout.driver().up()
    assert stack.noted() == []
    images = stack.table()
    stack.engine.asked.clear()

    # A table that somebody changed, as with a store of before, is seen and put right.
    stack.engine.table = archive(content_of({"echo": {"image": "another:1", "bot": "echo.py"}}))
    stack.checkout.driver().refresh()
    stack.checkout.driver().up()
    assert stack.table() == images
    assert stack.noted() == []
    stack.engine.asked.clear()

    # A shell without a variable that is deployed takes nothing away.
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    with pytest.raises(EngineError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT: is not set here, and the stack has"):
        stack.checkout.driver().up()
    assert stack.noted() == []

    # Bots that cannot be ended are told, and the next down ends them.
    stack.engine.fails = True
    with pytest.raises(EngineError, match="the disk is gone"):
        stack.checkout.driver().destroy()
    assert "machines" in stack.checkout.state()
    stack.engine.fails = False
    stack.engine.asked.clear()
    stack.checkout.driver().destroy()
    assert stack.checkout.state() == {}
    deleted = [name for operation, name in stack.noted() if operation == "delete"]
    assert deleted.index("dispatcher") < deleted.index("machines-network")
    assert ("DELETE", "/v1.41/containers/running-bot?force=true&v=true") in stack.engine.asked
    assert ("DELETE", "/v1.41/containers/exited-bot?force=true&v=true") in stack.engine.asked
    posted = [path for method, path in stack.engine.asked if method == "POST"]
    # The rules go with their container, which may have been stopped by hand, after the bots.
    assert posted == [
        "/v1.41/containers/running-bot/stop?t=10",
        "/v1.41/containers/switchboard-local-firewall/start",
    ]
    assert stack.engine.executed[-1][4:7] == ["remove", "--table", "switchboard-local"]
    assert deleted.index("engine-proxy") < deleted.index("firewall")
    label = "switchboard.deployment%3Dswitchboard-local"
    assert [path for method, path in stack.engine.asked if method == "GET" and label in path]


def test_agents_in_directories_whose_paths_read_the_same_have_an_image_each(stack: Stack) -> None:
    agents = {}
    for name, directory in {"one": "xbots/a-b", "two": "xbots/a/b"}.items():
        (stack.checkout.root / directory).mkdir(parents=True)
        (stack.checkout.root / directory / "bot.py").write_text("async def bot(runner_args): ...\n")
        agents[name] = {"bot": f"{directory}/bot.py"}
    stack.checkout.write_config(cloud="docker", agents=agents)
    stack.checkout.driver().preview()
    images = [line for line in stack.checkout.lines if "-image: create" in line]
    assert [line.strip().partition("-image")[0] for line in sorted(images)] == [
        "+ bot-xbots-a-b-e94162",
        "+ bot-xbots-a-b",
        "+ dispatcher",
    ]
