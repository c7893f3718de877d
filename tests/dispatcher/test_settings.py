"""The settings, from and to the environment."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url

from dispatcher.settings import AgentSettings, Settings, is_loopback

AGENTS = {"echo": AgentSettings(bot=Path("bot/agents/echo.py"), env=("OPENAI_API_KEY",), cpu=0.5)}


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
            "api_keys": ["a-key-of-enough-length"],
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
            "host '0.0.0.0' is reachable from other machines, so api_keys must be set",
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
                "SWITCHBOARD_PLACEMENTS": '{"a": {"provider": "ecs"}}',
            },
            "Input should be 'process'",
        ),
        (
            {"SWITCHBOARD_AGENTS": '{"echo": {"bot": "b.py"}}', "SWITCHBOARD_API_KEYS": '["short"]'},
            "at least 16 characters",
        ),
    ],
)
def test_bad_settings_are_refused(monkeypatch, environment, words):
    with pytest.raises(ValidationError) as refused:
        read(monkeypatch, environment)
    assert words in str(refused.value)


def test_a_key_is_in_no_error_and_no_repr():
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate({"agents": AGENTS, "api_keys": ["hunter2"]})
    settings = Settings.model_validate({"agents": AGENTS, "api_keys": ["hunter2-hunter2-hunter2"]})
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(refused.value.errors(include_input=False))


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
