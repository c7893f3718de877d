"""The stack's resources, validated, applied and destroyed by Terraform's AWS provider at moto.

`FORGOTTEN` is what moto does not keep, by name. A second plan is empty without it, and only without it.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.stacks.aws import described
from tests.stacks.aws.deployer import missing
from tests.stacks.aws.graph import recorded
from tests.stacks.aws.moto_server import Moto
from tests.stacks.aws.names import UnknownNameError, translated
from tests.stacks.aws.terraform import Excluded, Terraform, TerraformError, document, needs_terraform, schema

pytestmark = needs_terraform

FORGOTTEN = Excluded(
    arguments=[
        # Of a rule that names a group, not addresses, moto does not store the description.
        ("network-endpoints-from-bots", "description"),
        ("database-from-dispatcher", "description"),
        ("dispatcher-from-front", "description"),
        # Of a service it stores neither of these.
        ("dispatcher-service", "availabilityZoneRebalancing"),
        ("dispatcher-service", "healthCheckGracePeriodSeconds"),
        # Its services never have a running task.
        ("dispatcher-service", "waitForSteadyState"),
    ]
)


def start(moto: Moto, known: dict[str, Any], cluster: str, definition: str) -> str:
    """Start a task as the dispatcher does; return its state, and stop it."""
    ecs = moto.client("ecs")
    network = {"subnets": known["subnets"], "securityGroups": [known["bots"]], "assignPublicIp": "ENABLED"}
    (task,) = ecs.run_task(
        cluster=cluster,
        taskDefinition=definition,
        launchType="FARGATE",
        networkConfiguration={"awsvpcConfiguration": network},
    )["tasks"]
    ecs.stop_task(cluster=cluster, task=task["taskArn"])
    return task["lastStatus"]


def active_services(ecs: Any, cluster: str) -> list[str]:
    """Return the cluster's services; deleted ones are listed for a while, as INACTIVE."""
    listed = ecs.list_services(cluster=cluster)["serviceArns"]
    services = ecs.describe_services(cluster=cluster, services=listed)["services"] if listed else []
    return [one["serviceArn"] for one in services if one["status"] != "INACTIVE"]


def left(moto: Moto) -> dict[str, list[Any]]:
    """Return what is there of the kinds that the stack makes."""
    ec2, ecs = moto.client("ec2"), moto.client("ecs")
    clusters = ecs.describe_clusters(clusters=ecs.list_clusters()["clusterArns"])["clusters"]
    return {
        # ECS shows deleted ones for a while.
        "cluster": [one["clusterName"] for one in clusters if one["status"] != "INACTIVE"],
        "definition": ecs.list_task_definitions(status="ACTIVE")["taskDefinitionArns"],
        "repository": moto.client("ecr").describe_repositories()["repositories"],
        "secret": moto.client("secretsmanager").list_secrets()["SecretList"],
        "parameter": moto.client("ssm").describe_parameters()["Parameters"],
        "role": moto.client("iam").list_roles()["Roles"],
        "log": moto.client("logs").describe_log_groups()["logGroups"],
        "service": [arn for one in clusters for arn in active_services(ecs, one["clusterName"])],
        "load balancer": moto.client("elbv2").describe_load_balancers()["LoadBalancers"],
        "database": moto.client("rds").describe_db_instances()["DBInstances"],
        "certificate": moto.client("acm").list_certificates()["CertificateSummaryList"],
        "alarm": moto.client("cloudwatch").describe_alarms()["MetricAlarms"],
        "rule": moto.client("events").list_rules()["Rules"],
        "destination": moto.client("events").list_api_destinations()["ApiDestinations"],
        "connection": moto.client("events").list_connections()["Connections"],
        "topic": moto.client("sns").list_topics()["Topics"],
        "budget": moto.client("budgets").describe_budgets(AccountId="123456789012")["Budgets"],
        # moto has a default VPC in each region.
        "vpc": [one for one in ec2.describe_vpcs()["Vpcs"] if not one["IsDefault"]],
    }


