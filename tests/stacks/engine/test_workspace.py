"""State, encryption and config of a run: where each is, and that no committed file is changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stacks.engine.workspace import Workspace, prepare
from stacks.errors import ConfigError


@pytest.fixture(autouse=True)
def _apart(nobody_logged_in: None) -> None:
    """Every test here looks at the environment."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "stacks").mkdir(parents=True)
    (root / "Pulumi.yaml").write_text("name: switchboard\nruntime: python\nstackConfigDir: stacks\n")
    write_stack(root, {"config": {"switchboard:port": 7001, "switchboard:agents": {"a": {"bot": "a.py"}}}})
    return root


def write_stack(checkout: Path, settings: dict[str, Any]) -> None:
    (checkout / "stacks" / "Pulumi.local.yaml").write_text(yaml.safe_dump(settings))


def make(checkout: Path, **overrides: Any) -> Workspace:
    return prepare(checkout, checkout / ".switchboard", "local", overrides)


def effective(workspace: Workspace) -> dict[str, Any]:
    return yaml.safe_load((workspace.directory / "Pulumi.local.yaml").read_text())


def test_state_goes_into_files_when_nobody_is_logged_in(checkout: Path) -> None:
    workspace = make(checkout)
    state = checkout / ".switchboard/engine/state"
    assert workspace.backend == state.as_uri() == workspace.environment["PULUMI_BACKEND_URL"]
    assert workspace.never_up


