"""The settings, from and to the environment."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url

from dispatcher.machines.fly.settings import FlyShared
from dispatcher.settings import AgentSettings, Settings, is_loopback

AGENTS = {"echo": AgentSettings(bot=Path("bot/agents/echo.py"), env=("OPENAI_API_KEY",), cpu=0.5)}


KEY = {
    "name": "web",
    "hash": f"sha256:{'0' * 64}",
    "scope": "start",
    "agents": ["echo"],
    "origins": ["https://app.example.com", "http://localhost:3000"],
    "rate": {"per_second": 2.0, "burst": 5},
    "expires_at": "2030-01-01T00:00:00Z",
}
SECRET = "hunter2-hunter2-hunter2-hunter2-hunter2"


def read(monkeypatch, environment: dict[str, str]) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings()  # pyright: ignore[reportCallIssue] - its fields come from the environment


def test_the_environment_gives_the_same_settings_back(monkeypatch):
    settings = Settings.model_validate(
        {
            "host": "0.0.0.0",
            "port": 7999,
            "agents": AGENTS,
            "keys": [KEY],
            "ice_servers": [{"urls": ["stun:stun.example.com"]}],
            "data_dir": "/var/lib/switchboard",
            "default_agent": "echo",
            "placements": {"here": {"provider": "process"}},
        }
    )
    environment = settings.to_environment()
    assert "SWITCHBOARD_LOG_LEVEL" not in environment, "a default may change with the code"
    assert read(monkeypatch, environment) == settings


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "agents"),
        ({"SWITCHBOARD_AGENTS": "{}"}, "at least 1 item"),
        ({"SWITCHBOARD_AGENTS": '{"Echo": {"bot": "b.py"}}'}, "should match pattern"),
        ({"SWITCHBOARD_AGENTS": '{"echo": {"bot": "b.py", "cpus": 1}}'}, "cpus"),
        (
            {"SWITCHBOARD_AGENTS": '{"echo": {"bot": "b.py"}}', "SWITCHBOARD_PORT": "0"},
            "greater than or equal",
        ),
        (
            {"SWITCHBOARD_AGENTS": '{"echo": {"bot": "b.py"}}', "SWITCHBOARD_HOST": "0.0.0.0"},
            "host '0.0.0.0' is reachable from other machines, so keys must be set",
        ),
        (
            {
                "SWITCHBOARD_AGENTS": '{"echo": {"bot": "b.py"}}',
                "SWITCHBOARD_KEYS": json.dumps([KEY]),
                "SWITCHBOARD_ALLOWED_ORIGINS": '["https://app.example"]',
            },
            "allowed_origins names https://app.example, and keys are set",
        ),
        (
            {"SWITCHBOARD_AGENTS": '{"echo": {"bot": "b.py"}}', "SWITCHBOARD_DEFAULT_AGENT": "voice"},
            "default_agent 'voice' is not an agent; allowed: echo",
        ),
        (
            {"SWITCHBOARD_AGENTS": '{"echo": {"bot": "b.py", "placements": ["moon"]}}'},
            "agent 'echo': 'moon' is not a placement; allowed: process",
        ),
        (
            {
                "SWITCHBOARD_AGENTS": '{"echo": {"bot": "b.py"}}',
                "SWITCHBOARD_PLACEMENTS": '{"a": {"provider": "process"}, "b": {"provider": "process"}}',
            },
            "placements a, b are all this host; allowed: one placement of 'process'",
        ),
        (
            {
                "SWITCHBOARD_AGENTS": '{"echo": {"bot": "b.py"}}',
                "SWITCHBOARD_PLACEMENTS": '{"a": {"provider": "acme"}}',
            },
            "'acme' is not the name of a machine provider; allowed: cloud-run-jobs, compute-engine",
        ),
        (
            {"SWITCHBOARD_AGENTS": '{"echo": {"bot": "b.py"}}', "SWITCHBOARD_SECRETS": '["short"]'},
            "a secret must be at least 32 characters long",
        ),
    ],
)
def test_bad_settings_are_refused(monkeypatch, environment, words):
    with pytest.raises(ValidationError) as refused:
        read(monkeypatch, environment)
    assert words in str(refused.value)


@pytest.mark.parametrize("field", ["public_url", "machine_url"])
@pytest.mark.parametrize(
    "url",
    [
        "",
        "10.0.0.1:80",
        "example.com",
        "//example.com",
        "ftp://example.com",
        "https://",
        "https://:443",
        "https://a b.example",
        "https://example.com:port",
        "https://example.com?a=b",
        "https://example.com/?a=b",
        "https://example.com/#top",
        "https://example.com\n",
    ],
)
def test_a_url_that_nothing_can_be_put_behind_is_refused(field, url):
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate({"agents": AGENTS, field: url})
    (error,) = refused.value.errors()
    assert error["loc"] == (field,)
    assert f"{url!r} is not accepted; allowed: http(s)://host or http(s)://host:port" in error["msg"]


def test_a_url_with_a_password_is_refused_without_saying_it():
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate({"agents": AGENTS, "public_url": "https://me:hunter2@example.com"})
    assert "a URL with an @ is not accepted" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_only_the_url_for_machines_has_a_path():
    url = "https://example.com/switchboard/"
    assert Settings.model_validate({"agents": AGENTS, "machine_url": url}).machine_url == url
    with pytest.raises(ValidationError, match="public_url"):
        Settings.model_validate({"agents": AGENTS, "public_url": url})


@pytest.mark.parametrize(
    "url", ["http://localhost:7860", "https://Example.com/", "https://[::1]:7860", "http://10.0.0.1"]
)
def test_a_public_url(url):
    assert Settings.model_validate({"agents": AGENTS, "public_url": url}).url == url.rstrip("/")


@pytest.mark.parametrize(
    "url", ["mysql://db/x", "postgresql://u:hunter2@ss@db/x", "postgresql://u:hunter2@db:port/x", "sqlite://"]
)
def test_a_store_that_is_none_is_refused_without_its_password(url):
    with pytest.raises(ValidationError, match="database_url: allowed is a URL that begins with") as refused:
        Settings.model_validate({"agents": AGENTS, "secrets": [SECRET], "database_url": url})
    assert "hunter2" not in str(refused.value)


def test_a_secret_is_in_no_error_no_repr_and_no_environment():
    url = "postgresql+psycopg://switchboard:hunter2@db/switchboard"
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate({"agents": AGENTS, "secrets": ["hunter2"], "database_url": url})
    settings = Settings.model_validate({"agents": AGENTS, "secrets": [SECRET], "database_url": url})
    said = [repr(settings), str(settings), str(refused.value), str(settings.to_environment())]
    assert "hunter2" not in "".join(said)


@pytest.mark.parametrize("field", ["daily_api_key", "daily_webhook_secret", "fly_api_token", "turn_secret"])
@pytest.mark.parametrize("secret", [f"{SECRET}\n", f" {SECRET}", f"hunter2\t{SECRET}", f"{SECRET}é", ""])
def test_a_secret_that_no_header_takes_is_refused_by_its_name(field, secret):
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate({"agents": AGENTS, field: secret})
    assert field in {error["loc"][0] for error in refused.value.errors() if error["loc"]}
    assert "hunter2" not in str(refused.value)


def test_a_token_of_fly_has_a_space():
    token = "FlyV1 fm2_abc,fm2_def"
    settings = Settings.model_validate({"agents": AGENTS, "fly_api_token": token})
    given = settings.shared("fly", FlyShared).api_token
    assert given is not None
    assert given.get_secret_value() == token


def test_a_key_that_somebody_took_for_its_hash_is_in_no_error():
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate({"agents": AGENTS, "keys": [KEY | {"hash": "sk_hunter2"}]})
    assert "keys.0.hash" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([KEY | {"name": "Web"}], "keys.0.name"),
        ([KEY | {"scope": "root"}], "'start', 'read' or 'admin'"),
        ([KEY | {"agents": ["ehco"]}], "key 'web': 'ehco' is not an agent; allowed: echo"),
        ([KEY | {"origins": ["https://a.example/"]}], "'https://a.example/' is not a browser's origin"),
        ([KEY | {"origins": ["https://a.example:443"]}], "'https://a.example:443' is not a browser's origin"),
        ([KEY | {"origins": ["https://A.example"]}], "'https://A.example' is not a browser's origin"),
        ([KEY | {"origins": ["https://u@a.example"]}], "'https://u@a.example' is not a browser's origin"),
        ([KEY | {"origins": ["https://a.example:x"]}], "'https://a.example:x' is not a browser's origin"),
        ([KEY | {"origins": ["https://"]}], "'https://' is not a browser's origin"),
        ([KEY | {"origins": ["*"]}], "'*' is not a browser's origin"),
        ([KEY | {"scope": "admin"}], "everybody can read a key with origins"),
        ([KEY | {"scope": "read"}], "its scope must not be 'read'; allowed: start"),
        ([KEY | {"rate": {"per_second": 0}}], "greater than 0"),
        ([KEY | {"expires_at": "2030-01-01T00:00:00"}], "should have timezone info"),
        ([KEY, KEY | {"name": "other"}], "two keys have the same hash"),
        (
            [KEY, KEY | {"hash": f"sha256:{'1' * 64}", "agents": []}],
            "the two keys 'web' may differ",
        ),
        ([KEY | {"hash": f"sha256:{digit * 64}"} for digit in "012"], "there are 3 keys 'web'"),
    ],
)
def test_bad_keys_are_refused(keys, words):
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate({"agents": AGENTS, "keys": keys})
    assert words in str(refused.value)


def test_two_keys_of_one_name_are_the_old_and_the_new_one():
    new = KEY | {"hash": f"sha256:{'1' * 64}", "expires_at": None}
    assert len(Settings.model_validate({"agents": AGENTS, "keys": [KEY, new]}).keys) == 2


def test_dispatchers_that_share_a_database_must_share_their_secret():
    values = {"agents": AGENTS, "database_url": "postgresql+psycopg://db/switchboard"}
    with pytest.raises(ValidationError, match="secrets must be set with this database_url"):
        Settings.model_validate(values)
    assert Settings.model_validate(values | {"secrets": [SECRET, SECRET[::-1]]}).secrets
    assert not Settings.model_validate(values | {"database_url": "sqlite:///x.sqlite"}).secrets


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.com", False),
        ("", False),
    ],
)
def test_loopback(host, loopback):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("name", ["que?ry", "pc%20t", "ha#sh", "spa ce"])
def test_the_store_lies_in_the_data_directory_whatever_its_name(tmp_path, name):
    settings = Settings.model_validate({"agents": AGENTS, "data_dir": tmp_path / name})
    assert make_url(settings.store_url).database == str(tmp_path / name / "switchboard.sqlite")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"turn_urls": ["turn:turn.example:3478"]}, "turn_secret is missing"),
        ({"turn_secret": SECRET}, "turn_urls is missing"),
        ({"turn_urls": ["stun:turn.example"], "turn_secret": SECRET}, "should match pattern"),
        ({"turn_urls": ["turn:user@turn.example"], "turn_secret": SECRET}, "should match pattern"),
    ],
)
def test_a_turn_server_needs_its_url_and_its_secret(values, words):
    with pytest.raises(ValidationError, match=words):
        Settings.model_validate({"agents": AGENTS, **values})


def test_the_secret_of_the_turn_servers_is_never_written_down(monkeypatch):
    values = {"turn_urls": ["turns:turn.example:5349?transport=tcp"], "turn_secret": SECRET}
    settings = Settings.model_validate({"agents": AGENTS, **values})
    assert SECRET not in str(settings.to_environment())
    assert SECRET not in repr(settings)
    environment = settings.to_environment() | {"SWITCHBOARD_TURN_SECRET": SECRET}
    assert read(monkeypatch, environment) == settings


def test_images_are_those_of_the_agents(monkeypatch):
    both = '{"echo": {"bot": "b.py", "image": "registry.example/old"}, "voice": {"bot": "v.py"}}'
    settings = read(
        monkeypatch,
        {"SWITCHBOARD_AGENTS": both, "SWITCHBOARD_IMAGES": '{"echo": "registry.example/new@sha256:1"}'},
    )
    assert settings.agents["echo"].image == "registry.example/new@sha256:1"
    assert settings.agents["voice"].image is None
    environment = settings.to_environment()
    assert "registry" not in environment["SWITCHBOARD_AGENTS"], "a plan knows the agents before the images"
    assert read(monkeypatch, environment) == settings


def test_agents_may_name_their_images_themselves(monkeypatch):
    settings = read(monkeypatch, {"SWITCHBOARD_AGENTS": '{"echo": {"bot": "b.py", "image": "echo:1"}}'})
    assert settings.agents["echo"].image == "echo:1"
    assert read(monkeypatch, settings.to_environment()) == settings


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ('{"echos": "echo:1"}', "images: 'echos' is not an agent; allowed: echo"),
        ('{"echo": ""}', "at least 1 character"),
        ('["echo:1"]', "images"),
    ],
)
def test_images_that_are_nobodys_are_refused(monkeypatch, images, words):
    environment = {"SWITCHBOARD_AGENTS": '{"echo": {"bot": "b.py"}}', "SWITCHBOARD_IMAGES": images}
    with pytest.raises(ValidationError, match=words):
        read(monkeypatch, environment)