@pytest.mark.long
def test_placements_are_applied_start_tasks_and_are_destroyed_whole(terraform: Terraform, moto: Moto) -> None:
    before = left(moto)
    graph = recorded(schema(), described.placements)
    terraform.write(document(graph, schema(), moto.url, excluded=FORGOTTEN))
    terraform.validate()
    terraform.apply()
    assert terraform.planned() == {}
    known = terraform.resolved(graph.result)
    for name, tasks in known["tasks"].items():
        for agent, definition in tasks["definitions"].items():
            assert definition == f"switchboard-{name}-{agent}:1"
            assert start(moto, known, tasks["cluster"], definition) == "RUNNING"
    ec2 = moto.client("ec2")
    subnets = ec2.describe_subnets(SubnetIds=known["subnets"])["Subnets"]
    assert sorted(one["AvailabilityZone"] for one in subnets) == ["us-east-1a", "us-east-1b"]
    (group,) = ec2.describe_security_groups(GroupIds=[known["bots"]])["SecurityGroups"]
    inward = [(one["IpProtocol"], one["FromPort"], one["ToPort"]) for one in group["IpPermissions"]]
    assert inward == [("udp", 32768, 60999)]
    assert left(moto) != before
    terraform.destroy()
    assert left(moto) == before
    theirs = moto.calls(by="terraform-provider-aws")
    assert "ecs:RegisterTaskDefinition" in theirs
    assert missing(theirs) == [], "whoever deploys may not do it, by docs/aws-deployer-policy.json"


WITHOUT_MOTO = Excluded(
    # moto has no VPC origins, so neither has it a distribution that names one.
    resources=["front-origin", "front-distribution"],
    arguments=FORGOTTEN.arguments,
)


@pytest.mark.long
def test_host_is_applied_and_destroyed_whole(terraform: Terraform, moto: Moto) -> None:
    before = left(moto)
    graph = recorded(schema(), functools.partial(described.host, throwaway=True))
    terraform.write(document(graph, schema(), moto.url, excluded=WITHOUT_MOTO))
    terraform.validate()
    terraform.apply()
    # moto stores no zone rebalancing, and the provider plans its own default for it each time.
    assert terraform.planned() == {"aws_ecs_service.dispatcher-service": ["update"]}
    known = left(moto)
    (database,) = known["database"]
    assert database["PubliclyAccessible"] is False
    (balancer,) = known["load balancer"]
    assert balancer["Scheme"] == "internal"
    terraform.destroy()
    assert left(moto) == before
    theirs = moto.calls(by="terraform-provider-aws")
    assert "rds:CreateDBInstance" in theirs
    assert missing(theirs) == []


@pytest.mark.long
def test_way_by_domain_is_applied_and_destroyed_whole(terraform: Terraform, moto: Moto) -> None:
    route53 = moto.client("route53")
    made = route53.create_hosted_zone(Name="example.com", CallerReference="test")["HostedZone"]
    zone = made["Id"].rpartition("/")[2]
    before = left(moto)
    describe = functools.partial(
        described.host, domain="voice.example.com", zone_id=zone, database=False, throwaway=True
    )
    graph = recorded(schema(), describe)
    terraform.write(document(graph, schema(), moto.url, excluded=FORGOTTEN))
    terraform.validate()
    terraform.apply()
    (balancer,) = left(moto)["load balancer"]
    # moto names the scheme of internal ones alone.
    assert balancer.get("Scheme", "internet-facing") == "internet-facing"
    listeners = moto.client("elbv2").describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])
    secured = {one["Port"]: one.get("Certificates") or [] for one in listeners["Listeners"]}
    (certificate,) = left(moto)["certificate"]
    assert [one["CertificateArn"] for one in secured[443]] == [certificate["CertificateArn"]]
    assert secured[80] == []
    named = route53.list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
    (alias,) = [one["AliasTarget"] for one in named if one["Name"] == "voice.example.com."]
    assert balancer["DNSName"] in alias["DNSName"]
    terraform.destroy()
    assert left(moto) == before
    assert missing(moto.calls(by="terraform-provider-aws")) == []


WAYS = {
    "cloudfront": {"email": "ops@example.com"},
    "printed-records": {"domain": "voice.example.com"},
    "zone": {"domain": "voice.example.com", "zone_id": "Z0123456789"},
}


@pytest.mark.parametrize("given", WAYS.values(), ids=list(WAYS))
def test_ways_to_the_dispatcher_are_valid(terraform: Terraform, given: dict[str, str]) -> None:
    graph = recorded(schema(), functools.partial(described.host, **given))
    terraform.write(document(graph, schema()))
    terraform.validate()


def test_validation_refuses_a_value_that_mocks_let_through(terraform: Terraform) -> None:
    graph = recorded(schema(), described.placement)
    graph.inputs("registry-bot-bots")["imageTagMutability"] = "IMMUTABEL"
    terraform.write(document(graph, schema()))
    with pytest.raises(TerraformError, match="IMMUTABEL"):
        terraform.validate()


def test_argument_that_the_provider_does_not_have_is_told() -> None:
    block = schema().block("aws_ecs_cluster")
    with pytest.raises(UnknownNameError, match=r"bots-cluster\.colour"):
        translated({"name": "x", "colour": "red"}, block, "bots-cluster")
