"""What an engine needs around it: where state goes, the key that encrypts it, the config, the environment.

The engine runs in a directory of its own under `.switchboard/`, with the project's file and the effective
stack config, so that what it writes (an encryption salt) and what is set for one run (`make up BOT=…`)
changes no committed file. Project, stack and state are those of `pulumi … -s <stack>` in the checkout.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stacks.errors import ConfigError
from stacks.local.dispatcher import USER_PATH_VARIABLE

BIN = Path(__file__).parent / "bin"
# What an engine writes into a stack's file; the committed file may hold it too, and then that counts.
ENCRYPTION_KEYS = ("secretsprovider", "encryptedkey", "encryptionsalt")


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
    """Where state is kept if nobody is logged in anywhere."""
    environment: Mapping[str, str]
    values: Mapping[str, str] | None
    """The config as a program gets it; None when a value is encrypted, which only the engine can read."""

    @property
    def never_up(self) -> bool:
        """Whether it is certain, without asking an engine, that the stack does not exist."""
        if self.own_state is None:
            return False
        return not (self.own_state / ".pulumi" / "stacks" / self.project / f"{self.stack}.json").exists()


def prepare(checkout: Path, home: Path, stack: str, overrides: Mapping[str, Any]) -> Workspace:
    """Write the workspace of `stack` under `home`. Raises ConfigError if there is no such stack."""
    project = _load(checkout / "Pulumi.yaml")
    name = project["name"]
    settings = _stack_settings(checkout / "stacks", stack)
    directory = home / "engine" / "workspaces" / stack
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    effective = directory / f"Pulumi.{stack}.yaml"
    if effective.exists() and not any(key in settings for key in ENCRYPTION_KEYS):
        before = _load(effective)
        settings |= {key: before[key] for key in ENCRYPTION_KEYS if key in before}
    config = {_qualified(key, name): value for key, value in (settings.get("config") or {}).items()}
    for key, value in overrides.items():
        full = f"{name}:{key}"
        config[full] = {**(config.get(full) or {}), **value} if isinstance(value, dict) else value
    _write(effective, {**settings, "config": config})
    _write(
        directory / "Pulumi.yaml",
        {"name": name, "runtime": "python", "config": project.get("config", {})},
    )
    backend, own_state = _backend(home)
    return Workspace(
        checkout=checkout,
        directory=directory,
        project=name,
        stack=stack,
        backend=backend,
        own_state=own_state,
        environment=_environment(checkout, home, backend, own_state is not None),
        values=_values(config),
    )


def _stack_settings(directory: Path, stack: str) -> dict[str, Any]:
    file = directory / f"Pulumi.{stack}.yaml"
    if not file.is_file():
        names = sorted(
            path.name.removeprefix("Pulumi.").removesuffix(".yaml")
            for path in directory.glob("Pulumi.*.yaml")
        )
        raise ConfigError(
            f"STACK: {stack!r} has no file {file.relative_to(directory.parent)}; allowed: {', '.join(names)}"
        )
    return _load(file)


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: holds {type(content).__name__}; allowed: a mapping with the key config")
    return content


def _write(file: Path, content: Mapping[str, Any]) -> None:
    """All or nothing, since a killed run must not lose the encryption salt."""
    new = file.with_suffix(f".{os.getpid()}.new")
    new.write_text(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))
    new.replace(file)


def _qualified(key: str, project: str) -> str:
    return key if ":" in key else f"{project}:{key}"


def _values(config: Mapping[str, Any]) -> dict[str, str] | None:
    """What the engine would hand to a program: text, and JSON for what is not a scalar."""
    values = {}
    for key, value in config.items():
        if isinstance(value, dict) and set(value) == {"secure"}:
            return None
        if isinstance(value, bool):
            values[key] = str(value).lower()
        else:
            values[key] = value if isinstance(value, str) else json.dumps(value, default=str)
    return values


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


def _environment(checkout: Path, home: Path, backend: str | None, own: bool) -> dict[str, str]:
    """What is set for the engine and its children on top of the user's environment."""
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
    if own and backend is not None:
        environment["PULUMI_BACKEND_URL"] = backend
        if not {"PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"} & set(os.environ):
            environment["PULUMI_CONFIG_PASSPHRASE_FILE"] = str(_passphrase(home / "engine" / "passphrase"))
    return environment


def _passphrase(file: Path) -> Path:
    """A file with the key of this checkout's own state, made once; nobody is asked for it."""
    if not file.exists():
        new = file.with_suffix(f".{os.getpid()}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_urlsafe(32))
        # link, not rename: of two runs that begin together the first one's key must stay.
        with contextlib.suppress(FileExistsError):
            os.link(new, file)
        new.unlink()
    return file
