"""The policy of whoever deploys: what it names exists, and what it grants is limited to a stack's names."""

from __future__ import annotations

import botocore.session
import pytest

from tests.stacks.aws.deployer import actions, missing, statements

MODELS = {"elasticloadbalancing": "elbv2"}
"""botocore's names of services where policies have others."""

WITHOUT_A_CALL = {
    # Permissions that no operation is called by: tags on creation, roles, an image's layers.
    *("iam:PassRole", "ec2:DescribeAccountAttributes", "ecr:UploadLayerPart"),
    *("logs:ListTagsLogGroup", "logs:TagLogGroup"),
    "cloudfront:CreateDistributionWithTags",
    *("budgets:ViewBudget", "budgets:ModifyBudget"),
}


@pytest.mark.parametrize("service", sorted({action.partition(":")[0] for action in actions()}))
def test_every_action_is_an_operation(service: str) -> None:
    model = botocore.session.get_session().get_service_model(MODELS.get(service, service))
    known = {f"{service}:{name}" for name in model.operation_names}  # type: ignore[attr-defined]
    named = {action for action in actions() if action.startswith(f"{service}:")}
    assert named - known - WITHOUT_A_CALL == set()


def test_roles_are_limited_to_those_of_stacks() -> None:
    for one in statements():
        named = one["Action"] if isinstance(one["Action"], list) else [one["Action"]]
        if any(action.startswith("iam:") and action != "iam:GetUser" for action in named):
            assert one["Resource"] != "*", one["Sid"]


def test_no_action_is_a_wildcard() -> None:
    assert [action for action in actions() if "*" in action] == []


def test_a_call_that_is_not_allowed_is_told() -> None:
    assert missing(["ec2:CreateVpc", "ec2:TerminateInstances"]) == ["ec2:TerminateInstances"]
