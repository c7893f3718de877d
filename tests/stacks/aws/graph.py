"""The resources that a function describes under Pulumi's mocks, with Terraform's references in their outputs.

The outputs of an AWS resource are what Terraform calls them, `${aws_vpc.network-vpc.id}`: wherever a program
puts one, the order and the value follow.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi.runtime import mocks, rpc

from tests.forked import preload, run_forked
from tests.stacks.aws.made_up import REGISTRY, made_up
from tests.stacks.aws.names import TYPES, Schema, camel
from tests.stacks.gcp import made_up as google

SECONDS = 120.0

preload("tests.stacks.sdks", "sqlalchemy", "stacks.aws.program", "stacks.gcp.program", __name__)

DYNAMIC: Mapping[str, dict[str, Any]] = {
    "pulumi-python:dynamic/switchboard:SharedSecret": {"value": "recorded-secret-of-256-bits-or-more"},
    "pulumi-python:dynamic/switchboard:FlyDeployToken": {"token": "FlyV1 fm2_recorded"},
}
"""Outputs of dynamic resources, which make them up."""


@dataclass
class Recorded:
    """A resource as the program registers it."""

    type: str
    name: str
    inputs: dict[str, Any]
    region: str = ""
    dependencies: list[str] = field(default_factory=list)
    protected: bool = False
    retained: bool = False

    @property
    def address(self) -> str:
        """Terraform's address of an AWS resource."""
        return f"{TYPES[self.type]}.{self.name}"


@dataclass
class Graph:
    """All resources of a program, by their logical names."""

    resources: dict[str, Recorded] = field(default_factory=dict)
    result: Any = None
    """The function's own result, with its outputs known."""
    error: str = ""
    """The refusal of a program that raises pulumi.RunError."""

    def inputs(self, name: str) -> dict[str, Any]:
        return self.resources[name].inputs

    def of_type(self, type_: str) -> dict[str, Recorded]:
        return {name: one for name, one in self.resources.items() if one.type == type_}

    @property
    def aws(self) -> dict[str, Recorded]:
        """The resources that Terraform's provider makes."""
        return {name: one for name, one in self.resources.items() if one.type.startswith("aws:")}


class _Recorder(mocks.Mocks):
    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        if not args.custom:
            return "", args.inputs
        if args.typ.startswith("gcp:"):
            return google.made(args.typ, args.name, args.inputs)
        if args.typ not in TYPES:
            made = dict(DYNAMIC.get(args.typ, {}))
            if args.typ == "docker-build:index:Image":
                made["ref"] = f"{args.inputs['tags'][0].rpartition(':')[0]}@sha256:{'0' * 64}"
            return f"{args.name}-id", {**args.inputs, **made}
        if not self._schema.has(TYPES[args.typ]):
            return f"{args.name}-id", {**made_up(args.name), **args.inputs}
        block = self._schema.block(TYPES[args.typ])
        here = f"{TYPES[args.typ]}.{args.name}"
        outputs = dict(args.inputs)
        for name, schema in block["attributes"].items():
            kind, given = schema.get("type"), camel(name) in outputs
            if kind == "string" or (kind == "number" and schema.get("computed") and not given):
                outputs[camel(name)] = f"${{{here}.{name}}}"
            elif name == "domain_validation_options":
                first = f"tolist({here}.{name})[0]"
                members = (
                    "domain_name",
                    "resource_record_name",
                    "resource_record_type",
                    "resource_record_value",
                )
                outputs[camel(name)] = [{camel(one): f"${{{first}.{one}}}" for one in members}]
        return f"${{{here}.id}}", outputs

    def call(self, args: mocks.MockCallArgs) -> Any:
        if args.token == "aws:ecr/getAuthorizationToken:getAuthorizationToken":
            return {
                "userName": "AWS",
                "password": "recorded",
                "proxyEndpoint": f"https://{REGISTRY}",
                "id": "x",
            }
        if args.token in google.CALLS:
            return google.CALLS[args.token]
        raise AssertionError(f"the program calls {args.token}, which a plan without credentials cannot")


class _Monitor(mocks.MockMonitor):
    def __init__(self, recorder: _Recorder, graph: Graph) -> None:
        super().__init__(recorder)
        self._graph = graph
        self._regions: dict[str, str] = {}

    def RegisterResource(self, request: Any) -> Any:
        answer = super().RegisterResource(request)
        inputs = rpc.deserialize_properties(request.object)
        if request.type == "pulumi:providers:aws":
            self._regions[answer.urn] = inputs.get("region", "")
        if not request.custom or request.type.startswith("pulumi:"):
            return answer
        assert request.name not in self._graph.resources, f"{request.name} is there twice"
        self._graph.resources[request.name] = Recorded(
            request.type,
            request.name,
            rpc.unwrap_rpc_secret(_bare(inputs)),
            self._regions.get(request.provider.rpartition("::")[0], ""),
            sorted({urn.rpartition("::")[2] for urn in request.dependencies}),
            request.protect,
            request.retainOnDelete,
        )
        return answer


def _bare(value: Any) -> Any:
    """Return a value without the marks of secrets."""
    if rpc.is_rpc_secret(value):
        return _bare(rpc.unwrap_rpc_secret(value))
    if isinstance(value, dict):
        return {name: _bare(one) for name, one in value.items()}
    return [_bare(one) for one in value] if isinstance(value, list) else value


def _record(describe: Callable[..., Any], arguments: tuple[Any, ...], schema: Schema) -> Graph:
    graph = Graph()
    recorder = _Recorder(schema)
    mocks.set_mocks(recorder, project="switchboard", stack="prod", monitor=_Monitor(recorder, graph))

    @pulumi.runtime.test
    def program() -> Any:
        found = describe(*arguments)
        return pulumi.Output.from_input(found).apply(lambda known: setattr(graph, "result", known))

    try:
        program()
    except pulumi.RunError as error:
        graph.error = str(error)
    except Exception:  # noqa: BLE001 - told to the test, whose process this is not
        graph.error = traceback.format_exc()
    return graph


def recorded(schema: Schema, describe: Callable[..., Any], *arguments: Any) -> Graph:
    """Run a function of a module in a process of its own, and return what it describes."""
    return run_forked(_record, describe, arguments, schema, seconds=SECONDS)
