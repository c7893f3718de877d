"""A plan that is saved and then kept to: what a preview of the real engine says, and what its up does."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pulumi import automation
from pulumi.automation import LocalWorkspaceOptions
from pulumi.automation.events import EngineEvent, StepEventMetadata

from stacks.engine.differences import Leaves, flat
from tests.stacks.checkouts import CheckoutCopy

PARTS_OF = {"create-replacement": "replace", "delete-replaced": "replace"}


@dataclass
class Steps:
    """The steps of the resources in one run of the engine."""

    done: set[tuple[str, str]] = field(default_factory=set)
    """Resource and operation, of those that change."""
    inputs: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = field(default_factory=dict)
    """Resource → its inputs, old and new."""

    def previewed(self, event: EngineEvent) -> None:
        if event.resource_pre_event:
            self._note(event.resource_pre_event.metadata)

    def made(self, event: EngineEvent) -> None:
        if event.res_outputs_event:
            self._note(event.res_outputs_event.metadata)

    def differing(self, resource: str) -> dict[str, str]:
        """Path → what it is to be, of each input that differs."""
        before, after = (flat(one) for one in self.inputs[resource])
        return {path: value for path, value in after.items() if before.get(path) != value}

    def planned(self, resource: str) -> Leaves:
        """Return the new inputs of a resource, as they are shown."""
        return flat(self.inputs[resource][1])

    def _note(self, step: StepEventMetadata) -> None:
        op, name = str(getattr(step.op, "value", step.op)), step.urn.rpartition("::")[2]
        if op in ("same", "read"):
            return
        self.done.add((name, PARTS_OF.get(op, op)))
        old, new = ((one.inputs if one and one.inputs else {}) for one in (step.old, step.new))
        self.inputs[name] = (old, new)


def kept_to(checkout: CheckoutCopy, plan: Path) -> tuple[Steps, Steps]:
    """Save a plan with a preview, then bring the stack up under it; the engine refuses what is not in it.

    As `pulumi preview --save-plan` and `pulumi up --plan` do.
    """
    workspace = checkout.driver().workspace

    def program() -> None:
        runpy.run_path(str(checkout.root / "__main__.py"), run_name="switchboard_program")

    stack = automation.create_or_select_stack(
        stack_name=workspace.stack,
        project_name=workspace.project,
        program=program,
        opts=LocalWorkspaceOptions(
            work_dir=str(workspace.directory),
            env_vars={**workspace.environment, "PULUMI_EXPERIMENTAL": "true"},
            pulumi_command=checkout.engine,
        ),
    )
    preview, up = Steps(), Steps()
    stack.preview(plan=str(plan), on_event=preview.previewed, color="never")
    stack.up(plan=str(plan), on_event=up.made, color="never")
    return preview, up
