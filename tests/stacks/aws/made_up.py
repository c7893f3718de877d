"""Outputs of AWS resources where nothing makes them."""

from __future__ import annotations

from typing import Any

REGISTRY = "000000000000.dkr.ecr.us-east-1.amazonaws.com"


def made_up(name: str) -> dict[str, Any]:
    """Return outputs of an AWS resource where no schema says which it has."""
    arn = f"arn:aws:recorded:::{name}"
    return {
        "arn": arn,
        "name": f"{name}-{'0' * 7}",
        "identifier": f"{name}-{'0' * 7}",
        "arnWithoutRevision": arn,
        "revision": 1,
        "repositoryUrl": f"{REGISTRY}/{name}",
        "dnsName": f"{name}.recorded.example.com",
        "domainName": f"{name}.recorded.example.com",
        "address": f"{name}.recorded.example.com",
        "arnSuffix": f"recorded/{name}",
        "domainValidationOptions": [
            {
                "domainName": "recorded.example.com",
                "resourceRecordName": "_1.recorded.example.com",
                "resourceRecordType": "CNAME",
                "resourceRecordValue": "_2.acm-validations.aws",
            }
        ],
    }
