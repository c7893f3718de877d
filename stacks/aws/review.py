"""The cloud `aws` for a reviewer: permissions, openings, secrets and idle cost of its resources."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stacks.aws import permissions
from stacks.aws.prices import Idle, idle
from stacks.deployment import Environment
from stacks.plan.graph import SECRET, Graph, Resource, reference
from stacks.plan.review import (
    EVERY_PORT,
    EVERY_PROTOCOL,
    INTERNET,
    Cost,
    Grant,
    Kept,
    Opening,
    Review,
    Runs,
    SecretUse,
    Wait,
    ranges,
)

DISTRIBUTION = "aws:cloudfront/distribution:Distribution"
ROLE, POLICY = "aws:iam/role:Role", "aws:iam/rolePolicy:RolePolicy"
INGRESS = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
EGRESS = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
BALANCER, LISTENER = "aws:lb/loadBalancer:LoadBalancer", "aws:lb/listener:Listener"
SERVICE, DEFINITION = "aws:ecs/service:Service", "aws:ecs/taskDefinition:TaskDefinition"
SECRET_TYPE, PARAMETER = "aws:secretsmanager/secret:Secret", "aws:ssm/parameter:Parameter"
DATABASE, ENDPOINT = "aws:rds/instance:Instance", "aws:ec2/vpcEndpoint:VpcEndpoint"
CONNECTION = "aws:cloudwatch/eventConnection:EventConnection"
REPOSITORY, LOG = "aws:ecr/repository:Repository", "aws:cloudwatch/logGroup:LogGroup"

CERTIFICATE = "aws:acm/certificate:Certificate"
LOGIN = "aws:ecr/getAuthorizationToken:getAuthorizationToken"

ANYWHERE = ("0.0.0.0/0", "::/0")

WORDS = {
    "ecs:RunTask": "start tasks of",
    "ecs:DescribeTasks": "look at tasks",
    "ecs:StopTask": "stop tasks",
    "ecs:ListTasks": "list tasks",
    "ecs:TagResource": "tag new tasks",
    "iam:PassRole": "hand over the roles",
    "logs:CreateLogStream": "begin log streams",
    "logs:PutLogEvents": "write log lines",
    "ecr:GetAuthorizationToken": "log in to the registry",
    "ecr:BatchGetImage": "pull images",
    "ecr:GetDownloadUrlForLayer": "pull layers",
    "secretsmanager:GetSecretValue": "read secrets",
    "ssm:GetParameters": "read parameters",
}
"""Action → words for it. Any other is shown as AWS calls it."""

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
        found, inputs = FACTS.get(resource.type), resource.inputs
        return None if found is None else found(inputs)

    def grants(self, graph: Graph) -> Sequence[Grant]:
        reasons = _reasons()
        found = []
        for policy in graph.of(POLICY):
            role = graph.needed(policy.inputs["role"])
            for statement in json.loads(policy.inputs["policy"])["Statement"]:
                sid = statement.get("Sid", "")
                found.append(
                    Grant(
                        identity=role.inputs["name"],
                        assumed_by=_trusted(role),
                        does=[
                            f"{WORDS[one]} ({one})" if one in WORDS else one for one in statement["Action"]
                        ],
                        to=[graph.words(one) for one in statement["Resource"]],
                        only_if=[graph.words(one) for one in _conditions(statement.get("Condition", {}))],
                        reason=next((reasons[key] for key in reasons if sid.startswith(key)), ""),
                    )
                )
        without = {one.inputs["name"] for one in graph.of(ROLE)} - {one.identity for one in found}
        found += [
            Grant(
                one.inputs["name"], _trusted(one), (), (), reason="The containers' own role may do nothing."
            )
            for one in graph.of(ROLE)
            if one.inputs["name"] in without
        ]
        return found

    def openings(self, graph: Graph) -> Sequence[Opening]:
        found = []
        for distribution in graph.of(DISTRIBUTION):
            found.append(
                Opening(
                    INTERNET,
                    f"CloudFront: {distribution.inputs['comment']}",
                    "tcp and udp",
                    ranges((80, 443)),
                    "Callers' HTTPS, HTTP/3 and WebSockets; port 80 only redirects",
                    "TLS by CloudFront; HTTP behind it, inside the VPC",
                )
            )
        for rule in graph.of(INGRESS):
            group = graph.needed(rule.inputs["securityGroupId"])
            source = rule.inputs.get("cidrIpv4") or rule.inputs.get("cidrIpv6")
            public = source in ANYWHERE and not self._is_internal(graph, group)
            where = "the VPC" if source in ANYWHERE else source or graph.words(_group(rule))
            protocol, ports = _reached(rule)
            found.append(
                Opening(
                    INTERNET if public else where,
                    group.inputs["description"],
                    protocol,
                    ports,
                    rule.inputs["description"],
                    _encrypted(protocol, ports),
                )
            )
        return found

    def egress(self, graph: Graph) -> Sequence[str]:
        found = []
        for rule in graph.of(EGRESS):
            group = graph.needed(rule.inputs["securityGroupId"])
            to = "anywhere" if rule.inputs.get("cidrIpv4") in ANYWHERE else rule.inputs.get("cidrIpv4")
            found.append(f"{group.inputs['description']}: to {to}. {rule.inputs['description']}")
        return found

    def secrets(self, environment: Environment, graph: Graph) -> Sequence[SecretUse]:
        readers = _readers(graph)
        found = []
        for one in graph.of(SECRET_TYPE, PARAMETER):
            store = "Secrets Manager" if one.type == SECRET_TYPE else "SSM, as a SecureString"
            found.append(
                SecretUse(
                    one.inputs["description"],
                    store,
                    ", ".join(readers.get(one.name, ["nobody"])),
                    "`make up` writes a new version; containers that start afterwards have it",
                )
            )
        found += [
            SecretUse(
                f"Password of {one.inputs['username']} in the database",
                "the stack's state, encrypted, and the dispatcher's secret",
                "the dispatcher",
                "by hand: a new random value, then `make up`",
            )
            for one in graph.of(DATABASE)
        ]
        if graph.of(CONNECTION):
            found.append(
                SecretUse(
                    "Key with which EventBridge calls the dispatcher",
                    "the stack's state, encrypted, a secret of EventBridge's own, and the dispatcher's",
                    "EventBridge and the dispatcher",
                    "by hand: a new random value, then `make up`",
                )
            )
        return found

    def kept(self, graph: Graph) -> Sequence[Kept]:
        return [
            *(
                Kept(one.name, "the store", bool(one.inputs.get("storageEncrypted")), store=True)
                for one in graph.of(DATABASE)
            ),
            *(
                # CloudWatch Logs encrypts every group, with AWS's key or one of yours.
                Kept(
                    one.name,
                    "log lines",
                    True,
                    int(one.inputs.get("retentionInDays") or 0) or None,
                    logs=True,
                )
                for one in graph.of(LOG)
            ),
            *(
                Kept(one.name, "images", bool(one.inputs.get("encryptionConfigurations")))
                for one in graph.of(REPOSITORY)
            ),
        ]

    def runs(self, graph: Graph) -> Sequence[Runs]:
        return [
            Runs(
                one.name,
                container["image"],
                {of["name"]: of["value"] for of in container.get("environment", ())},
            )
            for one in graph.of(DEFINITION)
            for container in json.loads(one.inputs["containerDefinitions"])
        ]

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

    def _is_internal(self, graph: Graph, group: Resource) -> bool:
        """Tell whether a group is that of a load balancer without a public address."""
        return any(
            one.inputs.get("internal")
            for one in graph.of(BALANCER)
            if any(graph.referred(of) == group for of in one.inputs["securityGroups"])
        )


def _trusted(role: Resource) -> str:
    statements = json.loads(role.inputs["assumeRolePolicy"])["Statement"]
    return ", ".join(str(one) for of in statements for one in of["Principal"].values())


def _conditions(conditions: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for operator, keys in conditions.items():
        for key, value in keys.items():
            yield f"{key} {operator} {value}"


def _group(rule: Resource) -> str:
    return str(rule.inputs["referencedSecurityGroupId"])


def _reached(rule: Resource) -> tuple[str, Sequence[range]]:
    """Return the protocol and the ports of a rule; AWS has ports for TCP and UDP alone."""
    protocol = rule.inputs["ipProtocol"]
    if protocol not in ("tcp", "udp"):
        return EVERY_PROTOCOL if protocol == "-1" else protocol, EVERY_PORT
    return protocol, (range(int(rule.inputs["fromPort"]), int(rule.inputs["toPort"]) + 1),)


def _encrypted(protocol: str, ports: Sequence[range]) -> str:
    if protocol == "udp":
        return "DTLS-SRTP between browser and bot"
    by = {443: "TLS by the load balancer", 5432: "TLS by PostgreSQL"}
    (reached,) = ports
    return by.get(reached.start, "not encrypted") if len(reached) == 1 else "not encrypted"


def _reasons() -> dict[str, str]:
    """Return the first words of a statement's id → its reason."""
    every = [
        *permissions.starts_bots("", "", "", [""], [""]),
        *permissions.starts_containers([""], [""], [""], [""]),
        *permissions.delivers_events(""),
    ]
    return {one.sid: one.reason for one in every}


