"""`make up STACK=docker`, and calls from a browser."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from dispatcher.firewall.expressions import Family
from dispatcher.firewall.netlink import Nftables
from dispatcher.machines.container.request import Facts, Place, body
from stacks.docker.settings import DISPATCHER_PORT
from tests.engine import DockerError, Engine
from tests.patience import PATIENCE
from tests.ports import free_port

from .browser import until, visit
from .dispatcher import CHECKOUT
from .docker_stack import PREFIX, Stack, has_tables, stack_up

pytestmark = pytest.mark.calls

ANY_IMAGE = "<any image with a shell>"


def documented(heading: str, image: str) -> list[str]:
    """The commands of a section of the documentation, a text for each block."""
    section = (CHECKOUT / "docs" / "docker.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    return [re.sub(r"^\$ ", "", block, flags=re.M).replace(ANY_IMAGE, image) for block in blocks]


@pytest.fixture(scope="module")
def stack(engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack_up(engine, tmp_path_factory.mktemp("docker-stack"), docker={"base": base_image}) as made:
        yield made


def test_a_browser_talks_with_a_bot(stack: Stack, browser: Browser) -> None:
    with visit(browser, stack.url, scripted=True) as voice:
        voice.talk()
        voice.wait_for_sound()
        (bot,) = stack.bots()
        inspected = json.loads(stack.engine.docker("inspect", bot))[0]
        assert set(inspected["NetworkSettings"]["Networks"]) == {f"{PREFIX}-machines"}
        voice.click("Hang up")
        until(lambda: stack.bots() == [], PATIENCE, "the end of the container")


def test_a_bot_finds_its_channel_alone_at_the_dispatchers_port(stack: Stack, browser: Browser) -> None:
    code = (
        "import http.client, sys\n"
        "for path in sys.argv[1:]:\n"
        f"    connection = http.client.HTTPConnection('dispatcher', {DISPATCHER_PORT}, timeout=10)\n"
        "    connection.request('GET', path)\n"
        "    print(connection.getresponse().status)\n"
    )
    with visit(browser, stack.url, scripted=True) as voice:
        voice.talk()
        voice.wait_for_sound()
        (bot,) = stack.bots()
        paths = ("/", "/healthz", "/v1/agents", "/metrics")
        said = stack.engine.docker("exec", bot, "/opt/venv/bin/python", "-c", code, *paths)
        assert said.split() == ["403"] * len(paths)
        voice.click("Hang up")
        until(lambda: stack.bots() == [], PATIENCE, "the end of the container")


def test_no_container_of_the_stack_can_take_all_of_the_hosts_processes(stack: Stack) -> None:
    limits = {name: stack.inspect(name)["HostConfig"]["PidsLimit"] for name in ("dispatcher", "engine-proxy")}
    assert limits == {"dispatcher": 512, "engine-proxy": 512}


METADATA = "169.254.169.254"


@contextlib.contextmanager
def listening_as_a_cloud(port: int) -> Iterator[None]:
    """A listener on all of the host's addresses, the metadata service's among them."""
    subprocess.run(["ip", "address", "add", f"{METADATA}/32", "dev", "lo"], check=True)
    try:
        with socket.create_server(("0.0.0.0", port)):
            yield
    finally:
        subprocess.run(["ip", "address", "del", f"{METADATA}/32", "dev", "lo"], check=True)


def reached(stack: Stack, bot: str, *targets: tuple[str, int]) -> set[str]:
    """Return the targets to which a bot can connect by TCP."""
    code = (
        "import socket, sys\n"
        "socket.setdefaulttimeout(2)\n"
        "for target in sys.argv[1:]:\n"
        "    host, port = target.rsplit(':', 1)\n"
        "    if socket.socket().connect_ex((host, int(port))) == 0: print(host)\n"
    )
    words = [f"{host}:{port}" for host, port in targets]
    return set(stack.engine.docker("exec", bot, "/opt/venv/bin/python", "-c", code, *words).split())


@contextlib.contextmanager
def another_bot(stack: Stack, port: int) -> Iterator[str]:
    """The address of a container with a bot's name, which listens on all of its own."""
    name, image = f"{PREFIX}-m-other", stack.inspect("dispatcher")["Config"]["Image"]
    network = f"{PREFIX}-machines"
    python = ("--entrypoint", "/opt/venv/bin/python", image, "-m", "http.server", str(port))
    stack.engine.docker("run", "--detach", "--name", name, "--network", network, *python)
    try:
        format_ = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        address = stack.engine.docker("inspect", "--format", format_, name).strip()
        until(lambda: answers(address, port), PATIENCE, "the other bot's port")
        yield address
    finally:
        stack.engine.docker("rm", "--force", name)