def test_state_goes_where_the_user_is_logged_in(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = checkout / "pulumi-home"
    home.mkdir()
    (home / "credentials.json").write_text(json.dumps({"current": "https://api.pulumi.com"}))
    monkeypatch.setenv("PULUMI_HOME", str(home))
    workspace = make(checkout)
    assert workspace.backend == "https://api.pulumi.com"
    assert not {"PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE_FILE"} & set(workspace.environment)
    assert not workspace.never_up


def test_the_environment_names_the_backend_before_a_login(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", "s3://ours")
    assert make(checkout).backend == "s3://ours"


def test_an_access_token_means_the_service(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_ACCESS_TOKEN", "pul-1")
    workspace = make(checkout)
    assert workspace.backend is None
    assert workspace.own_state is None


def test_the_passphrase_is_made_once_and_for_the_user_only(checkout: Path) -> None:
    file = Path(make(checkout).environment["PULUMI_CONFIG_PASSPHRASE_FILE"])
    first = file.read_text()
    assert len(first) > 30
    assert file.stat().st_mode & 0o777 == 0o600
    make(checkout)
    assert file.read_text() == first
    assert [path.name for path in file.parent.glob("*.new")] == []


def test_a_passphrase_of_the_user_counts(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "theirs")
    assert "PULUMI_CONFIG_PASSPHRASE_FILE" not in make(checkout).environment


def test_what_the_engine_adds_is_kept_for_the_backend_that_it_is_of(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = (checkout / "stacks/Pulumi.local.yaml").read_text()
    for backend in ("s3://one", "s3://two"):
        monkeypatch.setenv("PULUMI_BACKEND_URL", backend)
        with (make(checkout).directory / "Pulumi.local.yaml").open("a") as file:
            file.write(f"encryptionsalt: v1:of-{backend}\n")
    assert effective(make(checkout))["encryptionsalt"] == "v1:of-s3://two"
    monkeypatch.setenv("PULUMI_BACKEND_URL", "s3://one")
    assert effective(make(checkout))["encryptionsalt"] == "v1:of-s3://one"
    monkeypatch.delenv("PULUMI_BACKEND_URL")
    assert "encryptionsalt" not in effective(make(checkout))
    assert (checkout / "stacks/Pulumi.local.yaml").read_text() == committed


def test_a_salt_of_an_earlier_release_is_forgotten_when_own_state_is_new(checkout: Path) -> None:
    """It kept one for all backends: this may be another's."""
    with (make(checkout).directory / "Pulumi.local.yaml").open("a") as file:
        file.write("encryptionsalt: v1:abc\n")
    assert "encryptionsalt" not in effective(make(checkout))


def test_the_salt_of_own_state_is_the_states(checkout: Path) -> None:
    workspace = make(checkout)
    state = checkout / ".switchboard/engine/state/.pulumi/stacks/switchboard/local.json"
    state.parent.mkdir(parents=True)
    latest = {"secrets_providers": {"type": "passphrase", "state": {"salt": "v1:its-own"}}}
    state.write_text(json.dumps({"checkpoint": {"latest": latest}}))
    with (workspace.directory / "Pulumi.local.yaml").open("a") as file:
        file.write("encryptionsalt: v1:abc\n")
    assert effective(make(checkout))["encryptionsalt"] == "v1:its-own"


def test_a_committed_salt_counts_when_something_is_encrypted_with_it(checkout: Path) -> None:
    salt = {"encryptionsalt": "v1:theirs"}
    write_stack(checkout, {**salt, "config": {"switchboard:turnSecret": {"secure": "v1:xyz"}}})
    assert effective(make(checkout))["encryptionsalt"] == "v1:theirs"
    assert make(checkout).notices == []
    write_stack(checkout, {**salt, "config": {"switchboard:port": 7001}})
    assert "encryptionsalt" not in effective(make(checkout))
    assert len(make(checkout).notices) == 1


def test_a_committed_secrets_provider_counts_before_what_was_kept(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", "s3://ours")
    with (make(checkout).directory / "Pulumi.local.yaml").open("a") as file:
        file.write("encryptionsalt: v1:abc\n")
    write_stack(checkout, {"secretsprovider": "awskms://alias/ours", "encryptedkey": "AQ==", "config": {}})
    workspace = make(checkout)
    assert workspace.secrets_provider == "awskms://alias/ours"
    assert "encryptionsalt" not in effective(workspace)
    assert effective(workspace)["encryptedkey"] == "AQ=="


def test_overrides_count_for_one_run(checkout: Path) -> None:
    workspace = make(checkout, port="7002", agents={"bot": {"bot": "/b.py"}})
    assert workspace.values is not None
    assert workspace.values["switchboard:port"] == "7002"
    assert json.loads(workspace.values["switchboard:agents"]) == {
        "a": {"bot": "a.py"},
        "bot": {"bot": "/b.py"},
    }
    after = make(checkout).values
    assert after is not None
    assert after["switchboard:port"] == "7001"


def test_a_key_without_its_project_is_the_projects(checkout: Path) -> None:
    write_stack(checkout, {"config": {"port": 7003}})
    assert make(checkout).values == {"switchboard:port": "7003"}


def test_encrypted_values_are_left_to_the_engine(checkout: Path) -> None:
    write_stack(checkout, {"config": {"switchboard:port": {"secure": "v1:xyz"}}})
    workspace = make(checkout)
    assert workspace.values is None
    assert effective(workspace)["config"]["switchboard:port"] == {"secure": "v1:xyz"}


def test_an_encrypted_value_inside_an_object_is_left_to_the_engine(checkout: Path) -> None:
    servers = [{"urls": ["turn:t.example"], "username": "me", "credential": {"secure": "v1:xyz"}}]
    write_stack(checkout, {"config": {"switchboard:iceServers": servers}})
    assert make(checkout).values is None


def test_a_stack_that_does_not_exist(checkout: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(checkout, checkout / ".switchboard", "lokal", {})
    assert str(caught.value) == "STACK: 'lokal' has no file stacks/Pulumi.lokal.yaml; allowed: local"


@pytest.mark.parametrize("text", ["config: [", "- a list"])
def test_a_stack_file_that_cannot_be_read(checkout: Path, text: str) -> None:
    (checkout / "stacks/Pulumi.local.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        make(checkout)
    assert "Pulumi.local.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
