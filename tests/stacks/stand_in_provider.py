"""A stand-in for a provider's executable, which speaks the engine's protocol.

    python -m tests.stacks.stand_in_provider 5.2.0

It writes down what it is asked, as lines of JSON in the file that STAND_IN_LOG names. Where STAND_IN_ENGINE
is a Docker engine's URL it also does it, with Docker's command line (`tests/stacks/hands.py`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
import threading
import types
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import empty_pb2, json_format, struct_pb2

from stacks.engine.host import end_with_engine
from tests.stacks.aws.made_up import REGISTRY, made_up
from tests.stacks.gcp import made_up as google


def _without_the_sdk(*packages: str) -> None:
    """Let these packages' modules be imported without what the packages load: 0.2 s of CPU in each run."""
    for name in packages:
        found = importlib.util.find_spec(name)
        assert found is not None, name
        assert found.submodule_search_locations is not None, name
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = list(found.submodule_search_locations)


if __name__ == "__main__":
    _without_the_sdk("pulumi", "pulumi.runtime")

from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc  # noqa: E402

REPLACED_NOT_CHANGED = (
    "docker:",
    "aws:ecs/taskDefinition:",
    "gcp:compute/regionInstanceTemplate:",
    "gcp:secretmanager/secretVersion:",
)
"""Prefixes of resources of which every change makes a new one, as with containers, networks and volumes."""

MADE_BY_THE_CLOUD = ("aws:", "gcp:")
"""Prefixes of resources with outputs of the cloud's own."""

ENGINE = os.environ.get("STAND_IN_ENGINE", "")
_log_lock = threading.Lock()


def _plain(properties: struct_pb2.Struct) -> dict[str, Any]:
    return json_format.MessageToDict(properties)


def _struct(properties: dict[str, Any]) -> struct_pb2.Struct:
    return json_format.ParseDict(properties, struct_pb2.Struct())


def _kind(urn: str) -> str:
    """The type of a resource, without those of the components that it is in."""
    return urn.split("::")[2].rpartition("$")[2]


def _note(operation: str, urn: str, inputs: dict[str, Any]) -> None:
    line = {"operation": operation, "type": _kind(urn), "name": urn.rpartition("::")[2], "inputs": inputs}
    with _log_lock, Path(os.environ["STAND_IN_LOG"]).open("a") as log:
        log.write(json.dumps(line) + "\n")


def _do(operation: str, urn: str, inputs: dict[str, Any]) -> dict[str, Any]:
    if not ENGINE:
        # An image that is pushed has a digest, another one for another tag.
        image = operation == "create" and _kind(urn) == "docker-build:index:Image"
        pushed = image and (inputs.get("push") or inputs.get("exports"))
        tag = inputs["tags"][0] if pushed else ""
        if _kind(urn) == "docker:index/network:Network":
            return {"ipamConfigs": [{"subnet": "172.20.0.0/16", "gateway": "172.20.0.1"}]}
        if _kind(urn).startswith("gcp:"):
            return google.made_anew(_kind(urn), urn.rpartition("::")[2], inputs)
        if _kind(urn).startswith("aws:"):
            made = made_up(urn.rpartition("::")[2])
            if _kind(urn).startswith(REPLACED_NOT_CHANGED):
                # Another one of it has another name.
                content = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
                made["arn"] = f"{made['arn']}:{content[:8]}"
            return {name: value for name, value in made.items() if name not in inputs}
        return {"ref": f"{tag}@sha256:{hashlib.sha256(tag.encode()).hexdigest()}"} if pushed else {}
    from tests.stacks import hands

    return getattr(hands, operation)(ENGINE, _kind(urn), inputs) or {}


def _made(operation: str, request: Any, inputs: dict[str, Any]) -> struct_pb2.Struct:
    """Return a resource after a create or an update; in a preview, what is known of it before."""
    if request.preview:
        # An update keeps what the cloud made up for the resource, as the real provider's plan says.
        kept = operation == "update" and _kind(request.urn).startswith(MADE_BY_THE_CLOUD)
        return _struct({**(_plain(request.olds) if kept else {}), **inputs})
    _note(operation, request.urn, inputs)
    return _struct({**inputs, **_do("create", request.urn, inputs)})


