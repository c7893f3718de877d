"""The review of the cloud `aws`, put together from a module for each thing that it tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stacks.aws.prices import Idle, idle
from stacks.aws.review import data, grants, openings
from stacks.aws.review.facts import FACTS
from stacks.aws.review.tokens import (
    BALANCER,
    CERTIFICATE,
    DATABASE,
    DISTRIBUTION,
    ENDPOINT,
    LOGIN,
    SECRET_TYPE,
    SERVICE,
)
from stacks.deployment import Environment
from stacks.plan.graph import SECRET, Graph, Resource, reference
from stacks.plan.review import Cost, Grant, Kept, Opening, Review, Runs, SecretUse, Wait

PRICE_LIST = "AWS's list for us-east-1, {sure}"


class AwsReview(Review):
    """The graph of an `aws` stack, told by AWS's own rules."""

    def stand_ins(self, type_: str, name: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        if type_ == DISTRIBUTION:
            return {"domainName": "name-by-cloudfront.cloudfront.net"}
        if type_ == CERTIFICATE:
            members = ("domainName", "resourceRecordName", "resourceRecordType", "resourceRecordValue")
            return {"domainValidationOptions": [{one: reference(name, one) for one in members}]}
        return {}

    def answer(self, token: str) -> Mapping[str, Any] | None:
        if token == LOGIN:
            return {"userName": "AWS", "password": SECRET, "proxyEndpoint": "https://registry", "id": ""}
        return None

    def facts(self, resource: Resource) -> str | None:
        found = FACTS.get(resource.type)
        return None if found is None else found(resource.inputs)

    def grants(self, graph: Graph) -> Sequence[Grant]:
        return grants.grants(graph)

    def openings(self, graph: Graph) -> Sequence[Opening]:
        return openings.openings(graph)

    def egress(self, graph: Graph) -> Sequence[str]:
        return openings.egress(graph)

    def secrets(self, environment: Environment, graph: Graph) -> Sequence[SecretUse]:
        return data.secrets(environment, graph)

    def kept(self, graph: Graph) -> Sequence[Kept]:
        return data.kept(graph)

    def runs(self, graph: Graph) -> Sequence[Runs]:
        return data.runs(graph)

    def idle(self, graph: Graph) -> Sequence[Cost]:
        services = graph.of(SERVICE)
        if not services:
            return ()
        (service,) = services
        definition = graph.needed(service.inputs["taskDefinition"])
        (balancer,) = graph.of(BALANCER)
        databases = graph.of(DATABASE)
        database = databases[0].inputs if databases else {}
        stack = Idle(
            dispatchers=int(service.inputs["desiredCount"]),
            cpu_units=int(definition.inputs["cpu"]),
            memory_mb=int(definition.inputs["memory"]),
            architecture=definition.inputs["runtimePlatform"]["cpuArchitecture"],
            zones=len(balancer.inputs["subnets"]),
            secrets=len(graph.of(SECRET_TYPE)),
            endpoints=sum(one.inputs["vpcEndpointType"] == "Interface" for one in graph.of(ENDPOINT)),
            database=database.get("instanceClass", ""),
            multi_zone=bool(database.get("multiAz")),
            storage_gb=int(database.get("allocatedStorage", 0)),
        )
        return [Cost(one.what, one.usd, PRICE_LIST.format(sure=one.sure)) for one in idle(stack)]

    def replaced(self, graph: Graph) -> str:
        return "are taken all the time: new tasks start beside the old ones, and are rolled back if they fail"

    def start(self) -> Sequence[Wait]:
        source = "AWS re:Post: 30–45 s or longer is normal for Fargate; not measured by us"
        return [Wait("a Fargate task: host, image, container, bot", 30, 45, source)]
