"""Passphrases, salts and secrets providers, under the real engine: switching between backends and clones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pulumi.automation import PulumiCommand

from stacks.errors import EngineError
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.stacks import vault
from tests.stacks.checkouts import AGENTS, CheckoutCopy

PASSPHRASE, PASSPHRASE_FILE = "PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"


def committed(checkout: CheckoutCopy) -> dict[str, Any]:
    return yaml.safe_load(committed_file(checkout).read_text())


def committed_file(checkout: CheckoutCopy) -> Path:
    return checkout.root / "stacks" / "Pulumi.local.yaml"


def by_hand(checkout: CheckoutCopy, *arguments: str, **environment: str) -> str:
    """`pulumi …` in a shell, in the checkout. What it says, whether it works or not."""
    run = subprocess.run(
        [checkout.engine.command, *arguments, "--non-interactive"],
        cwd=checkout.root,
        env={**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return run.stdout + run.stderr


def of_own_state(checkout: CheckoutCopy) -> dict[str, str]:
    """Return the variables that docs/environments.md exports for a `pulumi` by hand on the checkout's own
    state."""
    engine = checkout.root / ".switchboard" / "engine"
    return {
        "PULUMI_BACKEND_URL": (engine / "state").as_uri(),
        PASSPHRASE_FILE: str(engine / "passphrase"),
    }


@pytest.fixture
def team(tmp_path: Path) -> dict[str, str]:
    """Return the variables of a team's state and its encryption."""
    directory = tmp_path / "team"
    directory.mkdir()
    return {"PULUMI_BACKEND_URL": directory.as_uri(), PASSPHRASE: "the-team's"}


@pytest.fixture
def clone(checkout: CheckoutCopy, tmp_path: Path, pulumi_engine: PulumiCommand) -> CheckoutCopy:
    """Another clone of the same repository, where nothing was ever up."""
    return CheckoutCopy(tmp_path / "clone", pulumi_engine)


