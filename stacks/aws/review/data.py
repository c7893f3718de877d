"""Data of an AWS stack: its secrets and who reads them, what keeps data, and what containers run."""

from __future__ import annotations

import json
from collections.abc import Sequence

from stacks.aws.review.grants import readers
from stacks.aws.review.tokens import (
    CONNECTION,
    DATABASE,
    DEFINITION,
    LOG,
    PARAMETER,
    REPOSITORY,
    SECRET_TYPE,
)
from stacks.deployment import Environment
from stacks.plan.graph import Graph
from stacks.plan.review import Kept, Runs, SecretUse, with_keys


def secrets(environment: Environment, graph: Graph) -> Sequence[SecretUse]:
    """Return each secret: its store, its readers, and how it is changed."""
    read_by = readers(graph)
    found = []
    for one in graph.of(SECRET_TYPE, PARAMETER):
        store = "Secrets Manager" if one.type == SECRET_TYPE else "SSM, as a SecureString"
        # `…/echo`: an agent is not called as the dispatcher is.
        words, agent = one.inputs["description"], one.inputs["description"].rpartition("/")[2]
        found.append(
            SecretUse(
                with_keys(environment, words, agent),
                store,
                ", ".join(read_by.get(one.name, ["nobody"])),
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


def kept(graph: Graph) -> Sequence[Kept]:
    """Return the database, the log groups and the registries."""
    stores = [
        Kept(one.name, "the store", bool(one.inputs.get("storageEncrypted")), store=True)
        for one in graph.of(DATABASE)
    ]
    logs = [
        # CloudWatch Logs encrypts every group, with AWS's key or one of yours.
        Kept(one.name, "log lines", True, int(one.inputs.get("retentionInDays") or 0) or None, logs=True)
        for one in graph.of(LOG)
    ]
    images = [
        Kept(one.name, "images", bool(one.inputs.get("encryptionConfigurations")))
        for one in graph.of(REPOSITORY)
    ]
    return [*stores, *logs, *images]


def runs(graph: Graph) -> Sequence[Runs]:
    """Return the containers of every task definition."""
    return [
        Runs(
            one.name,
            container["image"],
            {of["name"]: of["value"] for of in container.get("environment", ())},
        )
        for one in graph.of(DEFINITION)
        for container in json.loads(one.inputs["containerDefinitions"])
    ]