class Provider(provider_pb2_grpc.ResourceProviderServicer):
    """Every resource is what its inputs say."""

    def __init__(self, version: str) -> None:
        self._version = version

    def GetPluginInfo(self, request: Any, context: Any) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=self._version)

    def CheckConfig(self, request: Any, context: Any) -> provider_pb2.CheckResponse:
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, request: Any, context: Any) -> provider_pb2.DiffResponse:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(self, request: Any, context: Any) -> provider_pb2.ConfigureResponse:
        return provider_pb2.ConfigureResponse(supportsPreview=True)

    def Check(self, request: Any, context: Any) -> provider_pb2.CheckResponse:
        return provider_pb2.CheckResponse(inputs=request.news)

    def Diff(self, request: Any, context: Any) -> provider_pb2.DiffResponse:
        old, new = _plain(request.old_inputs), _plain(request.news)
        changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        return provider_pb2.DiffResponse(
            changes=provider_pb2.DiffResponse.DIFF_SOME if changed else provider_pb2.DiffResponse.DIFF_NONE,
            diffs=changed,
            replaces=changed if _kind(request.urn).startswith(REPLACED_NOT_CHANGED) else [],
        )

    def Create(self, request: Any, context: Any) -> provider_pb2.CreateResponse:
        name = request.urn.rpartition("::")[2]
        properties = _made("create", request, _plain(request.properties))
        made = str(_plain(properties).get("id", f"{name}-{uuid.uuid4()}"))
        return provider_pb2.CreateResponse(id="" if request.preview else made, properties=properties)

    def Update(self, request: Any, context: Any) -> provider_pb2.UpdateResponse:
        return provider_pb2.UpdateResponse(properties=_made("update", request, _plain(request.news)))

    def Read(self, request: Any, context: Any) -> provider_pb2.ReadResponse:
        return provider_pb2.ReadResponse(id=request.id, properties=request.properties, inputs=request.inputs)

    def Delete(self, request: Any, context: Any) -> empty_pb2.Empty:
        inputs = _plain(request.properties)
        _note("delete", request.urn, inputs)
        _do("delete", request.urn, inputs)
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: Any) -> provider_pb2.InvokeResponse:
        if request.tok in google.CALLS:
            known: dict[str, Any] = {"return": _struct(google.CALLS[request.tok])}
            return provider_pb2.InvokeResponse(**known)
        assert request.tok == "aws:ecr/getAuthorizationToken:getAuthorizationToken", request.tok
        login = {"userName": "AWS", "password": "hunter2-of-ecr", "proxyEndpoint": f"https://{REGISTRY}"}
        answer: dict[str, Any] = {"return": _struct(login)}
        return provider_pb2.InvokeResponse(**answer)

    def Cancel(self, request: Any, context: Any) -> empty_pb2.Empty:
        return empty_pb2.Empty()


def install(directory: Path, log: Path, versions: dict[str, str]) -> dict[str, str]:
    """Make executables of these names, such as the engine looks for; gives the environment that they need."""
    directory.mkdir()
    root = Path(__file__).resolve().parents[2]
    for name, version in versions.items():
        program = directory / f"pulumi-resource-{name}"
        program.write_text(
            "#!/bin/sh\n"
            f'PYTHONPATH={root} exec "{sys.executable}" -m tests.stacks.stand_in_provider {version}\n'
        )
        program.chmod(0o755)
    log.touch()
    return {"STAND_IN_LOG": str(log), "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}


def done(log: Path) -> list[dict[str, Any]]:
    """Return what the providers did since the last look."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text("")
    return lines


def changed(log: Path) -> set[tuple[str, str]]:
    """Return operation and name of what the providers did since the last look."""
    return {(one["operation"], one["name"]) for one in done(log)}


def main(version: str) -> None:
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 2**26)])
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(Provider(version), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    # What the engine waits for.
    print(port, flush=True)
    # The engine ends its providers itself, but not when it is killed.
    end_with_engine()
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1])