def answers(address: str, port: int) -> bool:
    with socket.socket() as asking:
        asking.settimeout(PATIENCE)
        return asking.connect_ex((address, port)) == 0


def remove_tables() -> None:
    kernel = Nftables()
    try:
        kernel.remove([(family, PREFIX) for family in Family])
    finally:
        kernel.close()


def test_a_bot_reaches_no_metadata_no_host_and_no_other_bot(stack: Stack, browser: Browser) -> None:
    format_ = "{{(index .IPAM.Config 0).Gateway}}"
    gateway = stack.engine.docker("network", "inspect", "--format", format_, f"{PREFIX}-machines").strip()
    port = free_port()
    with listening_as_a_cloud(port), another_bot(stack, port) as other:
        targets = ((gateway, port), (METADATA, port), (other, port), ("dispatcher", DISPATCHER_PORT))
        with visit(browser, stack.url, scripted=True) as voice:
            voice.talk()
            voice.wait_for_sound()
            (bot,) = stack.bots()
            assert reached(stack, bot, *targets) == {"dispatcher"}
            # As firewalld's restart does, and `nft flush ruleset`.
            remove_tables()
            until(has_tables, PATIENCE, "the rules again")
            assert reached(stack, bot, *targets) == {"dispatcher"}
            voice.click("Hang up")
            until(lambda: stack.bots() == [], PATIENCE, "the end of the container")
        stack.up(firewall=False)
        assert not has_tables()
        with visit(browser, stack.url, scripted=True) as voice:
            voice.talk()
            (bot,) = stack.bots()
            assert reached(stack, bot, *targets) == {"dispatcher", gateway, METADATA, other}
            voice.click("Hang up")
            until(lambda: stack.bots() == [], PATIENCE, "the end of the container")
        stack.up(firewall=True)
        assert has_tables()


def test_no_bot_starts_without_the_firewall(stack: Stack, browser: Browser) -> None:
    networks = stack.inspect("dispatcher")["NetworkSettings"]["Networks"]
    address = networks[f"{PREFIX}-machines"]["IPAddress"]
    assert readiness(address) == "ok"
    stack.engine.docker("stop", f"{PREFIX}-firewall")
    try:
        assert has_tables(), "those that run stay where they are"
        until(lambda: readiness(address) == "no_placement", PATIENCE, "a dispatcher that says so")
    finally:
        stack.engine.docker("start", f"{PREFIX}-firewall")
    until(lambda: readiness(address) == "ok", PATIENCE, "a dispatcher that takes starts")
    stack.call(browser)


def readiness(address: str) -> str:
    """The dispatcher's word for what it lacks, asked without the engine's port mappings."""
    answer = httpx.get(f"http://{address}:{DISPATCHER_PORT}/readyz", timeout=PATIENCE)
    return answer.json().get("code", answer.json()["status"])


def test_starts_work_again_when_the_engine_was_killed_and_restarted(stack: Stack, browser: Browser) -> None:
    engine = stack.engine
    with visit(browser, stack.url, scripted=True) as voice:
        voice.talk()
        voice.wait_for_sound()
        engine.stop()
        engine.start("--live-restore")
    try:
        until(stack.is_healthy, PATIENCE, "a healthy dispatcher")
        until(lambda: stack.last_end() is not None, PATIENCE, "the call's end")
        assert stack.last_end() == ("failed", "machine_stopped")
        networks = stack.inspect("dispatcher")["NetworkSettings"]["Networks"]
        address = networks[f"{PREFIX}-machines"]["IPAddress"]
        proxy = stack.inspect("engine-proxy")["State"]["StartedAt"]
        assert readiness(address) == "ok"
        engine.stop()
        assert readiness(address) == "no_placement"
        engine.start("--live-restore")
        until(lambda: readiness(address) == "ok", PATIENCE, "a ready dispatcher")
        stack.call(browser)
        assert stack.inspect("engine-proxy")["State"]["StartedAt"] == proxy, "nothing was restarted"
    finally:
        # An engine without that option ends what runs when it starts, and does not always start it again.
        names = sorted(stack.containers())
        engine.docker("stop", *names)
        engine.stop()
        engine.start()
        engine.docker("start", *names)
        until(stack.is_healthy, PATIENCE, "a healthy dispatcher")


