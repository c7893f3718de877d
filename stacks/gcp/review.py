"""The cloud `gcp` for a reviewer: permissions, openings, secrets and idle cost of its resources."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stacks.deployment import Environment
from stacks.gcp import permissions
from stacks.gcp.prices import Idle, idle
from stacks.plan.graph import SECRET, Graph, Resource
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
    with_keys,
)

ACCOUNT, CUSTOM_ROLE = "gcp:serviceaccount/account:Account", "gcp:projects/iAMCustomRole:IAMCustomRole"
ON_SECRET = "gcp:secretmanager/secretIamMember:SecretIamMember"  # noqa: S105 - a type
BINDING = re.compile(r"gcp:.*iam(Member|Binding|Policy)", re.IGNORECASE)
"""Type of a resource that gives a role on something: to one member, to a list, or every role on it to all."""
SECRET_TYPE = "gcp:secretmanager/secret:Secret"  # noqa: S105 - a type
DATABASE, SERVICE = "gcp:sql/databaseInstance:DatabaseInstance", "gcp:cloudrunv2/service:Service"
KEY = "gcp:serviceaccount/key:Key"
JOB = "gcp:cloudrunv2/job:Job"
FIREWALL, TEMPLATE = (
    "gcp:compute/firewall:Firewall",
    "gcp:compute/regionInstanceTemplate:RegionInstanceTemplate",
)

ANSWERS: Mapping[str, Mapping[str, Any]] = {
    "gcp:organizations/getClientConfig:getClientConfig": {"accessToken": SECRET, "id": ""},
    "gcp:organizations/getProject:getProject": {"number": "000000000000", "id": ""},
}
"""Answers to functions of the provider that the program calls."""

ROLES = {
    "roles/logging.logWriter": ("write log lines", "The container's output goes to Cloud Logging."),
    "roles/secretmanager.secretAccessor": ("read the secret", "Its variables come from there."),
    "roles/artifactregistry.reader": ("pull images", "Each machine pulls the agent's image anew."),
    "roles/iam.serviceAccountUser": ("start machines as the account", "A machine has its agent's account."),
    "roles/cloudsql.client": ("connect to Cloud SQL", "The store is there."),
    "roles/run.invoker": ("call the service", "Callers reach it; the dispatcher asks them for its own keys."),
}
"""Google's own role → words for it, and why the stack grants it."""


BASIC = {
    "roles/owner": "do everything, permissions and billing included",
    "roles/editor": "change and delete everything but permissions",
    "roles/viewer": "look at everything",
}
"""Basic role → words for it. Each is on thousands of permissions, without a `*`."""


REASONS: Mapping[Sequence[str], str] = {
    permissions.MACHINES: "A session's VM, with its disk, is made, asked about and deleted.",
    permissions.TEMPLATES: "A VM is made from its agent's template.",
    permissions.LOOKS: "The orphan scan lists VMs; Google takes no condition on a name for that.",
    permissions.JOBS: "A session's execution is run, asked about, cancelled, and deleted after its end.",
    permissions.EXECUTIONS: "An execution is absent only if no job of the region has it.",
    permissions.SUBNET: "A VM is in this subnet.",
}
"""Permissions of a custom role → why the stack grants them."""


