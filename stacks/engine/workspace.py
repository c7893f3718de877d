"""The engine's surroundings: where state goes, the key that encrypts it, the config, the environment.

The engine runs in a directory of its own under `.switchboard/`, with the project's file and the effective
stack config, so that what it writes (an encryption salt) and what is set for one run (`make up BOT=…`)
changes no committed file. Project, stack and state are those of `pulumi … -s <stack>` in the checkout.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stacks import secret_keys, stack_file
from stacks.config import parse
from stacks.core_config import CoreConfig
from stacks.engine import encryption
from stacks.engine.encryption import Passphrase
from stacks.shared.environment import USER_PATH_VARIABLE

BIN = Path(__file__).parent / "bin"


@dataclass(frozen=True)
class Workspace:
    """Everything that a run of the engine is given."""

    checkout: Path
    directory: Path
    project: str
    stack: str
    backend: str | None
    """The backend's URL; None for the service where the user is logged in."""
    own_state: Path | None
    """The directory of the state if nobody is logged in anywhere."""
    environment: Mapping[str, str]
    values: Mapping[str, str] | None
    """The config as a program gets it; None when a value is encrypted, which only the engine can read."""
    committed: Mapping[str, Any]
    """The stack's file."""
    passphrase: Passphrase | None
    """None if there is none, as with another secrets provider, or if it cannot be read."""
    notices: Sequence[str]
    """Notices for the user before a run."""

    @property
    def file(self) -> str:
        """The committed file, from the checkout."""
        return f"stacks/Pulumi.{self.stack}.yaml"

    @property
    def secrets_provider(self) -> str | None:
        """The provider that a stack that is made now encrypts its secrets with, if its file names it."""
        return self.committed.get("secretsprovider") or None

    @property
    def never_up(self) -> bool:
        """True if it is certain, without asking an engine, that the stack does not exist."""
        return (
            self.own_state is not None and not _state_file(self.own_state, self.project, self.stack).exists()
        )

    def parsed(self, values: Mapping[str, str]) -> CoreConfig:
        """Return the config of these values. Raises ConfigError."""
        return parse(values, project=self.project, checkout=self.checkout, stack=self.stack)

    def refuse_in_clear(self) -> None:
        """Raise ConfigError if the stack's file has a secret in clear."""
        config = stack_file.config(self.committed, self.project)
        secret_keys.refuse_in_clear(config, project=self.project, stack=self.stack, place=self.file)

    def explained(self, problem: str) -> str:
        """Return the engine's words, or, of a passphrase, which file it does not fit and what to do."""
        config = stack_file.config(self.committed, self.project)
        return encryption.explained(
            problem,
            what=f"stack {self.stack}",
            file=self.file,
            committed_salt=self.committed.get("encryptionsalt"),
            encrypted=[key for key, value in config.items() if secret_keys.encrypted(value)],
            backend=self.backend or "Pulumi Cloud",
            passphrase=self.passphrase,
        )


def prepare(checkout: Path, home: Path, stack: str, overrides: Mapping[str, Any]) -> Workspace:
    """Write the workspace of `stack` under `home`. Raises ConfigError if there is no such stack."""
    project = stack_file.load(checkout / "Pulumi.yaml")
    name = project["name"]
    committed = stack_file.settings(checkout / "stacks", stack)
    backend, own_state = _backend(home)
    directory = home / "engine" / "workspaces" / _workspace_name(stack, backend, own_state)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    effective = directory / f"Pulumi.{stack}.yaml"
    config = stack_file.config(committed, name)
    state = None if own_state is None else _state_file(own_state, name, stack)
    passphrase = encryption.passphrase_for(state, home / "engine" / "passphrase")
    encrypts = encryption.choose(
        committed,
        stack_file.load(effective) if effective.exists() else {},
        state=state,
        passphrase=passphrase,
        any_encrypted=any(secret_keys.encrypted(value) for value in config.values()),
    )
    for key, value in overrides.items():
        full = f"{name}:{key}"
        config[full] = {**(config.get(full) or {}), **value} if isinstance(value, dict) else value
    rest = {key: value for key, value in committed.items() if key not in encryption.KEYS}
    _write(effective, {**rest, **encrypts.settings, "config": config})
    _write(
        directory / "Pulumi.yaml",
        {"name": name, "runtime": "python", "config": project.get("config", {})},
    )
    return Workspace(
        checkout=checkout,
        directory=directory,
        project=name,
        stack=stack,
        backend=backend,
        own_state=own_state,
        environment=_environment(checkout, None if own_state is None else backend, passphrase),
        values=stack_file.values(config),
        committed=committed,
        passphrase=passphrase,
        notices=[encryption.ignored(f"stacks/Pulumi.{stack}.yaml")] if encrypts.ignored else [],
    )


def _workspace_name(stack: str, backend: str | None, own_state: Path | None) -> str:
    """One for each backend, so that what the engine adds to the stack's file is never another's."""
    if own_state is not None:
        return stack
    return f"{stack}@{hashlib.sha256((backend or '').encode()).hexdigest()[:8]}"


def _state_file(own_state: Path, project: str, stack: str) -> Path:
    return own_state / ".pulumi" / "stacks" / project / f"{stack}.json"


def _write(file: Path, content: Mapping[str, Any]) -> None:
    """Write all or nothing, since a killed run must not lose the encryption salt."""
    new = file.with_suffix(f".{os.getpid()}.new")
    new.write_text(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))
    new.replace(file)


def _backend(home: Path) -> tuple[str | None, Path | None]:
    """(URL, own directory): where the user is logged in, else in files under `home`."""
    url = os.environ.get("PULUMI_BACKEND_URL")
    if url:
        return url, None
    pulumi_home = Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")
    with contextlib.suppress(OSError, ValueError):
        current = json.loads((pulumi_home / "credentials.json").read_text()).get("current")
        if current:
            return current, None
    if os.environ.get("PULUMI_ACCESS_TOKEN"):
        return None, None
    state = home / "engine" / "state"
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    return state.as_uri(), state


def _environment(checkout: Path, own: str | None, passphrase: Passphrase | None) -> dict[str, str]:
    """Return the variables for the engine and its children on top of the user's environment.

    Args:
        own: The backend, if it is this checkout's own.
    """
    path = os.pathsep.join([str(BIN), str(Path(sys.prefix) / "bin"), os.environ.get("PATH", os.defpath)])
    environment = {
        "PATH": path,
        # What the dispatcher's process gets as its PATH.
        USER_PATH_VARIABLE: os.environ.get("PATH", os.defpath),
        # For the provider's own launcher and for the one that a full installation brings.
        "SWITCHBOARD_PYTHON": str(Path(sys.prefix) / "bin" / "python"),
        "PULUMI_RUNTIME_VIRTUALENV": sys.prefix,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH")])),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
    }
    if own is not None:
        environment["PULUMI_BACKEND_URL"] = own
    return environment | encryption.variables(passphrase)