def a_bots_body(stack: Stack) -> dict[str, Any]:
    """The dispatcher's request for a bot's container."""
    facts = Facts(
        machine_id="m-1",
        image=stack.images()["echo"]["image"],
        nano_cpus=100_000_000,
        memory_mb=64,
        seconds=60,
        arguments=(),
        environment=("HOME=/tmp",),
    )
    return body(Place(PREFIX, f"{PREFIX}-machines"), facts)


def test_who_has_the_dispatcher_has_not_the_engine(stack: Stack) -> None:
    with pytest.raises(DockerError, match="No such file"):
        stack.engine.docker("exec", f"{PREFIX}-dispatcher", "ls", "/var/run/docker.sock")
    assert stack.ask_engine("GET", "/v1.41/info")[0] == 200
    for method, path in (
        ("GET", "/v1.41/version"),
        ("GET", f"/v1.41/containers/{PREFIX}-engine-proxy/logs?stdout=1&stderr=1&follow=0&tail=5"),
        ("POST", f"/v1.41/containers/{PREFIX}-engine-proxy/exec"),
        ("GET", "/v1.41/volumes"),
        ("POST", "/v1.41/images/create?fromImage=debian"),
    ):
        assert stack.ask_engine(method, path)[0] in (403, 404), path
    # Of the stack, and no machine's.
    status, _ = stack.ask_engine("DELETE", f"/v1.41/containers/{PREFIX}-dispatcher?force=1&v=1")
    assert status == 403
    assert f"{PREFIX}-dispatcher" in stack.containers()
    create = f"/v1.41/containers/create?name={PREFIX}-m-1"
    for name, value in (("Privileged", True), ("Binds", ["/:/host"]), ("PidMode", "host")):
        content = a_bots_body(stack)
        content["HostConfig"][name] = value
        status, text = stack.ask_engine("POST", create, content)
        assert (status, json.loads(text)["message"]) == (403, f"'HostConfig.{name}': is not allowed")
        assert stack.bots() == []
    # It is that which is refused, and not the rest of the body.
    status, text = stack.ask_engine("POST", create, a_bots_body(stack))
    assert status == 201, text
    assert len(stack.bots()) == 1
    status, text = stack.ask_engine("DELETE", f"/v1.41/containers/{PREFIX}-m-1?force=true&v=true")
    assert status == 204, text
    assert stack.bots() == []


def test_nobody_but_the_dispatcher_reaches_the_proxy(stack: Stack) -> None:
    proxy = stack.inspect("engine-proxy")
    (network,) = proxy["NetworkSettings"]["Networks"]
    members = json.loads(stack.engine.docker("network", "inspect", network))[0]["Containers"].values()
    assert {one["Name"] for one in members} == {f"{PREFIX}-engine-proxy", f"{PREFIX}-dispatcher"}
    assert proxy["HostConfig"]["PortBindings"] in ({}, None)
    code = "import socket; socket.create_connection(('198.51.100.1', 443), 2)"
    with pytest.raises(DockerError, match=r"unreachable|timed out"):
        stack.engine.docker("exec", f"{PREFIX}-engine-proxy", "/opt/venv/bin/python", "-c", code)


def test_a_call_outlives_an_upgrade_and_the_next_one_has_the_new_image(
    stack: Stack, browser: Browser, base_image: str
) -> None:
    """A base of another name is another image to the stack, and none that would have to be built."""
    stack.engine.docker("tag", base_image, "switchboard-test/newer-base:1")
    services = ("dispatcher", "engine-proxy")
    before = {name: stack.inspect(name) for name in services}
    with visit(browser, stack.url, scripted=True) as voice:
        voice.talk()
        voice.wait_for_sound()
        (bot,), (older,) = stack.bots(), stack.images_of_bots()
        stack.up(base="switchboard-test/newer-base:1")
        for name in services:
            after = stack.inspect(name)
            assert after["Id"] != before[name]["Id"]
            assert after["Config"]["Image"] != before[name]["Config"]["Image"]
        assert stack.bots() == [bot]
        assert voice.phase == "live"
        voice.click("Hang up")
        until(lambda: stack.bots() == [], PATIENCE, "the end of the container")
    with visit(browser, stack.url, scripted=True) as voice:
        voice.talk()
        (newer,) = stack.images_of_bots()
        assert newer != older
        voice.click("Hang up")
        until(lambda: stack.bots() == [], PATIENCE, "the end of the container")