class GcpReview(Review):
    """The graph of a `gcp` stack or placement."""

    def answer(self, token: str) -> Mapping[str, Any] | None:
        return ANSWERS.get(token)

    def stand_ins(self, type_: str, name: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        # The program decodes it.
        return {"privateKey": base64.b64encode(SECRET.encode()).decode()} if type_ == KEY else {}

    def facts(self, resource: Resource) -> str | None:
        found = FACTS.get(resource.type)
        return None if found is None else found(resource.inputs)

    def grants(self, graph: Graph) -> Sequence[Grant]:
        found = []
        for one in graph:
            for member, role, condition in _bindings(one):
                does, reason = _role(graph, role)
                found.append(
                    Grant(
                        identity=_member(graph, member),
                        assumed_by="whatever runs as it",
                        does=does,
                        to=[_on(graph, one)],
                        only_if=[condition["expression"]] if condition else [],
                        reason=reason,
                        unlimited=does if role in BASIC else [],
                    )
                )
        return found

    def openings(self, graph: Graph) -> Sequence[Opening]:
        found = [
            Opening(
                INTERNET if "0.0.0.0/0" in rule.inputs.get("sourceRanges", ()) else "the network",
                f"VMs with the tag {', '.join(rule.inputs.get('targetTags', ['every VM']))}",
                EVERY_PROTOCOL if allowed["protocol"] == "all" else allowed["protocol"],
                [_range(one) for one in allowed.get("ports", ())] or EVERY_PORT,
                rule.inputs["description"],
                "DTLS-SRTP between browser and bot" if allowed["protocol"] == "udp" else "not encrypted",
            )
            for rule in graph.of(FIREWALL)
            if rule.inputs.get("direction") == "INGRESS"
            for allowed in rule.inputs.get("allows", ())
        ]
        found += [
            Opening(
                INTERNET,
                f"Cloud Run: {one.inputs['name']}",
                "tcp",
                ranges((443,)),
                "Callers, pages and bots",
                "TLS by Cloud Run",
            )
            for one in graph.of(SERVICE)
        ]
        return found

    def egress(self, graph: Graph) -> Sequence[str]:
        if not graph.of(TEMPLATE, JOB, SERVICE):
            return ()
        return ["bots and the dispatcher: anywhere on the internet"]

    def secrets(self, environment: Environment, graph: Graph) -> Sequence[SecretUse]:
        readers: dict[str, list[str]] = {}
        for one in graph.of(ON_SECRET):
            readers.setdefault(one.inputs["secretId"], []).append(_member(graph, one.inputs["member"]))
        return [
            SecretUse(
                with_keys(environment, one.inputs["secretId"], _agent(environment, one.inputs["secretId"])),
                "Secret Manager",
                ", ".join(readers.get(one.inputs["secretId"], ["nobody"])),
                "`make up` adds a version; machines that start afterwards have it",
            )
            for one in graph.of(SECRET_TYPE)
        ]

    def kept(self, graph: Graph) -> Sequence[Kept]:
        # Google encrypts Cloud SQL, Secret Manager and Artifact Registry, always.
        return [Kept(one.name, "the store", True, store=True) for one in graph.of(DATABASE)]

    def runs(self, graph: Graph) -> Sequence[Runs]:
        return [
            Runs(
                one.name,
                container["image"],
                {of["name"]: of["value"] for of in container.get("envs", ()) if "value" in of},
            )
            for one in graph.of(SERVICE)
            for container in one.inputs["template"]["containers"]
        ] + [
            Runs(one.name, container["image"], {})
            for one in graph.of(JOB)
            for container in one.inputs["template"]["template"]["containers"]
        ]

    def idle(self, graph: Graph) -> Sequence[Cost]:
        services = graph.of(SERVICE)
        if not services:
            return ()
        template = services[0].inputs["template"]
        limits = template["containers"][0]["resources"]["limits"]
        databases = graph.of(DATABASE)
        settings = databases[0].inputs["settings"] if databases else {}
        stack = Idle(
            dispatchers=int(template["scaling"]["minInstanceCount"]),
            cpu=int(limits["cpu"]),
            memory_mb=int(limits["memory"].removesuffix("Mi")),
            secrets=len(graph.of(SECRET_TYPE)),
            database=settings.get("tier", ""),
            multi_zone=settings.get("availabilityType") == "REGIONAL",
            storage_gb=int(settings.get("diskSize", 0)),
        )
        return [Cost(one.what, one.usd, f"Google's list for us-central1, {one.sure}") for one in idle(stack)]

    def replaced(self, graph: Graph) -> str:
        return "are taken all the time: a new revision takes over once it is ready"

    def start(self) -> Sequence[Wait]:
        source = "no published figure: boot of Container-Optimized OS, pull of the image; not measured by us"
        jobs = "5 to 15 s in reports, no published figure; not measured by us"
        return [
            Wait("a VM: boot, image, container, bot", 30, 90, source),
            Wait("a job's execution: image, container, bot", 5, 15, jobs),
        ]


def _agent(environment: Environment, secret: str) -> str:
    """Return the agent whose variables a secret has: `<prefix>-<agent>`; empty if it is the dispatcher's."""
    named = [one for one in environment.config.agents if secret.endswith(f"-{one}")]
    return "" if "-dispatcher-" in secret else max(named, key=len, default="")


def _bindings(resource: Resource) -> Iterator[tuple[str, str, Mapping[str, Any] | None]]:
    """Yield member, role and condition of each binding that a resource makes; none of other resources."""
    if not BINDING.fullmatch(resource.type):
        return
    inputs = resource.inputs
    if "policyData" in inputs:
        bindings = json.loads(inputs["policyData"]).get("bindings", [])
    else:
        bindings = [{**inputs, "members": inputs.get("members") or [inputs["member"]]}]
    for one in bindings:
        for member in one["members"]:
            yield member, one["role"], one.get("condition")


def _member(graph: Graph, member: str) -> str:
    found = graph.referred(member)
    return member if found is None else str(found.inputs.get("accountId", found.called))


def _range(ports: str) -> range:
    """Return Google's `443` or `32768-60999` as a range."""
    first, _, last = ports.partition("-")
    return range(int(first), int(last or first) + 1)


def _role(graph: Graph, role: str) -> tuple[list[str], str]:
    """Return the actions of a role, and why it is granted."""
    made = graph.referred(role)
    if made is None:
        words, reason = ROLES.get(role, (BASIC.get(role, role), ""))
        return [f"{words} ({role})" if words != role else role], reason
    actions = made.inputs["permissions"]
    return list(actions), next(_reasons(actions), "")


def _reasons(actions: Sequence[str]) -> Iterator[str]:
    """Yield why a custom role has these permissions."""
    for of, reason in REASONS.items():
        if set(of) <= set(actions):
            yield reason


LEVELS = {"folder": "the folder", "orgId": "the organization", "project": "the project"}
"""Input of a binding on more than a single resource → words for it."""

PARTS = {"role", "member", "members", "condition", "policyData", "location", "region", "zone", *LEVELS}
"""Inputs of a binding that do not name what it is on."""


def _on(graph: Graph, binding: Resource) -> str:
    for key, value in binding.inputs.items():
        if key not in PARTS:
            return graph.words(str(value))
    level = next((key for key in LEVELS if key in binding.inputs), "")
    return f"{LEVELS[level]} {graph.words(str(binding.inputs[level]))}" if level else binding.called


def _vm(inputs: Mapping[str, Any]) -> str:
    way = "a public address" if inputs["networkInterfaces"][0].get("accessConfigs") else "no public address"
    return f"{inputs['machineType']}, {inputs['scheduling']['provisioningModel'].lower()}, {way}"


def _job(limits: Mapping[str, str]) -> str:
    return f"{limits['cpu']} vCPU, {limits['memory'].removesuffix('Mi')} MB, one task, no retries"


FACTS = {
    "gcp:projects/service:Service": lambda i: i["service"],
    ACCOUNT: lambda i: i["accountId"],
    CUSTOM_ROLE: lambda i: i["title"],
    "gcp:compute/subnetwork:Subnetwork": lambda i: f"{i['region']}, {i['ipCidrRange']}",
    "gcp:artifactregistry/repository:Repository": lambda i: (
        f"{i['location']}, {i['repositoryId']}, tags "
        + ("immutable" if i["dockerConfig"]["immutableTags"] else "mutable")
    ),
    DATABASE: lambda i: (
        f"{i['settings']['tier']}, {i['databaseVersion']}, {int(i['settings']['diskSize'])} GB, "
        + ("two zones" if i["settings"]["availabilityType"] == "REGIONAL" else "one zone")
    ),
    SERVICE: lambda i: f"{int(i['template']['scaling']['minInstanceCount'])} instances always",
    TEMPLATE: _vm,
    JOB: lambda i: _job(i["template"]["template"]["containers"][0]["resources"]["limits"]),
    SECRET_TYPE: lambda i: i["secretId"],
    "gcp:monitoring/alertPolicy:AlertPolicy": lambda i: i["displayName"].partition(": ")[2],
}
"""Type → what matters of one, from its inputs."""
