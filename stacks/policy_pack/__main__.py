"""The policies of `make plan` as a policy pack: `pulumi preview --policy-pack stacks/policy_pack`.

In a preview an engine does not know yet what roles may do, so what it shows cannot be judged. The pack asks
`stacks.plan.verdicts`, which records the stack's program and judges it by the functions of `stacks/plan`, and
then holds the engine to it: its resources have to be those that were judged.

This process has the packages of requirements.txt alone, which do not fit beside those of the stacks.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    PolicyResource,
    ReportViolation,
    StackValidationArgs,
    StackValidationPolicy,
)

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("SWITCHBOARD_PYTHON") or str(CHECKOUT / ".venv" / "bin" / "python")
SECONDS = 120.0
"""Longest time that the stack's program may take."""

AS_JUDGED = "as-judged"


@functools.cache
def verdicts(*arguments: str) -> dict[str, Any]:
    """Return what `stacks.plan.verdicts` says.

    Raises:
        RuntimeError: It fails; the text is its own.
    """
    # The engine's variables are about this process.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PULUMI_")}
    command = [PYTHON, "-m", "stacks.plan.verdicts", *arguments]
    run = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    if run.returncode:
        raise RuntimeError((run.stderr.strip().splitlines() or ["stacks.plan.verdicts fails"])[-1])
    return json.loads(run.stdout)


def of_stack(args: StackValidationArgs) -> dict[str, Any]:
    stack = args.resources[0].urn.split("::")[0].rpartition(":")[2]
    return verdicts("--stack", stack)


def policy(name: str, rule: str, reason: str) -> StackValidationPolicy:
    """Return a policy of `make plan`."""

    def validate(args: StackValidationArgs, report: ReportViolation) -> None:
        if not args.resources:
            return
        urns = {one.name: one.urn for one in args.resources}
        for one in of_stack(args)["violations"]:
            if one["policy"] == name:
                report(f"{one['subject']} {one['fault']}. {reason}", urns.get(one["subject"]))

    return StackValidationPolicy(name, rule, validate)


def as_judged() -> StackValidationPolicy:
    """Return the policy that the engine's resources are those that were judged."""

    def validate(args: StackValidationArgs, report: ReportViolation) -> None:
        if args.resources:
            for name, fault in differences(args.resources, of_stack(args)):
                urn = next((one.urn for one in args.resources if one.name == name), None)
                report(f"{name} {fault}", urn)

    return StackValidationPolicy(
        AS_JUDGED, "the resources are those that the other policies have judged", validate
    )


def differences(resources: list[PolicyResource], judged: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each resource that the engine and the judged program do not share, and its fault."""
    expected = {(one["type"], one["name"]): one["protected"] for one in judged["resources"]}
    found = {
        (one.resource_type, one.name): one.opts.protect
        for one in resources
        if not one.resource_type.startswith("pulumi:") and one.name not in judged["components"]
    }
    for kind, name in sorted(found.keys() - expected.keys()):
        yield name, f"({kind}) was not judged: the engine's program is another one than that of the plan"
    for kind, name in sorted(expected.keys() - found.keys()):
        yield name, f"({kind}) was judged, and the engine does not have it"
    for kind, name in sorted(found.keys() & expected.keys()):
        if expected[kind, name] and not found[kind, name]:
            yield name, "was judged as protected, and is not"


if __name__ == "__main__":
    # For the watch, of the standard library alone, which ends this process with its engine.
    sys.path.insert(0, str(CHECKOUT))
    from stacks.engine.host import end_with_engine

    end_with_engine()
    PolicyPack(
        "switchboard",
        [*(policy(**one) for one in verdicts()["policies"]), as_judged()],
        EnforcementLevel.MANDATORY,
    )
