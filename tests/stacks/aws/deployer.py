"""The policy of whoever deploys a stack at AWS: docs/aws-deployer-policy.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

POLICY = Path(__file__).resolve().parents[3] / "docs" / "aws-deployer-policy.json"

ALIASES = {"monitoring": "cloudwatch"}
"""Services that sign with another name than policies have."""


ACTIONS = {
    "budgets:CreateBudget": "budgets:ModifyBudget",
    "budgets:UpdateBudget": "budgets:ModifyBudget",
    "budgets:DeleteBudget": "budgets:ModifyBudget",
    "budgets:CreateNotification": "budgets:ModifyBudget",
    "budgets:DescribeBudget": "budgets:ViewBudget",
    "budgets:DescribeBudgets": "budgets:ViewBudget",
    "budgets:DescribeNotificationsForBudget": "budgets:ViewBudget",
    "budgets:DescribeSubscribersForNotification": "budgets:ViewBudget",
}
"""Operations whose action has another name (service authorization reference, "AWS Budget Service")."""


def statements() -> list[dict[str, Any]]:
    return json.loads(POLICY.read_text())["Statement"]


def actions() -> set[str]:
    """Return the actions that the policy allows, on whatever resources."""
    found: set[str] = set()
    for one in statements():
        found |= {one["Action"]} if isinstance(one["Action"], str) else set(one["Action"])
    return found


def missing(calls: Iterable[str]) -> list[str]:
    """Return the calls that no statement allows."""
    allowed = actions()
    named = [
        f"{ALIASES.get(service, service)}:{call}"
        for service, _, call in (one.partition(":") for one in calls)
    ]
    named = [ACTIONS.get(one, one) for one in named]
    return sorted(one for one in named if not any(fnmatchcase(one, pattern) for pattern in allowed))
