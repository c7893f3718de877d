"""Outputs of Google's resources where nothing makes them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

NUMBER = "123456789012"

CALLS: Mapping[str, dict[str, Any]] = {
    "gcp:organizations/getClientConfig:getClientConfig": {
        "accessToken": "hunter2-of-google",
        "id": "x",
        "project": "voice-prod-1234",
        "region": "us-central1",
        "zone": "",
        "defaultLabels": {},
    },
    "gcp:organizations/getProject:getProject": {"number": NUMBER, "id": "x", "name": "voice"},
}
"""Answers of the provider's functions."""

KEY = {"type": "service_account", "private_key": "hunter2-of-the-account"}
"""A service account's key, beside `client_email`."""


def made(type_: str, name: str, inputs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the id and the outputs of a resource, in the forms that Google's own have."""
    project, found = str(inputs.get("project", "")), dict(inputs)
    kind = type_.rpartition(":")[2]
    called = inputs.get("name") or f"{inputs.get('namePrefix', f'{name}-')}{'0' * 7}"
    found["name"] = called
    match kind:
        case "Account":
            email = f"{inputs['accountId']}@{project}.iam.gserviceaccount.com"
            account = f"projects/{project}/serviceAccounts/{email}"
            found |= {"email": email, "member": f"serviceAccount:{email}", "name": account}
        case "Key":
            key = {**KEY, "client_email": str(inputs["serviceAccountId"]).rpartition("/")[2]}
            found["privateKey"] = base64.b64encode(json.dumps(key).encode()).decode()
        case "IAMCustomRole":
            found["name"] = f"projects/{project}/roles/{inputs['roleId']}"
        case "Repository":
            found["name"] = inputs["repositoryId"]
        case "Subnetwork":
            return f"projects/{project}/regions/{inputs['region']}/subnetworks/{called}", found
        case "Network":
            return f"projects/{project}/global/networks/{called}", found
        case "Secret":
            return f"projects/{project}/secrets/{inputs['secretId']}", found
        case "SecretVersion":
            found |= {"version": "1", "name": f"{inputs['secret']}/versions/1"}
        case "DatabaseInstance":
            found["connectionName"] = f"{project}:{inputs['region']}:{called}"
        case "DomainMapping":
            records = [{"name": "voice", "type": "CNAME", "rrdata": "ghs.googlehosted.com."}]
            found["statuses"] = [{"resourceRecords": records}]
    return f"{name}-id", found


def made_anew(type_: str, name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs of a resource, and its id among them. One with other inputs has another name, where
    Google makes the name up."""
    id_, found = made(type_, name, inputs)
    if "name" not in inputs and "namePrefix" in inputs:
        digest = hashlib.sha256(json.dumps(dict(inputs), sort_keys=True).encode()).hexdigest()
        found["name"] = f"{inputs['namePrefix']}{digest[:7]}"
    return {**found, "id": id_}
