"""The work of a `docker` stack's providers, done with Docker's command line.

Every input must be one that is known here: what the program describes is what runs, and no less.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from typing import Any

from tests.images.conftest import registry_secrets

CLIENT = "/usr/bin/docker"

NETWORK, VOLUME = "docker:index/network:Network", "docker:index/volume:Volume"
CONTAINER, IMAGE = "docker:index/container:Container", "docker-build:index:Image"


def docker(engine: str, *arguments: str, seconds: float = 120) -> str:
    result = subprocess.run(
        [CLIENT, "--host", engine, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"docker {shlex.join(arguments)[:300]}: {(result.stderr + result.stdout)[-2000:]}")
    return result.stdout.strip()


def create(engine: str, kind: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Make a resource; gives what it has beside its inputs."""
    left = dict(inputs)
    outputs = {NETWORK: _network, VOLUME: _volume, CONTAINER: _container, IMAGE: _image}[kind](engine, left)
    assert not left, f"{kind}: {sorted(left)} are not known to the tests' hands"
    return outputs


def delete(engine: str, kind: str, inputs: dict[str, Any]) -> None:
    if kind == CONTAINER:
        docker(engine, "stop", "--time", str(int(inputs["destroyGraceSeconds"])), inputs["name"])
        docker(engine, "rm", "--force", inputs["name"])
    elif kind == NETWORK:
        docker(engine, "network", "rm", inputs["name"])
    elif kind == VOLUME:
        docker(engine, "volume", "rm", inputs["name"])


def _labels(left: dict[str, Any]) -> list[str]:
    return [word for one in left.pop("labels") for word in ("--label", f"{one['label']}={one['value']}")]


def _network(engine: str, left: dict[str, Any]) -> dict[str, Any]:
    internal = ["--internal"] if left.pop("internal") else []
    name = left.pop("name")
    docker(engine, "network", "create", "--driver", left.pop("driver"), *internal, *_labels(left), name)
    known = "{{with index .IPAM.Config 0}}{{.Subnet}} {{.Gateway}}{{end}}"
    subnet, _, gateway = docker(engine, "network", "inspect", "--format", known, name).partition(" ")
    return {"ipamConfigs": [{"subnet": subnet, "gateway": gateway}]}


def _volume(engine: str, left: dict[str, Any]) -> dict[str, Any]:
    name = left.pop("name")
    docker(engine, "volume", "create", *_labels(left), name)
    return {}


def _image(engine: str, left: dict[str, Any]) -> dict[str, Any]:
    (tag,) = left["tags"]
    command = ("build", "--network", "host", "--progress", "plain", *registry_secrets())
    docker(engine, *command, *build_arguments(left), seconds=900)
    return {"ref": tag}


def build_arguments(left: dict[str, Any]) -> list[str]:
    """Take an image's inputs; return the arguments of `docker build` that say the same."""
    context = dict(left.pop("context"))
    assert left.pop("push") is False
    assert left.pop("load") is True
    assert left.pop("buildOnPreview") is False
    assert left.pop("network") == "default"
    location, named = context.pop("location"), context.pop("named", {})
    assert not context, sorted(context)
    return [
        *_each("--tag")(left.pop("tags")),
        *("--file", left.pop("dockerfile")["location"]),
        *_pairs("--build-arg", "=")(left.pop("buildArgs")),
        # Docker before 23 refuses the option.
        *_pairs("--build-context", "=")({name: one["location"] for name, one in named.items()}),
        location,
    ]


def _container(engine: str, left: dict[str, Any]) -> dict[str, Any]:
    name, image = left.pop("name"), left.pop("image")
    networks = left.pop("networksAdvanced", [])
    entrypoint = left.pop("entrypoints", [])
    first = networks[0] if networks else {"name": left.pop("networkMode"), "aliases": []}
    words = ["create", "--name", name, "--network", first["name"], *_labels(left)]
    words += [word for alias in first["aliases"] for word in ("--network-alias", alias)]
    if entrypoint:
        words += ["--entrypoint", entrypoint[0]]
    for key, flag in FLAGS.items():
        words += flag(left.pop(key)) if key in left else []
    left.pop("destroyGraceSeconds")
    docker(engine, *words, image, *entrypoint[1:], *left.pop("command", []))
    for network in networks[1:]:
        aliases = [word for alias in network["aliases"] for word in ("--alias", alias)]
        docker(engine, "network", "connect", *aliases, network["name"], name)
    docker(engine, "start", name)
    return {"id": docker(engine, "inspect", "--format", "{{.Id}}", name)}


def _each(flag: str, word: Callable[[Any], str] = str) -> Callable[[Any], list[str]]:
    return lambda values: [item for value in values for item in (flag, word(value))]


def _pairs(flag: str, between: str) -> Callable[[Any], list[str]]:
    return lambda values: [item for key, value in values.items() for item in (flag, f"{key}{between}{value}")]


def _one(flag: str, word: Callable[[Any], str] = str) -> Callable[[Any], list[str]]:
    return lambda value: [flag, word(value)]


def _switch(flag: str) -> Callable[[Any], list[str]]:
    return lambda value: [flag] if value else []


def _mount(mount: dict[str, Any]) -> str:
    read_only = ",readonly" if mount.get("readOnly") else ""
    return f"type={mount['type']},source={mount['source']},target={mount['target']}{read_only}"


def _port(port: dict[str, Any]) -> str:
    address = f"{port['ip']}:" if "ip" in port else ""
    return f"{address}{int(port['external'])}:{int(port['internal'])}/{port.get('protocol', 'tcp')}"


def _health(check: dict[str, Any]) -> list[str]:
    assert check["tests"][0] == "CMD"
    return [
        *("--health-cmd", shlex.join(check["tests"][1:]), "--health-interval", check["interval"]),
        *("--health-timeout", check["timeout"], "--health-start-period", check["startPeriod"]),
        *("--health-retries", str(int(check["retries"]))),
    ]


def _capabilities(value: dict[str, Any]) -> list[str]:
    return [*_each("--cap-drop")(value.get("drops", [])), *_each("--cap-add")(value.get("adds", []))]


FLAGS: dict[str, Callable[[Any], list[str]]] = {
    "user": _one("--user"),
    "envs": _each("--env"),
    "mounts": _each("--mount", _mount),
    "ports": _each("--publish", _port),
    "memory": _one("--memory", lambda value: f"{int(value)}m"),
    "memorySwap": _one("--memory-swap", lambda value: f"{int(value)}m"),
    "readOnly": _switch("--read-only"),
    "tmpfs": _pairs("--tmpfs", ":"),
    "capabilities": _capabilities,
    "securityOpts": _each("--security-opt"),
    "init": _switch("--init"),
    "restart": _one("--restart"),
    "stopTimeout": _one("--stop-timeout", lambda value: str(int(value))),
    "logDriver": _one("--log-driver"),
    "logOpts": _pairs("--log-opt", "="),
    "healthcheck": _health,
}