def test_no_start_is_refused_while_a_bots_new_image_is_deployed(stack: Stack) -> None:
    """20 starts a second, of callers who would wait for a line, through an up that changes a bot's image."""
    engine = stack.engine
    ids = engine.docker("images", "--quiet", f"{PREFIX}-bot-bot-agents").split()
    agent = {"bot": "/app/echo.py", "maxSessions": 1, "maxQueued": 5000, "clientTimeoutSeconds": 600}
    for version in (1, 2):
        engine.docker("tag", ids[0], f"switchboard-test/echo:{version}")
    stack.change(agents={"echo": {**agent, "image": "switchboard-test/echo:1"}})
    before = {name: stack.inspect(name)["Id"] for name in ("dispatcher", "engine-proxy")}

    url, _, key = stack.url.partition("/#key=")
    headers, over = {"Authorization": f"Bearer {key}"}, threading.Event()
    answers: list[Future[httpx.Response]] = []
    with ThreadPoolExecutor(40) as pool, httpx.Client(headers=headers, timeout=PATIENCE) as http:

        def start() -> httpx.Response:
            return http.post(f"{url}/start?wait=none&queue=600", json={})

        def come() -> None:
            while not over.wait(0.05):
                answers.append(pool.submit(start))

        comer = threading.Thread(target=come)
        comer.start()
        try:
            stack.change(agents={"echo": {**agent, "image": "switchboard-test/echo:2"}})
        finally:
            over.set()
            comer.join()
        seen = Counter(answer.result().status_code for answer in answers)
        # The longest-waiting one has the line: the others first, or each would get it in its turn.
        for answer in reversed(answers):
            http.delete(f"{url}/sessions/{answer.result().json()['sessionId']}")
    assert set(seen) == {200}
    assert len(answers) > 20
    assert {name: stack.inspect(name)["Id"] for name in before} == before
    until(lambda: stack.bots() == [], PATIENCE, "the end of the containers")
    with httpx.Client(headers=headers, timeout=PATIENCE) as http:
        session = http.post(f"{url}/start?wait=started", json={}).json()["sessionId"]
        assert stack.images_of_bots() == {"switchboard-test/echo:2"}
        http.delete(f"{url}/sessions/{session}")
    until(lambda: stack.bots() == [], PATIENCE, "the end of the container")


def test_a_copy_of_the_store_is_restored_as_documented(
    stack: Stack, browser: Browser, base_image: str, tmp_path: Path
) -> None:
    copy, restore = documented("Backup", base_image)
    kept = stack.sessions()
    assert kept
    stack.run(copy, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"backup.sqlite", "machine-token.key"}
    key = (tmp_path / "machine-token.key").read_bytes()
    stack.call(browser)
    assert len(stack.sessions()) == len(kept) + 1
    stack.exec("import os; os.remove('/data/machine-token.key')")
    stack.run(restore, tmp_path)
    until(stack.is_healthy, PATIENCE, "a healthy dispatcher")
    assert stack.sessions() == kept
    restored = stack.exec("print(open('/data/machine-token.key', 'rb').read().hex())")
    assert restored == key.hex()
    # The files are the dispatcher's to write.
    stack.call(browser)
    assert len(stack.sessions()) == len(kept) + 1


def test_a_call_outlives_a_new_dispatcher_and_ends_with_the_stack(stack: Stack, browser: Browser) -> None:
    with visit(browser, stack.url, scripted=True) as voice:
        voice.talk()
        voice.wait_for_sound()
        before = stack.inspect("dispatcher")["Id"]
        assert len(stack.bots()) == 1
        stack.engine.docker("restart", f"{PREFIX}-dispatcher")
        until(stack.is_healthy, PATIENCE, "a healthy dispatcher")
        assert stack.inspect("dispatcher")["Id"] == before
        assert len(stack.bots()) == 1
        stack.driver().destroy()
        assert stack.bots() == []
        assert stack.containers("--all") == set()