def _readers(graph: Graph) -> dict[str, list[str]]:
    """Return secret → the roles that may read it."""
    found: dict[str, list[str]] = {}
    for policy in graph.of(POLICY):
        role = graph.referred(policy.inputs["role"])
        for statement in json.loads(policy.inputs["policy"])["Statement"]:
            if not {"secretsmanager:GetSecretValue", "ssm:GetParameters"} & set(statement["Action"]):
                continue
            for one in statement["Resource"]:
                secret = graph.referred(one)
                if secret is not None and role is not None:
                    found.setdefault(secret.name, []).append(role.inputs["name"])
    return found


def _image(inputs: Mapping[str, Any]) -> str:
    (container,) = json.loads(inputs["containerDefinitions"])
    size = f"{int(inputs['cpu']) / 1024:g} vCPU, {inputs['memory']} MB"
    return f"{size}, secret variables: {len(container.get('secrets', []))}"


FACTS = {
    "aws:ec2/vpc:Vpc": lambda i: i["cidrBlock"],
    "aws:ec2/subnet:Subnet": lambda i: f"{i['availabilityZone']}, {i['cidrBlock']}",
    "aws:ec2/route:Route": lambda i: f"{i['destinationCidrBlock']} through the internet gateway",
    ENDPOINT: lambda i: f"{i['vpcEndpointType'].lower()} for {i['serviceName']}",
    REPOSITORY: lambda i: (
        f"{i['name']}, tags {i['imageTagMutability'].lower()}, "
        + ("scans on push" if i["imageScanningConfiguration"]["scanOnPush"] else "not scanned")
    ),
    LOG: lambda i: f"{i['name']}, kept {int(i['retentionInDays'])} days",
    ROLE: lambda i: i["name"],
    DEFINITION: _image,
    SERVICE: lambda i: f"{int(i['desiredCount'])} tasks, rolls back a deployment that fails",
    DATABASE: lambda i: (
        f"{i['instanceClass']}, PostgreSQL {i['engineVersion']}, "
        f"{int(i['allocatedStorage'])} GB"
        + (", two zones" if i.get("multiAz") else ", one zone")
        + (", encrypted" if i.get("storageEncrypted") else ", NOT encrypted")
    ),
    BALANCER: lambda i: "internal" if i.get("internal") else "public",
    LISTENER: lambda i: f"{i['protocol']} {int(i['port'])}",
    "aws:cloudwatch/metricAlarm:MetricAlarm": lambda i: i["alarmDescription"],
    SECRET_TYPE: lambda i: i["description"],
}
"""Type → what matters of one, from its inputs."""
