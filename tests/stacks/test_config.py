"""Bad values are refused in one line each, which names the key, the value and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from dispatcher.settings import Settings
from stacks.bot_files import why_no_image
from stacks.config import StackConfig, parse
from stacks.docker.config import DockerConfig, DockerKeys
from stacks.errors import ConfigError
from stacks.shared.settings import Placements, settings_of

REPOSITORY = Path(__file__).resolve().parents[2]
ECHO = {"echo": {"bot": "echo.py"}}
KEY = {"name": "web", "hash": f"sha256:{'0' * 64}", "scope": "start", "origins": ["https://a.example"]}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "echo.py").touch()
    return tmp_path


def settings(found: StackConfig, **of_the_host: Any) -> Settings:
    return settings_of(found, Placements(), **of_the_host)


def config(checkout: Path, **values: Any) -> StackConfig:
    """Parse values as the engine hands them over: text, and JSON for what is structured."""
    raw = {
        f"switchboard:{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in values.items()
    }
    return parse(raw, project="switchboard", checkout=checkout, stack="local")


def with_agent(**values: Any) -> dict[str, Any]:
    return {"agents": {"echo": {"bot": "echo.py", **values}}}


def with_key(**values: Any) -> dict[str, Any]:
    return {"agents": ECHO, "keys": [{**KEY, **values}]}


def on_docker(**values: Any) -> dict[str, Any]:
    return {"agents": ECHO, "cloud": "docker", "docker": values}


def test_what_is_not_set_has_its_default(checkout: Path) -> None:
    found = config(checkout, agents=ECHO)
    assert (found.cloud, found.port, found.log_level) == ("local", 7860, "info")
    assert found.data_dir == checkout / ".switchboard/stacks/local"


def test_level_of_an_agent_reaches_the_dispatcher_and_is_absent_unless_set(checkout: Path) -> None:
    """An upgrade must not change the environment of a stack that is up."""
    for given, level in (({"logLevel": "TRACE"}, "TRACE"), ({}, None)):
        environment = settings(config(checkout, **with_agent(**given))).to_environment()
        assert json.loads(environment["SWITCHBOARD_AGENTS"])["echo"].get("log_level") == level


def test_paths_are_from_the_checkout(checkout: Path) -> None:
    found = config(checkout, agents=ECHO, dataDir="kept/here")
    assert found.agents["echo"].bot == checkout / "echo.py"
    assert found.data_dir == checkout / "kept/here"


@pytest.mark.parametrize(
    ("key", "cloud", "allowed"),
    [
        ("pulumi:disable-default-providers", "local", None),
        ("docker-build:host", "docker", None),
        ("switchbord:port", "local", "switchboard:port"),
        ("dockr:host", "docker", "docker:host"),
        ("aws:region", "local", "keys that begin with switchboard:, pulumi:"),
        ("docker:host", "local", "keys that begin with switchboard:, pulumi:"),
    ],
)
def test_a_key_is_refused_when_nothing_of_the_stack_reads_it(
    tmp_path: Path, key: str, cloud: str, allowed: str | None
) -> None:
    (tmp_path / "bots").mkdir()
    (tmp_path / "bots" / "echo.py").touch()
    agents = json.dumps({"echo": {"bot": "bots/echo.py"}})
    values = {key: "1", "switchboard:cloud": cloud, "switchboard:agents": agents}
    if allowed is None:
        assert parse(values, project="switchboard", checkout=tmp_path, stack="local").port == 7860
        return
    with pytest.raises(ConfigError) as refused:
        parse(values, project="switchboard", checkout=tmp_path, stack="local")
    assert str(refused.value) == (
        f"{key}: nothing of a stack of cloud {cloud} reads {key.partition(':')[0]}:…; allowed: {allowed}"
    )


KEYS = [str(field.alias) for field in StackConfig.model_fields.values()]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"agents": ECHO, "port": 99999},
            'switchboard:port: "99999" is refused; allowed: a whole number, 1 to 65535',
        ),
        (
            {"agents": ECHO, "port": "http"},
            'switchboard:port: "http" has the wrong type; allowed: a whole number, 1 to 65535',
        ),
        (
            {"agents": ECHO, "prot": 1},
            f"switchboard:prot: is not a key; allowed: {', '.join(KEYS)}",
        ),
        (
            {"agents": ECHO, "dailyAPIKey": "hunter2"},
            f"switchboard:dailyAPIKey: is not a key; allowed: {', '.join(KEYS)}",
        ),
        (
            {"agents": ECHO, "daily_domain": "acme"},
            f"switchboard:daily_domain: is not a key; allowed: {', '.join(KEYS)}",
        ),
        (
            {"agents": ECHO, "logLevel": "loud"},
            'switchboard:logLevel: "loud" is refused; allowed: debug, info, warning, error',
        ),
        (
            with_agent(env=["OPENAI_API_KEY", "SWITCHBOARD_TURN_SECRET"]),
            "switchboard:agents.echo.env[1]: 'SWITCHBOARD_TURN_SECRET' is refused; allowed: a name that does "
            "not begin with SWITCHBOARD_, as the dispatcher's own do, secrets among them",
        ),
        (
            {"agents": ECHO, "cloud": "moon"},
            'switchboard:cloud: "moon" is refused; allowed: local, docker, fly, aws, gcp',
        ),
        (
            {"agents": ECHO, "defaultAgent": "ehco"},
            "switchboard:defaultAgent: 'ehco' is not an agent; allowed: echo",
        ),
        (
            {},
            "switchboard:agents: is missing; "
            "allowed: at least one agent, each as `name: {bot: path/to/bot.py}`",
        ),
        (
            {"agents": {}},
            "switchboard:agents: {} is refused; "
            "allowed: at least one agent, each as `name: {bot: path/to/bot.py}`",
        ),
        (
            {"agents": {"Echo!": {"bot": "echo.py"}}},
            'switchboard:agents.Echo!: "Echo!" is refused; allowed: a name of a-z, 0-9 and -, '
            "at most 63 long, that begins and ends with a letter or digit",
        ),
        ({"agents": {"echo": {}}}, "switchboard:agents.echo.bot: is missing; allowed: a path"),
        (
            with_agent(memory=512),
            "switchboard:agents.echo.memory: is not a key; allowed: bot, image, transports, "
            "dailyAllowedProperties, cpu, memoryMb, env, logLevel, arguments, python, maxSessions, "
            "maxQueued, maxQueueSeconds, startTimeoutSeconds, maxStartDelaySeconds, clientTimeoutSeconds, "
            "idleTimeoutSeconds, "
            "maxDurationSeconds, placements, reserve, phone",
        ),
        (
            with_agent(dailyAllowedProperties=["privacy"]),
            'switchboard:agents.echo.dailyAllowedProperties[0]: "privacy" is refused; '
            "allowed: a list of any of enable_dialout, enable_recording, exp",
        ),
        (
            with_agent(logLevel="debug"),
            'switchboard:agents.echo.logLevel: "debug" is refused; '
            "allowed: TRACE, DEBUG, INFO, WARNING, ERROR",
        ),
        (
            with_agent(memoryMb=1),
            "switchboard:agents.echo.memoryMb: 1 is refused; allowed: a whole number, 256 to 131072",
        ),
        (
            with_agent(cpu=0),
            "switchboard:agents.echo.cpu: 0 is refused; allowed: a number, above 0 and up to 64",
        ),
        (
            with_agent(maxSessions=1.5),
            "switchboard:agents.echo.maxSessions: 1.5 has the wrong type; "
            "allowed: a whole number, 1 to 100000",
        ),
        (
            with_agent(env=["KEY=secret"]),
            'switchboard:agents.echo.env[0]: "KEY=…" is refused; '
            "allowed: the name of an environment variable (letters, digits and _), never a value",
        ),
        (
            with_agent(transports=[]),
            "switchboard:agents.echo.transports: [] is refused; "
            "allowed: a list of at least one of webrtc, daily, websocket",
        ),
        (
            with_key(hash="sk_the-key-itself"),
            "switchboard:keys[0].hash: is refused; "
            "allowed: what `make key NAME=…` prints as such, never the key itself",
        ),
        (
            {"agents": ECHO, "keys": ["sk_the-key-itself"]},
            "switchboard:keys[0]: has the wrong type; "
            "allowed: a list of the entries that `make key NAME=…` prints",
        ),
        (with_key(scope="root"), "switchboard:keys[0].scope: is refused; allowed: start, read, admin"),
        (
            with_key(rate={"perMinute": 1}),
            "switchboard:keys[0].rate.perMinute: is not a key; allowed: perSecond, burst",
        ),
        (
            with_key(origins=["https://a.example/page"]),
            "switchboard:keys[0].origins[0]: 'https://a.example/page' is not a browser's origin; "
            "allowed: https://host or https://host:port",
        ),
        (with_key(agents=["ehco"]), "switchboard:keys[0].agents[0]: 'ehco' is not an agent; allowed: echo"),
        (
            {"agents": ECHO, "keys": [KEY, KEY]},
            "switchboard:keys: two keys have the same hash; allowed: each key once",
        ),
        (
            on_docker(host="tcp://0.0.0.0:2375"),
            'switchboard:docker.host: "tcp://0.0.0.0:2375" is refused; '
            "allowed: unix:///path/of/a/socket, or ssh://user@host or ssh://user@host:port with a port of "
            "1 to 65535",
        ),
        (
            on_docker(domian="x.example"),
            "switchboard:docker.domian: is not a key; allowed: "
            + ", ".join(str(field.alias) for field in DockerConfig.model_fields.values()),
        ),
        (
            on_docker(domain="https://x.example"),
            'switchboard:docker.domain: "https://x.example" is refused; '
            "allowed: a name that leads to the engine's host, such as voice.example.com",
        ),
        (
            on_docker(models="/srv/models"),
            'switchboard:docker.models: "/srv/models" is refused; '
            "allowed: the name of a volume of the engine",
        ),
        (
            on_docker(vad="silero"),
            'switchboard:docker.vad: "silero" is refused; allowed: onnx, torch',
        ),
        (
            on_docker(torchIndex="https://me:hunter2@index.example/simple"),
            'switchboard:docker.torchIndex: "https://…@index.example/simple" is refused; allowed: '
            "default, or the URL of a package index without a password: https://… or http://…",
        ),
        (
            on_docker(turn=True),
            "switchboard:docker.turnAddress: is missing, and turn is on; "
            "allowed: the IP address by which callers reach the engine's host",
        ),
        (
            on_docker(turn=True, turnAddress="vm.example"),
            "switchboard:docker.turnAddress: 'vm.example' is refused; "
            "allowed: an IP address, such as 127.0.0.1",
        ),
        (
            on_docker(turnPorts=[50000, 49000]),
            "switchboard:docker.turnPorts: [50000, 49000] is refused; "
            "allowed: a list of the first and the last UDP port, 1024 to 65535, without 3478, "
            "at most 1000 ports",
        ),
        (
            on_docker(turnPorts=[80, 90]),
            "switchboard:docker.turnPorts[0]: 80 is refused; "
            "allowed: a list of the first and the last UDP port, 1024 to 65535, without 3478, "
            "at most 1000 ports\n"
            "switchboard:docker.turnPorts[1]: 90 is refused; "
            "allowed: a list of the first and the last UDP port, 1024 to 65535, without 3478, "
            "at most 1000 ports",
        ),
        (
            on_docker(address="0.0.0.0"),
            "switchboard:docker.address: 0.0.0.0 is reachable from other machines, so keys must be set; "
            "without keys only 127.0.0.1 or ::1 is allowed",
        ),
        (
            on_docker(domain="voice.example.com"),
            "switchboard:docker.domain: voice.example.com is reachable from other machines, "
            "so keys must be set",
        ),
        (
            {"agents": ECHO, "docker": {"turn": False}},
            "switchboard:docker: is there, and cloud is local; allowed: only with docker",
        ),
        (
            {"agents": ECHO, "cloud": "docker", "dataDir": "here"},
            "switchboard:dataDir: is there, and cloud is docker; allowed: only with local",
        ),
        (
            {"agents": ECHO, "drainSeconds": 3},
            "switchboard:drainSeconds: is there, and cloud is local; allowed: only with docker and fly "
            "and aws",
        ),
    ],
)
def test_a_bad_value_is_refused(checkout: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(checkout, **values)
    assert str(caught.value) == message


def test_a_bot_file_that_is_not_there(checkout: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config(checkout, agents={"echo": {"bot": "bots/ehco.py"}})
    assert str(caught.value) == (
        f"switchboard:agents.echo.bot: 'bots/ehco.py' is not there (looked for {checkout}/bots/ehco.py); "
        "allowed: the path of a Python file with `async def bot(runner_args)`, absolute or from the checkout"
    )


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("../../home/me", "your home directory, or above it"),
        ("../../home", "your home directory, or above it"),
        (".", "the checkout, or above it"),
        ("..", "the checkout, or above it"),
        ("../../tmp", "a directory of the system's"),
    ],
)
def test_a_directory_that_is_nobodys_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, what: str
) -> None:
    for directory in ("home/me/bots", "src/checkout", "tmp"):
        (tmp_path / directory).mkdir(parents=True)
    checkout = tmp_path / "src" / "checkout"
    (checkout / place / "bot.py").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "me"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    agents = {"echo": {"bot": f"{place}/bot.py"}}
    with pytest.raises(ConfigError) as caught:
        config(checkout, agents=agents, cloud="docker")
    given, directory = str(Path(f"{place}/bot.py")), (checkout / place).resolve()
    assert str(caught.value) == (
        f"switchboard:agents.echo.bot: {given!r} is refused: all of its directory becomes an image, and "
        f"{directory} is {what}; allowed: a bot file in a directory of its own"
    )
    assert config(checkout, agents=agents).agents["echo"].bot.parent == directory, "no image, no matter"


def test_a_directory_of_a_bots_own_may_be_in_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bots").mkdir()
    (tmp_path / "bots" / "bot.py").touch()
    (tmp_path / "checkout").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    found = config(tmp_path / "checkout", agents={"echo": {"bot": "~/bots/bot.py"}}, cloud="docker")
    assert found.agents["echo"].bot == tmp_path / "bots" / "bot.py"


@pytest.mark.parametrize("directory", ["/", "/etc", "/tmp", "/var/tmp", "/usr"])
def test_a_directory_of_the_systems(directory: str) -> None:
    assert why_no_image(Path(directory), Path("/srv/voice/checkout"))
    assert not why_no_image(Path(directory, "somebodys", "bot"), Path("/srv/voice/checkout"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("host", "ssh://deploy@vm.example:65536"),
        ("host", "ssh://-oProxyCommand=x"),
        ("host", "ssh://-l@vm.example"),
        ("host", "ssh://deploy@"),
        ("domain", "localhost"),
        ("domain", "203.0.113.7"),
        ("domain", "-voice.example.com"),
        ("domain", "voice..example.com"),
        ("domain", "voice.example.com."),
        ("base", "--help"),
        ("base", "python:3.13 slim"),
        ("base", "python@sha256:0123"),
        ("base", "python:"),
        ("caddyImage", ""),
        ("turnImage", "https://registry.example/coturn"),
        ("turnAddress", "0.0.0.0"),
        ("turnAddress", "127.0.0.1"),
        ("turnAddress", "::"),
        ("turnAddress", "169.254.169.254"),
        ("turnAddress", "fe80::1"),
        ("turnPorts", [3000, 3999]),
        ("turnPorts", [20000, 21000]),
    ],
)
def test_a_value_that_the_engine_would_stumble_over(checkout: Path, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^switchboard:docker\.{key}(\[\d\])?: .* is refused; allowed: "):
        config(checkout, **on_docker(**{key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("host", "ssh://deploy@vm-1.example:65535"),
        ("host", "ssh://10.0.0.5"),
        ("base", "python"),
        ("base", "registry.example:5000/team/python:3.13-slim-trixie@sha256:" + "0" * 64),
        ("turnImage", "127.0.0.1:5000/coturn:latest"),
        ("turnAddress", "203.0.113.7"),
        ("turnAddress", "192.168.1.7"),
        ("turnPorts", [20000, 20999]),
    ],
)
def test_a_value_that_is_taken_as_it_is(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "bots").mkdir()
    (tmp_path / "bots" / "echo.py").touch()
    agents = {"echo": {"bot": "bots/echo.py"}}
    found = config(tmp_path, agents=agents, cloud="docker", docker={key: value})
    assert json.loads(DockerKeys.of(found).docker.model_dump_json(by_alias=True))[key] == value


def test_each_fault_has_its_line(checkout: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config(checkout, agents=ECHO, port=0, prot=1)
    assert len(str(caught.value).splitlines()) == 2


def test_settings_come_from_the_config_alone(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHBOARD_KEYS", json.dumps([KEY]))
    monkeypatch.setenv("SWITCHBOARD_PORT", "1")
    environment = settings(
        config(checkout, agents=ECHO), host="127.0.0.1", data_dir=checkout / "data"
    ).to_environment()
    assert environment["SWITCHBOARD_PORT"] == "7860"
    assert environment["SWITCHBOARD_KEYS"] == "[]"


def test_keys_reach_the_dispatcher_as_their_hashes(checkout: Path) -> None:
    found = settings(config(checkout, agents=ECHO, keys=[KEY]), host="0.0.0.0", data_dir=checkout / "data")
    assert json.loads(found.to_environment()["SWITCHBOARD_KEYS"]) == [KEY]


def test_named_origins_and_hosts_reach_the_dispatcher(checkout: Path) -> None:
    named = {"allowedOrigins": ["http://192.168.1.20:5173"], "allowedHosts": ["host.docker.internal"]}
    found = settings(config(checkout, agents=ECHO, **named), host="127.0.0.1", data_dir=checkout / "data")
    environment = found.to_environment()
    assert json.loads(environment["SWITCHBOARD_ALLOWED_ORIGINS"]) == named["allowedOrigins"]
    assert json.loads(environment["SWITCHBOARD_ALLOWED_HOSTS"]) == named["allowedHosts"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"allowedOrigins": ["http://app.example/"]},
            "switchboard:allowedOrigins[0]: 'http://app.example/' is",
        ),
        ({"allowedOrigins": "http://app.example"}, "allowed: a list of origins such as http://192.168"),
        ({"allowedOrigins": ["*"]}, "switchboard:allowedOrigins[0]: '*' is not a browser's origin"),
        (
            {"allowedHosts": ["http://tunnel.example"]},
            "switchboard:allowedHosts[0]: 'http://tunnel.example' is",
        ),
        ({"allowedHosts": ["tunnel.example:443"]}, "'tunnel.example:443' is not the name of a host"),
        ({"allowedHosts": ["*.example"]}, "'*.example' is not the name of a host"),
        ({"allowedHosts": "tunnel.example"}, "allowed: a list of names such as host.docker.internal"),
        (
            {"allowedOrigins": ["http://app.example"], "keys": [KEY]},
            "allowedOrigins: http://app.example is there, and so are keys; allowed: no allowedOrigins",
        ),
    ],
)
def test_bad_origins_and_hosts_are_refused(checkout: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(checkout, agents=ECHO, **values)
    assert words in str(refused.value)


def test_the_projects_schema_is_the_configs() -> None:
    """Pulumi.yaml says keys and defaults once more, for the engine's own checks and its users."""
    schema = yaml.safe_load((REPOSITORY / "Pulumi.yaml").read_text())["config"]
    fields = {field.alias: field for field in StackConfig.model_fields.values()}
    assert set(schema) == set(fields)
    assert all(entry["description"] for entry in schema.values())
    for key, entry in schema.items():
        if fields[key].is_required():
            assert entry.get("default", "") == ""
        else:
            assert entry["default"] == plain(fields[key].default)


def plain(value: Any) -> Any:
    """Return a value as the engine hands it over; of a group of keys only what is set."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.loads(json.dumps(value, default=lambda group: group.model_dump(exclude_unset=True)))


@pytest.mark.parametrize(("stack", "agents"), [("local", {"echo"}), ("docker", {"echo"}), ("fly", {"voice"})])
def test_the_committed_stacks_are_valid(stack: str, agents: set[str]) -> None:
    file = yaml.safe_load((REPOSITORY / "stacks" / f"Pulumi.{stack}.yaml").read_text())
    values = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in file["config"].items()
    }
    if stack == "fly":
        with pytest.raises(ConfigError, match="keys: is missing, and a dispatcher at Fly is public"):
            parse(values, project="switchboard", checkout=REPOSITORY, stack=stack)
        values["switchboard:keys"] = json.dumps([KEY])
    found = parse(values, project="switchboard", checkout=REPOSITORY, stack=stack)
    assert found.cloud == stack
    assert set(found.agents) == agents
    assert found.default_agent in agents
