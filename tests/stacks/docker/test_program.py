"""The program of the `docker` stack under mocks: what it describes, and what its containers may do."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from pulumi.runtime import rpc

from dispatcher.engine_proxy.settings import PROXY_PREFIX, ProxySettings
from dispatcher.machines.container import request as container_body
from dispatcher.machines.container.settings import ContainerPlacement
from dispatcher.settings import Settings
from dispatcher.version import VERSION
from images.app import strip
from stacks.config import parse
from stacks.docker.bots import DEPLOYMENT_LABEL
from stacks.docker.rollout import DIRECTORY, FILE
from stacks.docker.settings import NOT_YET, max_containers
from stacks.errors import ConfigError
from stacks.shared.content import fingerprint
from stacks.shared.images import MODELS_TARGET
from stacks.shared.revision import revision
from stacks.shared.slugs import slugs
from tests.stacks.local.test_program import REPOSITORY, run

CONTAINER = "docker:index/container:Container"
KEY = {"name": "web", "hash": f"sha256:{'3' * 64}", "scope": "start"}
AGENTS = {
    "echo": {"bot": "bot/agents/echo.py", "cpu": 0.5, "memoryMb": 512, "maxDurationSeconds": 600},
    "voice": {"bot": "bot/agents/voice.py", "env": ["OPENAI_API_KEY"], "memoryMb": 2048},
    "theirs": {"bot": "/app/bot.py", "image": "registry.example/theirs@sha256:" + "1" * 64},
}
PUBLIC = {"domain": "voice.example.com", "turn": True, "turnAddress": "203.0.113.7"}


def described(keys: list[dict[str, Any]] | None = None, **docker: Any) -> dict[str, Any]:
    return run(
        cloud="docker", agents=json.dumps(AGENTS), keys=json.dumps(keys or []), docker=json.dumps(docker)
    )


def containers(**docker: Any) -> dict[str, dict[str, Any]]:
    resources = described([KEY], **docker)["resources"]
    return {name: one["inputs"] for name, one in resources.items() if one["type"] == CONTAINER}


def environment(container: dict[str, Any]) -> dict[str, str]:
    return dict(variable.split("=", 1) for variable in rpc.unwrap_rpc_secret(container["envs"]))


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-of-everybody")
        yield


@pytest.fixture(scope="module")
def smallest() -> dict[str, Any]:
    return described()


@pytest.fixture(scope="module")
def largest() -> dict[str, dict[str, Any]]:
    return containers(**PUBLIC)


def test_the_smallest_stack(smallest: dict[str, Any]) -> None:
    resources = smallest["resources"]
    assert {name for name, one in resources.items() if one["type"] == CONTAINER} == {
        "dispatcher",
        "engine-proxy",
        "firewall",
    }
    assert resources["control-network"]["inputs"]["internal"] is True
    assert resources["machines-network"]["inputs"]["internal"] is False
    assert "edge-network" not in resources
    assert resources["machines"]["inputs"]["deployment"] == "switchboard-local"
    assert smallest["outputs"]["url"] == "http://127.0.0.1:7860/#key=pk_recorded"


@pytest.mark.parametrize("keys", [[], [KEY]])
def test_nothing_of_what_is_deployed_is_a_stand_in(keys: list[dict[str, Any]]) -> None:
    everything = json.dumps(described(keys, turn=True, turnAddress="203.0.113.7")["resources"])
    for stand_in in ("not-known-yet", "not-built-yet", "not known yet", NOT_YET):
        assert stand_in not in everything


def test_no_container_has_rights_on_the_host(largest: dict[str, dict[str, Any]]) -> None:
    assert set(largest) == {"dispatcher", "engine-proxy", "firewall", "caddy", "turn"}
    added = {"caddy": ["NET_BIND_SERVICE"], "turn": ["NET_BIND_SERVICE"], "firewall": ["NET_ADMIN"]}
    for name, inputs in largest.items():
        forbidden = {
            *("privileged", "devices", "deviceRequests", "pidMode", "ipcMode", "usernsMode", "cgroupnsMode"),
            *("runtime", "cgroupParent", "sysctls", "volumes", "hosts", "groupAdds"),
        }
        assert inputs.get("networkMode") == ("host" if name == "firewall" else None)
        assert not forbidden & set(inputs), name
        assert inputs["readOnly"] is True
        assert inputs["securityOpts"] == ["no-new-privileges:true"]
        assert inputs["capabilities"]["drops"] == ["ALL"]
        assert inputs["capabilities"].get("adds", []) == added.get(name, [])
        assert inputs["memory"] == inputs["memorySwap"] > 0
        assert inputs["logOpts"]["max-size"] == "10m"
        assert inputs["restart"] == "unless-stopped"


def test_only_the_proxy_has_the_engines_socket_and_only_the_dispatcher_the_proxy(
    largest: dict[str, dict[str, Any]],
) -> None:
    binds = {
        name: mount["source"]
        for name, inputs in largest.items()
        for mount in inputs.get("mounts", [])
        if mount["type"] != "volume"
    }
    assert binds == {"engine-proxy": "/var/run"}
    networks = {
        name: [one["name"].removeprefix("switchboard-local-") for one in inputs.get("networksAdvanced", [])]
        for name, inputs in largest.items()
    }
    assert networks == {
        "dispatcher": ["control", "machines", "edge"],
        "engine-proxy": ["control"],
        "firewall": [],
        "caddy": ["edge"],
        "turn": ["machines"],
    }


def ports(inputs: dict[str, Any]) -> set[tuple[str, int, str]]:
    return {
        (port.get("ip", ""), int(port["external"]), port.get("protocol", "tcp"))
        for port in inputs.get("ports", [])
    }


def test_without_a_domain_the_dispatcher_listens_on_this_machine_alone(smallest: dict[str, Any]) -> None:
    assert ports(smallest["resources"]["dispatcher"]["inputs"]) == {("127.0.0.1", 7860, "tcp")}
    assert ports(smallest["resources"]["engine-proxy"]["inputs"]) == set()


def test_with_a_domain_only_caddy_and_the_relays_listen(largest: dict[str, dict[str, Any]]) -> None:
    assert ports(largest["dispatcher"]) == ports(largest["engine-proxy"]) == set()
    assert ports(largest["caddy"]) == {("", 80, "tcp"), ("", 443, "tcp"), ("", 443, "udp")}
    relays = {("", port, "udp") for port in range(49160, 49224)}
    assert ports(largest["turn"]) == {("", 3478, "udp"), ("", 3478, "tcp"), *relays}
    assert largest["caddy"]["command"][2:] == ["--from", "voice.example.com", "--to", "dispatcher:7860"]


def test_the_firewall_leaves_the_relays_open_and_listens_nowhere(
    largest: dict[str, dict[str, Any]], smallest: dict[str, Any]
) -> None:
    assert ports(largest["firewall"]) == set()
    words = [*largest["firewall"]["entrypoints"][4:], *largest["firewall"]["command"]]
    assert words == [
        *("serve", "--table", "switchboard-local", "--socket", "/run/firewall/socket"),
        *("--reach", "udp:3478", "--reach", "tcp:3478", "--reach", "udp:49160-49223"),
    ]
    assert not smallest["resources"]["firewall"]["inputs"].get("command")


def test_the_proxy_is_told_the_firewalls_socket_in_a_volume_of_both(
    largest: dict[str, dict[str, Any]],
) -> None:
    assert environment(largest["engine-proxy"])[f"{PROXY_PREFIX}FIREWALL"] == "/run/firewall/socket"
    (firewall,) = largest["firewall"]["mounts"]
    assert firewall in largest["engine-proxy"]["mounts"]
    assert (firewall["source"], firewall["target"]) == ("switchboard-local-firewall", "/run/firewall")


def test_without_the_firewall_the_plan_says_what_is_open() -> None:
    off = described([KEY], firewall=False)
    assert "firewall" not in off["resources"]
    assert f"{PROXY_PREFIX}FIREWALL" not in environment(off["resources"]["engine-proxy"]["inputs"])
    (warning,) = off["warnings"]
    assert "169.254.169.254" in warning
    assert described([KEY])["warnings"] == []


def test_the_dispatcher_starts_with_what_it_is_told(
    largest: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(largest["dispatcher"]).items():
        monkeypatch.setenv(name, value)
    settings = Settings()  # pyright: ignore[reportCallIssue] - its fields come from the environment
    assert settings.url == "https://voice.example.com"
    assert settings.machine_url == "http://dispatcher:7860"
    bots = settings.machine_networks
    assert any(ip_address("172.20.0.9") in network for network in bots)
    assert not any(ip_address("172.20.0.1") in network for network in bots), (
        "the host, and callers through it"
    )
    assert settings.turn_urls == (
        "turn:voice.example.com:3478?transport=udp",
        "turn:voice.example.com:3478?transport=tcp",
    )
    assert settings.turn_secret is not None
    # Bots ask the first, and only one outside of the host knows how the host is seen from there.
    assert [server.urls for server in settings.ice_servers] == [
        ("stun:stun.l.google.com:19302", "stun:voice.example.com:3478")
    ]
    (placement,) = settings.placements.values()
    assert isinstance(placement, ContainerPlacement)
    assert placement.engine_url == "tcp://engine:2375"
    assert str(settings.agents["voice"].bot) == "voice.py"
    assert str(settings.images_file) == f"{DIRECTORY}/{FILE}"


def test_the_proxy_allows_what_the_dispatcher_may_ask_for(
    largest: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = environment(largest["engine-proxy"])
    assert all(name.startswith(PROXY_PREFIX) for name in told), "and no secrets"
    for name, value in {**told, **environment(largest["dispatcher"])}.items():
        monkeypatch.setenv(name, value)
    proxy = ProxySettings()  # pyright: ignore[reportCallIssue] - its fields come from the environment
    settings = Settings()  # pyright: ignore[reportCallIssue]
    (placement,) = settings.placements.values()
    assert isinstance(placement, ContainerPlacement)
    assert (proxy.deployment, proxy.network) == (placement.deployment, placement.network)
    assert proxy.repositories == ("registry.example/theirs", "switchboard-local-bot-bot-agents")
    assert proxy.images == ()
    assert (proxy.max_cpu, proxy.max_memory_mb, proxy.max_seconds) == (1.0, 2048, 7260)
    assert proxy.max_containers == 500
    assert set(proxy.variables) == {name for agent in settings.agents.values() for name in agent.env}
    assert "OPENAI_API_KEY" in proxy.variables


@pytest.mark.parametrize(
    ("agents", "whole", "most"),
    [((10, 10), 0, 500), ((400, 300), 0, 1400), ((400, 300), 350, 700), ((400, 300), 10_000, 1400)],
)
def test_the_proxy_allows_as_many_containers_as_sessions_may_need(
    agents: tuple[int, ...], whole: int, most: int
) -> None:
    given = {
        f"agent-{number}": {"bot": "bot/agents/echo.py", "maxSessions": sessions}
        for number, sessions in enumerate(agents)
    }
    values = {"switchboard:agents": json.dumps(given), "switchboard:maxSessions": str(whole)}
    found = parse(values, project="switchboard", checkout=REPOSITORY, stack="docker")
    assert max_containers(found, found.agents) == most


def test_one_image_for_each_bot_directory(smallest: dict[str, Any]) -> None:
    images = {
        name: one["inputs"]
        for name, one in smallest["resources"].items()
        if one["type"] == "docker-build:index:Image"
    }
    assert set(images) == {"dispatcher-image", "bot-bot-agents-image"}
    bot = images["bot-bot-agents-image"]
    assert {name: value for name, value in bot["buildArgs"].items() if name != "REVISION"} == {
        "BOT_DIR": "bot/agents",
        "BOT_FILE": "echo.py",
        "TRANSPORTS": "webrtc",
        "VAD": "onnx",
        "MEDIA": "audio",
        "VERSION": VERSION,
    }
    assert (bot["load"], bot["push"], bot["buildOnPreview"]) == (True, False, False)
    of_agents = smallest["resources"]["rollout"]["inputs"]["images"]
    image = bot["tags"][0]
    assert of_agents["echo"] == {"image": image, "bot": "echo.py"}
    assert of_agents["voice"] == {"image": image, "bot": "voice.py"}


def test_image_builds_from_the_file_that_lists_the_bots_packages(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)
    (project / "server").mkdir()
    (project / "server" / "bot.py").write_text("")

    def image() -> dict[str, Any]:
        agents = json.dumps({"mine": {"bot": str(project / "server" / "bot.py")}})
        resources = run(cloud="docker", agents=agents)["resources"]
        return next(one["inputs"] for name, one in resources.items() if name.startswith("bot-server-"))

    plain = image()
    listed = project / "pyproject.toml"
    listed.write_text("[project]\nname = 'mine'\ndependencies = ['cowsay']\n")
    above = image()
    staged = Path(above["context"]["named"]["bot-requirements"]["location"])
    assert [path.name for path in staged.rglob("*")] == ["out", "pyproject.toml"]
    assert (staged / "out" / "pyproject.toml").read_bytes() == listed.read_bytes()
    assert above["tags"] != plain["tags"]
    listed.rename(project / "server" / "pyproject.toml")
    beside = image()
    assert beside["buildArgs"]["REQUIREMENTS"] == "pyproject.toml"
    assert "bot-requirements" not in beside["context"]["named"]


def test_a_detector_and_a_volume_of_models() -> None:
    def build_arguments(**docker: Any) -> tuple[dict[str, str], str]:
        resources = described(**docker)["resources"]
        assert "VAD" not in resources["dispatcher-image"]["inputs"]["buildArgs"]
        bot = resources["bot-bot-agents-image"]["inputs"]
        return bot["buildArgs"], bot["tags"][0]

    plain, plain_tag = build_arguments()
    given, tag = build_arguments(models="models", vad="torch", media="video", torchIndex="default")
    assert given == {
        **plain,
        "VAD": "torch",
        "MEDIA": "video",
        "TORCH_INDEX": "default",
        "MODELS": "/mnt/models",
    }
    assert tag != plain_tag


def test_a_registry_and_a_base() -> None:
    resources = described(registry="registry.example.com/team", base="debian@sha256:" + "2" * 64)["resources"]
    image = resources["dispatcher-image"]["inputs"]
    assert image["tags"][0].startswith("registry.example.com/team/switchboard-local-dispatcher:")
    assert (image["load"], image["push"]) == (False, True)
    assert image["buildArgs"]["BASE"] == "debian@sha256:" + "2" * 64
    # By digest, which the provider tells once it has pushed.
    assert resources["dispatcher"]["inputs"]["image"] == f"dispatcher-image@sha256:{'0' * 64}"
    assert resources["engine"]["inputs"]["registryAuth"] == '[{"address": "registry.example.com"}]'


def test_an_engine_over_ssh() -> None:
    resources = described(host="ssh://deploy@vm.example:2222")["resources"]
    host = "ssh://deploy@vm.example:2222"
    assert resources["engine"]["inputs"]["host"] == resources["builds"]["inputs"]["host"] == host
    assert resources["machines"]["inputs"]["host"] == host
    socket, _ = resources["engine-proxy"]["inputs"]["mounts"]
    assert socket["source"] == "/var/run"
    assert resources["firewall-rules"]["inputs"]["host"] == host
    # The caller is not on the bots' machine.
    assert (
        "stun:stun.l.google.com" in environment(resources["dispatcher"]["inputs"])["SWITCHBOARD_ICE_SERVERS"]
    )


def test_all_addresses_of_a_vm() -> None:
    outputs = described([KEY], host="ssh://deploy@vm.example", address="0.0.0.0")["outputs"]
    assert outputs["url"] == "http://vm.example:7860"
    assert outputs["log"] == "docker --host ssh://deploy@vm.example logs switchboard-local-dispatcher"
    assert outputs["bots"] == ["switchboard-local"]


def test_the_values_of_variables_go_to_the_dispatcher_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-whoever-runs-this")
    monkeypatch.setenv("SOMEBODYS_TOKEN", "not for a bot")
    found = containers(**PUBLIC)
    dispatcher = found.pop("dispatcher")
    assert environment(dispatcher)["OPENAI_API_KEY"] == "sk-of-whoever-runs-this"
    assert rpc.is_rpc_secret(dispatcher["envs"])
    assert "sk-of" not in json.dumps(found)
    assert "not for a bot" not in json.dumps(found)


def test_a_variable_that_is_not_set_here_is_refused_unless_it_is_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert described() == {
        "error": "switchboard:agents.voice.env: not set here, or empty: OPENAI_API_KEY; allowed: "
        "the value in the environment, or UNSET=OPENAI_API_KEY (with pulumi: "
        "SWITCHBOARD_UNSET=OPENAI_API_KEY) to do without"
    }
    monkeypatch.setenv("SWITCHBOARD_UNSET", "OPENAI_KEY")
    assert described() == {"error": "UNSET: OPENAI_KEY: no agent's env names it; allowed: OPENAI_API_KEY"}
    monkeypatch.setenv("SWITCHBOARD_UNSET", "OPENAI_API_KEY")
    without = described()["resources"]["dispatcher"]["inputs"]
    assert "OPENAI_API_KEY" not in environment(without)


def test_the_turn_secret_is_in_no_argument_and_no_output() -> None:
    result = described([KEY], **PUBLIC)
    turn = result["resources"]["turn"]["inputs"]
    assert environment(turn)["TURN_SECRET"].startswith("recorded-secret")
    assert rpc.is_rpc_secret(turn["envs"])
    assert "recorded-secret" not in json.dumps([turn["entrypoints"], turn.get("command"), result["outputs"]])


def test_relays_lead_to_bots_and_not_to_their_host(largest: dict[str, dict[str, Any]]) -> None:
    lines = environment(largest["turn"])["TURN_CONFIG"].split("\n")
    assert [line for line in lines if line.startswith("allowed-")] == [
        "allowed-peer-ip=172.20.0.2-172.20.255.254"
    ]
    assert "denied-peer-ip=203.0.113.7-203.0.113.7" in lines
    assert "total-quota=64" in lines


def test_the_stacks_words_are_the_dispatchers() -> None:
    assert DEPLOYMENT_LABEL == container_body.DEPLOYMENT_LABEL
    assert MODELS_TARGET == container_body.MODELS_TARGET


def test_the_program_describes_the_same_each_time(smallest: dict[str, Any]) -> None:
    assert described() == smallest


FILES = {
    # path -> whether an image has it
    "bot.py": True,
    "inner/helper.py": True,
    "dist/words.txt": True,
    "environment.yaml": True,
    ".env": False,
    "inner/.env.local": False,
    ".git/config": False,
    ".ssh/id_ed25519": False,
    "node_modules/a/index.js": False,
    "inner/__pycache__/helper.pyc": False,
    "stale.pyc": False,
    "my-environment/pyvenv.cfg": False,
    "my-environment/lib/python3.13/site-packages/a.py": False,
}


def written(directory: Path) -> Path:
    for name in FILES:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    return directory


def test_of_a_bot_directory_an_image_has_what_bots_run(tmp_path: Path) -> None:
    strip(written(tmp_path))
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {name for name, kept in FILES.items() if kept}


@pytest.mark.parametrize("name", FILES)
def test_a_fingerprint_is_of_what_the_image_has(tmp_path: Path, name: str) -> None:
    written(tmp_path)

    def now(**arguments: str) -> str:
        return fingerprint(REPOSITORY, ["images/app.py"], tmp_path, arguments, "a test's")

    first = now()
    assert now(BASE="other") != first
    (tmp_path / name).write_text("another text")
    assert (now() != first) == FILES[name]
    second = now()
    (tmp_path / name).rename(tmp_path / name.replace("/", "-").replace(".", "-"))
    assert now() != second, "its name counts, too"


def test_an_image_is_labelled_with_the_commit_that_last_changed_what_it_is_made_from(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        whoever = ["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *whoever, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def commit(name: str) -> str:
        (tmp_path / name).write_text(name)
        git("add", "--all")
        git("commit", "--message", name)
        return git("rev-parse", "HEAD")

    assert revision(tmp_path, ["bot.py"]) is None
    git("init")
    assert revision(tmp_path, ["bot.py"]) is None
    first = commit("bot.py")
    commit("README.md")
    assert revision(tmp_path, ["bot.py"]) == first
    (tmp_path / "bot.py").write_text("not committed yet")
    assert revision(tmp_path, ["bot.py"]) == f"{first}-dirty"
    (tmp_path / "below").mkdir()
    assert revision(tmp_path / "below", ["bot.py"]) is None, "the repository is somebody else's"


def test_a_fingerprint_is_of_links_and_of_who_may_run_a_file(tmp_path: Path) -> None:
    def now() -> str:
        return fingerprint(REPOSITORY, [], tmp_path, {}, "a test's")

    (tmp_path / "run.sh").touch(mode=0o644)
    seen = [now()]
    (tmp_path / "run.sh").chmod(0o755)
    seen.append(now())
    (tmp_path / "link").symlink_to("run.sh")
    seen.append(now())
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("nowhere")
    seen.append(now())
    assert len(set(seen)) == len(seen)


def test_a_directory_that_cannot_be_read_is_told_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        fingerprint(REPOSITORY, [], tmp_path / "gone", {}, "switchboard:agents.echo.bot: 'gone'")
    assert str(caught.value) == (
        f"switchboard:agents.echo.bot: 'gone' becomes an image, and {tmp_path}/gone cannot be read "
        "(No such file or directory); allowed: a directory whose files you may read"
    )


def test_bot_directories_have_names_of_their_own_when_their_paths_read_the_same(tmp_path: Path) -> None:
    inside = ["xbots/a-b", "xbots/a/b", "xbots/A/b", "xbots/a.b", "voice"]
    directories = [*(tmp_path / one for one in inside), Path("/srv/one/bot"), Path("/srv/two/bot")]
    names = slugs(directories, tmp_path)
    assert len(set(names.values())) == len(directories)
    # A stack that is up had one of them: alone each is called what it was.
    alone = {one: slugs([one], tmp_path)[one] for one in directories}
    assert [alone[tmp_path / one] for one in inside] == [*["xbots-a-b"] * 4, "voice"]
    assert {one for one in directories if names[one] != alone[one]} == {
        tmp_path / one for one in ("xbots/a/b", "xbots/a-b", "xbots/a.b")
    }
    assert slugs(reversed(directories), tmp_path) == names
    # A name with its hash may be the name of another.
    taken = tmp_path / names[tmp_path / "xbots/a/b"].replace("xbots-", "xbots/", 1)
    assert len(set(slugs([*directories, taken], tmp_path).values())) == len(directories) + 1


@pytest.mark.parametrize("image", ["registry.example/bot", f"sha256:{'4' * 64}"])
def test_an_image_without_a_version_is_allowed_to_the_letter(
    image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = {"theirs": {"bot": "/app/bot.py", "image": image}}
    resources = run(cloud="docker", agents=json.dumps(agents), keys=json.dumps([KEY]))["resources"]
    for name, value in environment(resources["engine-proxy"]["inputs"]).items():
        monkeypatch.setenv(name, value)
    proxy = ProxySettings()  # pyright: ignore[reportCallIssue] - its fields come from the environment
    assert (proxy.images, proxy.repositories) == ((image,), ())


def test_a_changed_bot_changes_the_table_of_images_alone() -> None:
    older, newer = (
        run(cloud="docker", agents=json.dumps(AGENTS | {"theirs": theirs}), keys=json.dumps([KEY]))[
            "resources"
        ]
        for digit in "12"
        for theirs in [AGENTS["theirs"] | {"image": "registry.example/theirs@sha256:" + digit * 64}]
    )
    assert [name for name in newer if newer[name] != older[name]] == ["rollout"]
