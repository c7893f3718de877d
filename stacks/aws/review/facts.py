"""A line about a resource of AWS, with what matters of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stacks.aws.review.tokens import (
    BALANCER,
    DATABASE,
    DEFINITION,
    ENDPOINT,
    LISTENER,
    LOG,
    REPOSITORY,
    ROLE,
    SECRET_TYPE,
    SERVICE,
)


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
    "aws:cloudwatch/logMetricFilter:LogMetricFilter": lambda i: f"counts log lines: {i['pattern']}",
    SECRET_TYPE: lambda i: i["description"],
}
"""Type → what matters of one, from its inputs."""
