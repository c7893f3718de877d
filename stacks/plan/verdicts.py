"""`python -m stacks.plan.verdicts [--stack prod]`: the policies, and what of a stack breaks them, as JSON.

For the policy pack (`stacks/policy_pack`), whose process has no packages of ours.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from stacks.errors import exit_status
from stacks.plan.configured import environment
from stacks.plan.policies import POLICIES, Facts, violations
from stacks.plan.recording import record, reviews_of

CHECKOUT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m stacks.plan.verdicts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--stack", help="the stack, a file stacks/Pulumi.<stack>.yaml; without: the policies alone"
    )
    arguments = parser.parse_args()
    return exit_status(lambda: json.dump(_verdicts(arguments.stack), sys.stdout))


def _verdicts(stack: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "policies": [{"name": one.name, "rule": one.rule, "reason": one.reason} for one in POLICIES]
    }
    if stack is None:
        return found
    about = environment(CHECKOUT, stack)
    graph, _ = record(about)
    facts = Facts.of(graph, reviews_of(about).values(), throwaway=about.config.throwaway)
    return found | {
        "violations": [
            {"policy": one.policy.name, "subject": one.subject, "fault": one.fault}
            for one in violations(facts, about.config.policy_exceptions)
            if not one.justification
        ],
        "resources": [{"type": one.type, "name": one.name, "protected": one.protected} for one in graph],
        "components": sorted(graph.components),
    }


if __name__ == "__main__":
    sys.exit(main())
