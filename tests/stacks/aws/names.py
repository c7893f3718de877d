"""Pulumi's names of AWS resources and properties, and Terraform's.

Pulumi derives its names from those of Terraform's provider (`pkg/tfbridge/names.go` of the repository
pulumi/pulumi-terraform-bridge): camelCase, and the plural for lists and sets of several. The schema that
`terraform providers schema -json` prints undoes this. Types are in modules that the bridge's authors chose,
so each type in use has a row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TYPES: Mapping[str, str] = {
    "aws:acm/certificate:Certificate": "aws_acm_certificate",
    "aws:acm/certificateValidation:CertificateValidation": "aws_acm_certificate_validation",
    "aws:appautoscaling/target:Target": "aws_appautoscaling_target",
    "aws:budgets/budget:Budget": "aws_budgets_budget",
    "aws:cloudfront/distribution:Distribution": "aws_cloudfront_distribution",
    "aws:cloudfront/vpcOrigin:VpcOrigin": "aws_cloudfront_vpc_origin",
    "aws:cloudwatch/dashboard:Dashboard": "aws_cloudwatch_dashboard",
    "aws:cloudwatch/eventApiDestination:EventApiDestination": "aws_cloudwatch_event_api_destination",
    "aws:cloudwatch/eventConnection:EventConnection": "aws_cloudwatch_event_connection",
    "aws:cloudwatch/eventRule:EventRule": "aws_cloudwatch_event_rule",
    "aws:cloudwatch/eventTarget:EventTarget": "aws_cloudwatch_event_target",
    "aws:cloudwatch/logGroup:LogGroup": "aws_cloudwatch_log_group",
    "aws:cloudwatch/logMetricFilter:LogMetricFilter": "aws_cloudwatch_log_metric_filter",
    "aws:cloudwatch/metricAlarm:MetricAlarm": "aws_cloudwatch_metric_alarm",
    "aws:ec2/internetGateway:InternetGateway": "aws_internet_gateway",
    "aws:ec2/route:Route": "aws_route",
    "aws:ec2/routeTable:RouteTable": "aws_route_table",
    "aws:ec2/routeTableAssociation:RouteTableAssociation": "aws_route_table_association",
    "aws:ec2/securityGroup:SecurityGroup": "aws_security_group",
    "aws:ec2/subnet:Subnet": "aws_subnet",
    "aws:ec2/vpc:Vpc": "aws_vpc",
    "aws:ec2/vpcEndpoint:VpcEndpoint": "aws_vpc_endpoint",
    "aws:ecr/lifecyclePolicy:LifecyclePolicy": "aws_ecr_lifecycle_policy",
    "aws:ecr/repository:Repository": "aws_ecr_repository",
    "aws:ecs/cluster:Cluster": "aws_ecs_cluster",
    "aws:ecs/clusterCapacityProviders:ClusterCapacityProviders": "aws_ecs_cluster_capacity_providers",
    "aws:ecs/service:Service": "aws_ecs_service",
    "aws:ecs/taskDefinition:TaskDefinition": "aws_ecs_task_definition",
    "aws:iam/role:Role": "aws_iam_role",
    "aws:iam/rolePolicy:RolePolicy": "aws_iam_role_policy",
    "aws:lb/listener:Listener": "aws_lb_listener",
    "aws:lb/loadBalancer:LoadBalancer": "aws_lb",
    "aws:lb/targetGroup:TargetGroup": "aws_lb_target_group",
    "aws:rds/instance:Instance": "aws_db_instance",
    "aws:rds/parameterGroup:ParameterGroup": "aws_db_parameter_group",
    "aws:rds/subnetGroup:SubnetGroup": "aws_db_subnet_group",
    "aws:route53/record:Record": "aws_route53_record",
    "aws:secretsmanager/secret:Secret": "aws_secretsmanager_secret",
    "aws:secretsmanager/secretVersion:SecretVersion": "aws_secretsmanager_secret_version",
    "aws:sns/topic:Topic": "aws_sns_topic",
    "aws:sns/topicSubscription:TopicSubscription": "aws_sns_topic_subscription",
    "aws:ssm/parameter:Parameter": "aws_ssm_parameter",
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": "aws_vpc_security_group_egress_rule",
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": "aws_vpc_security_group_ingress_rule",
}
"""Pulumi's type token → Terraform's resource type."""

RENAMED: Mapping[tuple[str, str], str] = {
    ("aws_cloudwatch_metric_alarm", "name"): "alarm_name",
    ("aws_sns_topic_subscription", "topic"): "topic_arn",
}
"""Terraform's type and Pulumi's property → Terraform's argument, where Pulumi names it otherwise."""

