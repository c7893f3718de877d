"""A stack's config as a plan reads it: from its committed file, without the key of what is encrypted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stacks.errors import ConfigError
from stacks.plan.configured import environment
from tests.plans.stacks import CHECKOUT

HASH = f"sha256:{'1' * 64}"
ENCRYPTED = f"""
config:
  switchboard:cloud: fly
  switchboard:fly: {{org: personal, regions: [iad]}}
  switchboard:databaseUrl: {{secure: "v1:aaaa"}}
  switchboard:dailyApiKey: {{secure: "v1:bbbb"}}
  switchboard:daily: {{domain: voice}}
  switchboard:iceServers: [{{urls: ["turn:t.example.com"], username: u, credential: {{secure: "v1:cccc"}}}}]
  switchboard:keys: [{{name: web, hash: "{HASH}", scope: start}}]
  switchboard:agents: {{echo: {{bot: bot/agents/echo.py, transports: [daily, webrtc]}}}}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "stacks").mkdir()
    shutil.copy(CHECKOUT / "Pulumi.yaml", tmp_path)
    shutil.copytree(CHECKOUT / "bot" / "agents", tmp_path / "bot" / "agents")
    return tmp_path


def write(checkout: Path, content: str) -> None:
    (checkout / "stacks" / "Pulumi.prod.yaml").write_text(content)


def test_encrypted_values_are_stand_ins_that_the_config_accepts(checkout: Path) -> None:
    write(checkout, ENCRYPTED)
    config = environment(checkout, "prod").config
    assert config.database_url.get_secret_value().startswith("postgresql://")
    assert config.daily_api_key.get_secret_value()
    assert config.ice_servers[0].credential is not None


def test_a_secret_in_clear_is_refused_without_its_value(checkout: Path) -> None:
    write(checkout, ENCRYPTED.replace('{secure: "v1:bbbb"}', "hunter2"))
    with pytest.raises(ConfigError, match="switchboard:dailyApiKey: is in clear") as refused:
        environment(checkout, "prod")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        ("config: [1", "is not YAML"),
        ("config: [1]", "config: holds list"),
        ("hello", "holds str; allowed: a mapping with the key config"),
    ],
)
def test_file_that_is_no_config_is_refused_in_one_line(checkout: Path, content: str, refusal: str) -> None:
    write(checkout, content)
    with pytest.raises(ConfigError, match=refusal) as refused:
        environment(checkout, "prod")
    assert len(str(refused.value).splitlines()) == 1