def log_in(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def log_out(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in variables:
        monkeypatch.delenv(name)


def test_own_state_and_a_teams_do_not_mix_in_either_order(
    checkout: CheckoutCopy, team: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = committed_file(checkout).read_text()
    checkout.driver().up()
    log_in(monkeypatch, team)
    assert checkout.driver().preview() == 2, "nothing is up in the team's state"
    log_out(monkeypatch, team)
    assert checkout.driver().preview() == 0
    checkout.driver().destroy()
    log_in(monkeypatch, team)
    checkout.driver().up()
    log_out(monkeypatch, team)
    checkout.driver().refresh()
    log_in(monkeypatch, team)
    checkout.driver().destroy()
    assert committed_file(checkout).read_text() == before


def test_own_state_opens_when_a_teams_passphrase_is_set(
    checkout: CheckoutCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.driver().up()
    monkeypatch.setenv(PASSPHRASE, "the-team's")
    assert checkout.driver().preview() == 0
    checkout.driver().destroy()


def test_wrong_and_missing_passphrases_of_a_team_name_the_state(
    checkout: CheckoutCopy, clone: CheckoutCopy, team: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(monkeypatch, team)
    checkout.driver().up()
    monkeypatch.setenv(PASSPHRASE, "somebody-else's")
    # In the clone that was up, and in one that has no salt yet.
    for one in (checkout, clone):
        with pytest.raises(EngineError) as refused:
            one.driver().up()
        assert str(refused.value) == (
            f"stack local: the passphrase ({PASSPHRASE} of the environment) does not fit the state in "
            f"{team['PULUMI_BACKEND_URL']}; allowed: the passphrase of the first `make up` there, as "
            f"{PASSPHRASE} or {PASSPHRASE_FILE}, see docs/environments.md"
        )
    monkeypatch.delenv(PASSPHRASE)
    with pytest.raises(
        EngineError, match=r"^stack local: the passphrase is missing that encrypts its secrets in"
    ):
        clone.driver().preview()
    monkeypatch.setenv(PASSPHRASE, team[PASSPHRASE])
    assert checkout.driver().preview() == 0
    checkout.driver().destroy()


def test_a_salt_that_a_pulumi_by_hand_has_committed_stops_no_other_clone(
    checkout: CheckoutCopy, clone: CheckoutCopy
) -> None:
    checkout.driver().up()
    checkout.driver().destroy()
    before = committed_file(checkout).read_text()
    by_hand(checkout, "preview", "--stack", "local", **of_own_state(checkout))
    assert "encryptionsalt" in committed(checkout)
    shutil.copy(committed_file(checkout), committed_file(clone))
    for one in (clone, checkout):
        one.lines.clear()
        one.port = free_port()
        one.driver(port=one.port).preview()
        assert one.lines[0].startswith(
            "stacks/Pulumi.local.yaml: encryptionsalt is ignored: nothing in the file"
        )
    clone.driver(port=clone.port).up()
    clone.driver().destroy()
    # As docs/environments.md has it, the file stays as it is.
    committed_file(checkout).write_text(before)
    kept = checkout.root / ".switchboard/engine/workspaces/local/Pulumi.local.yaml"
    by_hand(checkout, "preview", "--stack", "local", "--config-file", str(kept), **of_own_state(checkout))
    assert committed_file(checkout).read_text() == before


def test_encrypted_values_of_another_passphrase_are_named(
    checkout: CheckoutCopy, clone: CheckoutCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand(checkout, "stack", "init", "local", **encrypting(checkout))
    said = by_hand(
        checkout, "config", "set", "--secret", "switchboard:turnSecret", "hunter2", **encrypting(checkout)
    )
    assert "secure" in committed(checkout)["config"]["switchboard:turnSecret"], said
    shutil.copy(committed_file(checkout), committed_file(clone))
    with pytest.raises(EngineError) as refused:
        clone.driver().preview()
    own = clone.root / ".switchboard/engine/passphrase"
    assert str(refused.value) == (
        f"stack local: the passphrase (this checkout's own, {own}) does not fit encryptionsalt in "
        "stacks/Pulumi.local.yaml, with which switchboard:turnSecret is encrypted; allowed: the passphrase "
        f"that it was made with, as {PASSPHRASE} or {PASSPHRASE_FILE}. If nobody has it, remove "
        "encryptionsalt and what is encrypted from the file, see docs/environments.md"
    )
    monkeypatch.setenv(PASSPHRASE, "the-team's")
    with pytest.raises(EngineError) as read:
        clone.driver().preview()
    # It was read: now its words are the program's.
    assert str(read.value) == (
        "switchboard:turnUrls: is missing, and turnSecret is there; allowed: a list of at least one "
        "turn:host:port?transport=udp (or tcp) or turns:host:port"
    )


def encrypting(checkout: CheckoutCopy) -> dict[str, str]:
    state = checkout.root / "by-hand"
    state.mkdir(exist_ok=True)
    return {"PULUMI_BACKEND_URL": state.as_uri(), PASSPHRASE: "the-team's"}


def test_a_kms_encrypts_what_the_committed_file_says_it_does(
    checkout: CheckoutCopy, clone: CheckoutCopy, team: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hashivault://`, with a stand-in for Vault; the passphrase is nowhere."""
    with vault.served() as server:
        log_in(monkeypatch, {"PULUMI_BACKEND_URL": team["PULUMI_BACKEND_URL"], "VAULT_TOKEN": vault.TOKEN})
        monkeypatch.setenv("VAULT_SERVER_TOKEN", vault.TOKEN)
        monkeypatch.setenv("VAULT_SERVER_URL", server.url)
        monkeypatch.setenv("VAULT_ADDR", server.url)
        given = committed(checkout)
        committed_file(checkout).write_text(
            yaml.safe_dump({"secretsprovider": "hashivault://voice", **given})
        )
        monkeypatch.setenv("ECHO_KEY", "hunter2-but-longer")
        checkout.driver().up()
        assert "/v1/transit/encrypt/voice" in server.asked
        state = next(Path(team["PULUMI_BACKEND_URL"].removeprefix("file://")).rglob("stacks/**/local.json"))
        assert '"url":"hashivault://voice"' in "".join(state.read_text().split())
        assert checkout.driver().preview() == 0

        # A value that is encrypted by hand brings the key, which is committed and good for every clone.
        by_hand(
            checkout, "config", "set", "--secret", "switchboard:turnSecret", "hunter2", "--stack", "local"
        )
        assert set(committed(checkout)) == {"secretsprovider", "encryptedkey", "config"}
        shutil.copy(committed_file(checkout), committed_file(clone))
        with pytest.raises(EngineError, match=r"^switchboard:turnUrls: is missing, and turnSecret is there"):
            clone.driver().preview()
        committed_file(checkout).write_text(
            yaml.safe_dump({"secretsprovider": "hashivault://voice", **given})
        )
        checkout.driver().destroy()


def test_a_secret_in_clear_is_refused_before_anything_runs(checkout: CheckoutCopy) -> None:
    checkout.write_config(port=checkout.port, agents=AGENTS, dailyApiKey="hunter2-of-daily")
    for arguments in (["up"], ["preview"]):
        with checkout.command(*arguments) as run:
            said, errors = run.communicate(timeout=PATIENCE)
        assert run.returncode == 1
        assert errors == (
            "error: switchboard:dailyApiKey: is in clear in stacks/Pulumi.local.yaml, and would be in the "
            "state; allowed: encrypted, by `pulumi config set --secret 'switchboard:dailyApiKey' "
            "--stack local`, which asks for it, or DAILY_API_KEY of the environment. One that was committed "
            "is known: make a new one\n"
        )
        assert "hunter2" not in said
    assert not (checkout.state_dir / "stacks").exists()
    checkout.driver().destroy()
    assert checkout.lines == ["stack local is not up"], "a stack can be taken down whatever its file says"


def test_an_encrypted_credential_of_a_turn_server_reaches_the_dispatcher_and_no_plan(
    checkout: CheckoutCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSPHRASE, "the-team's")
    server = {"urls": ["turn:turn.example:3478"], "username": "voice"}
    checkout.write_config(port=checkout.port, agents=AGENTS, iceServers=[server], keepSessionsDays=7)
    by_hand(checkout, "stack", "init", "local", **encrypting(checkout))
    by_hand(
        checkout,
        *("config", "set", "--path", "--secret", "switchboard:iceServers[0].credential", "hunter2-of-turn"),
        *("--stack", "local"),
        **encrypting(checkout),
    )
    assert "secure" in str(committed(checkout)["config"]["switchboard:iceServers"])
    checkout.driver().preview()
    checkout.driver().up()
    (process,) = checkout.processes()
    environment = process.environ()
    assert environment["SWITCHBOARD_ICE_SERVERS"] == (
        '[{"urls": ["turn:turn.example:3478"], "username": "voice", "credential": "hunter2-of-turn"}]'
    )
    assert environment["SWITCHBOARD_KEEP_SESSIONS_DAYS"] == "7.0"
    written = "".join(file.read_text() for file in checkout.state_dir.rglob("*") if file.is_file())
    assert "hunter2" not in written + "".join(checkout.lines)
    checkout.driver().destroy()


def test_a_stack_moves_from_own_state_to_a_teams(
    checkout: CheckoutCopy, team: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of docs/environments.md."""
    checkout.driver().up()
    (process,) = checkout.processes()
    exported = checkout.root / "state.json"
    by_hand(
        checkout,
        *("stack", "export", "--stack", "local", "--show-secrets", "--file", str(exported)),
        **of_own_state(checkout),
    )
    by_hand(checkout, "stack", "init", "local", **team)
    # The export names the old salt, with which an import would encrypt: it gets that of the new stack.
    found, new = (
        json.loads(one) for one in (exported.read_text(), by_hand(checkout, "stack", "export", **team))
    )
    found["deployment"]["secrets_providers"] = new["deployment"]["secrets_providers"]
    exported.write_text(json.dumps(found))
    said = by_hand(checkout, "stack", "import", "--stack", "local", "--file", str(exported), **team)
    assert "Import complete" in said
    log_in(monkeypatch, team)
    checkout.lines.clear()
    assert checkout.driver().preview() == 0, checkout.lines
    assert checkout.processes() == [process]
    checkout.driver().destroy()
    assert checkout.processes() == []