PROVIDER = "registry.terraform.io/hashicorp/aws"


class UnknownNameError(Exception):
    """A type or a property that this version of Terraform's provider does not have."""


def camel(name: str) -> str:
    """Return Pulumi's spelling of a Terraform name, in the singular."""
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name)


def spellings(name: str, plural: bool) -> set[str]:
    """Return how Pulumi may spell a Terraform name."""
    one = camel(name)
    if not plural:
        return {one}
    many = (
        f"{one[:-1]}ies" if one.endswith("y") else f"{one}es" if one.endswith(("s", "x", "ch")) else f"{one}s"
    )
    return {one, many}


class Schema:
    """The resource types of Terraform's provider."""

    def __init__(self, printed: Mapping[str, Any]) -> None:
        """Keep, of the document that `terraform providers schema -json` prints, the types in use."""
        every = printed["provider_schemas"][PROVIDER]["resource_schemas"] if printed else {}
        self._resources = {name: every[name] for name in TYPES.values() if name in every}

    def block(self, type_: str) -> Mapping[str, Any]:
        """Return the schema of a resource type. Raises UnknownNameError if there is none."""
        if type_ not in self._resources:
            raise UnknownNameError(f"{type_}: this provider has no such resource type")
        return self._resources[type_]["block"]

    def has(self, type_: str) -> bool:
        """Return True if the provider has the resource type."""
        return type_ in self._resources


NO_SCHEMA = Schema({})
"""For programs whose inputs alone are looked at: their outputs are no references."""


def of_property(name: str, block: Mapping[str, Any], place: str) -> tuple[str, Mapping[str, Any], bool]:
    """Return the Terraform name of a property, its schema, and True if it is a block.

    Raises:
        UnknownNameError: The block has none of this name.
    """
    for theirs, schema in block.get("attributes", {}).items():
        kind = schema.get("type")
        if name in spellings(theirs, plural=isinstance(kind, list) and kind[0] in ("list", "set")):
            return theirs, schema, False
    for theirs, schema in block.get("block_types", {}).items():
        # The bridge keeps some of at most one in the plural, such as a record's `aliases`.
        if name in spellings(theirs, plural=schema["nesting_mode"] in ("list", "set")):
            return theirs, schema, True
    raise UnknownNameError(f"{place}.{name}: this provider has no such argument")


def translated(inputs: Mapping[str, Any], block: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return a resource's or a block's inputs in Terraform's names."""
    found: dict[str, Any] = {}
    for name, value in inputs.items():
        if value is None:
            continue
        theirs, schema, is_block = of_property(name, block, place)
        if not is_block:
            found[theirs] = _attribute(value, schema.get("type"))
            continue
        several = value if isinstance(value, list) else [value]
        found[theirs] = [translated(one, schema["block"], f"{place}.{name}") for one in several]
    return found


def _attribute(value: Any, kind: Any) -> Any:
    # Attributes that are lists of objects have every member in Terraform's JSON syntax, set or not.
    if isinstance(kind, list) and isinstance(kind[1], list) and kind[1][0] == "object":
        members = {camel(name): name for name in kind[1][1]}
        return [
            {**dict.fromkeys(kind[1][1]), **{members[name]: one for name, one in each.items()}}
            for each in value
        ]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_attribute(one, None) for one in value]
    return value
