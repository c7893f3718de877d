"""Record a stack: run its program under Pulumi's mocks, with stand-ins for what only an engine would know.

Outputs that no input gives are references, `{cluster.arn}`: the SDK's classes say which outputs a type has.
Secrets, and variables of the environment that are not set, are stand-ins too, so nothing here needs a
credential. A process records one stack: the mocks set the SDK's global state.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pulumi
from pulumi import dynamic
from pulumi.runtime import mocks, rpc

from stacks import assembly, clouds
from stacks.daily import FROM_ENVIRONMENT
from stacks.deployment import Environment
from stacks.plan.configured import STAND_IN
from stacks.plan.graph import SECRET, Graph, Resource, reference
from stacks.plan.review import Review

DYNAMIC = "pulumi-python:dynamic/"
ROOT = "pulumi:pulumi:Stack"
PROVIDER = "pulumi:providers:"

IMAGE = "docker-build:index:Image"

TAGS = {"userLabels": "user_labels", "labels": "labels", "tags": "tags"}
"""Inputs that are a resource's tags, and the properties of SDK classes that have them. At Google `tags` are a
VM's names for firewall rules, where there are `labels` too."""

STAND_INS: Mapping[str, Mapping[str, Any]] = {
    "switchboard:PageKey": {"key": "pk_made_by_the_stack", "hash": f"sha256:{'0' * 64}"},
    "switchboard:SharedSecret": {"value": "made-by-the-stack-and-never-shown-to-anybody"},
}
"""Outputs of dynamic resources whose form is checked."""


def record(environment: Environment) -> tuple[Graph, assembly.Plan]:
    """Return the resources of a stack, and its plan.

    Raises:
        ConfigError: The config cannot be deployed.
    """
    _stand_in(environment)
    plan = assembly.plan(environment)
    recorder = _Recorder(list(reviews_of(environment).values()))
    monitor = _Monitor(recorder)
    mocks.set_mocks(recorder, project=environment.project, stack=environment.stack, monitor=monitor)

    @pulumi.runtime.test
    def program() -> None:
        assembly.deploy(plan, ask=False)

    program()
    return (
        Graph(environment.project, environment.stack, monitor.recorded, frozenset(monitor.components)),
        plan,
    )


def reviews_of(environment: Environment) -> dict[str, Review]:
    """Return cloud → its review, of the host's cloud and of the placements'."""
    return {cloud.name: cloud.review() for cloud in clouds.used_by(environment.config)}


def _stand_in(environment: Environment) -> None:
    """Set the variables whose values the program would take from here, unless they are."""
    config = environment.config
    wanted = {name for agent in config.agents.values() for name in agent.env}
    wanted.update(FROM_ENVIRONMENT.values())
    for cloud in clouds.used_by(config):
        wanted.update(cloud.variables.values())
    for name in wanted:
        os.environ.setdefault(name, STAND_IN)


class _Recorder(mocks.Mocks):
    """Gives each resource the outputs that its class declares."""

    def __init__(self, reviews: Sequence[Review]) -> None:
        self._reviews = reviews

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        if not args.custom:
            return "", args.inputs
        made = {
            output: reference(args.name, output)
            for output in _outputs_of(args.typ)
            if output not in args.inputs
        }
        if args.typ == IMAGE:
            name = str((args.inputs.get("tags") or [args.name])[0]).rpartition(":")[0]
            made["ref"] = f"{name}@sha256:{'0' * 64}"
        made |= STAND_INS.get(args.typ.removeprefix(DYNAMIC), {})
        for review in self._reviews:
            made |= review.stand_ins(args.typ, args.name, args.inputs)
        return reference(args.name, "id"), {**args.inputs, **made}

    def call(self, args: mocks.MockCallArgs) -> Any:
        for review in self._reviews:
            if (answer := review.answer(args.token)) is not None:
                return answer
        raise LookupError(f"the program calls {args.token}, for which no cloud gives a stand-in")


class _Monitor(mocks.MockMonitor):
    """Keeps each resource as it is registered."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__(recorder)
        self.recorded: list[Resource] = []
        self.components: set[str] = set()
        self._providers: dict[str, Mapping[str, Any]] = {}

    def RegisterResource(self, request: Any) -> Any:
        answer = super().RegisterResource(request)
        inputs = _shown(rpc.deserialize_properties(request.object, keep_unknowns=True))
        if request.type.startswith(PROVIDER):
            self._providers[answer.urn] = inputs
        elif request.custom:
            parent = request.parent.rpartition("::")
            within = "" if parent[0].endswith(ROOT) else parent[2]
            self.recorded.append(
                Resource(
                    request.type,
                    request.name,
                    within,
                    inputs,
                    self._providers.get(request.provider.rpartition("::")[0], {}),
                    request.protect,
                    request.retainOnDelete,
                    _tagged(request.type, inputs),
                )
            )
        elif request.type != ROOT:
            self.components.add(request.name)
        return answer


def _shown(value: Any) -> Any:
    """Return a value with `SECRET` in the place of secrets."""
    if rpc.is_rpc_secret(value):
        return SECRET
    if isinstance(value, dict):
        return {name: _shown(one) for name, one in value.items() if not name.startswith("__")}
    return [_shown(one) for one in value] if isinstance(value, list) else value


def _outputs_of(type_: str) -> Iterator[str]:
    """Yield the names of a type's outputs that are text."""
    made_by = _class_of(type_)
    if made_by is None:
        return
    if issubclass(made_by, dynamic.Resource):
        yield from (name for name in inspect.get_annotations(made_by) if not name.startswith("_"))
        return
    for _, found in inspect.getmembers(made_by, lambda one: isinstance(one, property)):
        name = getattr(found.fget, "_pulumi_name", None)
        kind = str(inspect.get_annotations(found.fget).get("return"))
        if name is not None and kind == "pulumi.output.Output[str]":
            yield name


def _tagged(type_: str, inputs: Mapping[str, Any]) -> bool | None:
    """Tell whether a resource's tags name project and stack; None if its type has no tags."""
    made_by = _class_of(type_)
    if made_by is None or type_ == IMAGE or issubclass(made_by, dynamic.Resource):
        return None
    keys = [key for key, name in TAGS.items() if isinstance(getattr(made_by, name, None), property)]
    if not keys:
        return None
    found = inputs.get(keys[0]) or {}
    names = set(found) if isinstance(found, Mapping) else {one.get("label") for one in found}
    return {"project", "stack"} <= names


def _class_of(type_: str) -> type[pulumi.Resource] | None:
    """Return the SDK's class of a type token; None if no installed package has it."""
    if type_.startswith(DYNAMIC):
        todo: list[type[pulumi.Resource]] = [dynamic.Resource]
        while todo:
            found = todo.pop()
            # The token's module and name, which `class …(dynamic.Resource, module=…, name=…)` gives.
            if getattr(found, "_resource_type_name", None) == type_.removeprefix("pulumi-python:"):
                return found
            todo.extend(found.__subclasses__())
        return None
    package, module, name = type_.split(":")
    if package == "pulumi":
        return None
    where = importlib.import_module(f"pulumi_{package.replace('-', '_')}")
    part = module.partition("/")[0]
    return getattr(where if part == "index" else getattr(where, part.lower()), name, None)
