"""Drive the engine: the verbs of `python -m stacks.engine`, each with the checks that go before it."""

from __future__ import annotations

import functools
import runpy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pulumi.automation import OutputMap, PulumiCommand, Stack
from pulumi.automation.errors import CommandError, ConcurrentUpdateError
from pulumi.automation.events import EngineEvent
from pulumi.runtime import _grpc_settings

from stacks import assembly, clouds
from stacks.agent_variables import refuse_missing
from stacks.core_config import CoreConfig
from stacks.deployment import Environment
from stacks.engine.consent import Consent, Loss, Preview
from stacks.engine.deployed import Deployed, command_error
from stacks.engine.drift import Drift
from stacks.engine.interrupts import uninterrupted
from stacks.engine.locks import break_dead_locks, drop_broken_attributes, locks
from stacks.engine.questions import FewQuestions, QuietStack
from stacks.engine.reach import check_reachable
from stacks.engine.report import PlannedStep, Report
from stacks.engine.workspace import Workspace, prepare
from stacks.errors import EngineError, LockedError
from stacks.progress import say
from stacks.stateful import State

T = TypeVar("T")
NO_CONSENT = Consent()

# Each run of the engine listens on a port of its own, and gRPC lets the channels of one process share what
# it knows of an address: a run whose engine got the port of an earlier one's was told "Connection refused".
_grpc_settings._GRPC_CHANNEL_OPTIONS.append(("grpc.use_local_subchannel_pool", 1))


class Driver:
    """One stack of one checkout, under one engine."""

    def __init__(
        self,
        checkout: Path,
        stack: str,
        engine: Callable[[], PulumiCommand],
        home: Path | None = None,
        overrides: Mapping[str, Any] | None = None,
        out: Callable[[str], None] = say,
    ) -> None:
        """`engine` is asked only once a run is due; `home` holds the engine's state (`.switchboard`)."""
        self.workspace: Workspace = prepare(
            checkout, home or checkout / ".switchboard", stack, overrides or {}
        )
        self.planned: Sequence[PlannedStep] = ()
        """Steps of the last preview, also of one that failed."""
        self._engine = engine
        self._out = out

    def up(self, consent: Consent = NO_CONSENT) -> OutputMap:
        """Make the stack what the config says; its outputs.

        Raises:
            LossError: something that holds data would go, and the consent does not name it.
        """
        self.check()
        never_up = self.workspace.never_up
        stack = self._stack()
        if not never_up:
            self._guard(stack, self._settled(stack), consent)
        report = Report(out=self._out)
        result = self._run(report, lambda: stack.up(on_event=report, color="never", show_secrets=False))
        if not report.changes:
            self._out(f"stack {self.workspace.stack}: nothing to change")
        return result.outputs

    def preview(self) -> int:
        """Say what an up would change; return how many resources change.

        Raises:
            LossError: something that holds data would go, so an up wants it confirmed. All else was told.
        """
        self.check()
        never_up = self.workspace.never_up
        stack = self._stack()
        state = State({}, {}) if never_up else self._tell_of_interruption(stack)
        loss = self._loss_guarded_by_up(stack, state)
        report, losing = Report(preview=True, out=self._out, data=state.data), Preview(state)

        def tell(event: EngineEvent) -> None:
            report(event)
            losing(event)

        try:
            self._run(losing, lambda: stack.preview(on_event=tell, color="never"))
        except EngineError:
            # The engine fails where what is protected would go. Its advice, to unprotect it, loses the data.
            if not losing.lost or losing.errors:
                raise
        finally:
            # The engine ends without a summary where it fails.
            report.tell_planned()
            self.planned = report.planned
        if loss and losing.lost:
            loss.ask_for_up(NO_CONSENT, losing.lost)
        if not report.changes:
            self._out(f"stack {self.workspace.stack}: nothing to change")
        return report.changes

    def refresh(self) -> int:
        """Make the state what is really there; how many resources were found gone or changed."""
        stack = self._stack()
        report = Drift(self._out)
        self._refresh(stack, report)
        self._say_drift(report)
        return report.changes

    def drift(self) -> int:
        """Say what is there and is not as the state has it; write nothing. How many resources that are."""
        if self.workspace.never_up:
            self._out(f"stack {self.workspace.stack} is not up")
            return 0
        stack = self._stack()
        self._tell_of_interruption(stack)
        report = Drift(self._out)
        self._run(report, lambda: stack.preview_refresh(on_event=report, color="never"))
        self._say_drift(report)
        return report.changes

    def destroy(self, consent: Consent = NO_CONSENT) -> None:
        """Take the stack down: every process of it ends. The store stays, unless the consent names it.

        Raises:
            LossError: nobody has consented.
            StackError: an API that a deletion needs does not answer. Nothing was deleted.
        """
        name = self.workspace.stack
        if self.workspace.never_up:
            self._out(f"stack {name} is not up")
            return
        stack = self._stack()
        deployed = self._deployed(stack)
        state, values = self._settled(stack), deployed.values()
        loss = self._loss(state, values)
        kept = loss.kept_by_down(consent)
        goes = state.left_without(kept)
        if not goes:
            self._out(f"stack {name} is not up" + loss.told_of(kept))
            return
        check_reachable(state, values, self.workspace.project)
        loss.ask_for_down(consent, goes, kept)
        deployed.release(one for one in state.marked if one not in kept)
        report = Report(out=self._out)
        self._run(
            report,
            lambda: stack.destroy(
                on_event=report, color="never", show_secrets=False, exclude_protected=bool(kept)
            ),
        )
        if kept:
            deployed.forget_outputs()
            self._out(f"stack {name} is down" + loss.told_of(kept))

    def outputs(self) -> OutputMap:
        """Return the outputs of the last up; nothing if the stack is not up."""
        return {} if self.workspace.never_up else self._stack().outputs()

    def config(self) -> CoreConfig | None:
        """None if it can only be read by an engine, since a value is encrypted."""
        values = self.workspace.values
        return None if values is None else self.workspace.parsed(values)

    def decrypted_config(self) -> CoreConfig:
        """The config, read by an engine where a value is encrypted."""
        config = self.config()
        return self.workspace.parsed(self._deployed(self._stack()).values()) if config is None else config

    def check(self) -> CoreConfig | None:
        """Refuse what can be refused before an engine runs. None if the config can only be read by one."""
        self.workspace.refuse_in_clear()
        workspace, config = self.workspace, self.config()
        if config is None:
            return None
        environment = Environment(workspace.project, workspace.stack, workspace.checkout, config)
        assembly.plan(environment)
        clouds.load(config.cloud).check_before_run(environment)
        refuse_missing(config)
        return config

    def _guard(self, stack: Stack, state: State, consent: Consent) -> None:
        """Stop an up that would delete or replace what holds data, unless the consent names it.

        What is not named stays protected while the up runs: were that to plan anything else than its preview,
        the engine refuses it.
        """
        loss = self._loss_guarded_by_up(stack, state)
        if loss is None:
            self._deployed(stack).release(state.marked)
            return
        preview = Preview(state)
        try:
            self._run(preview, lambda: stack.preview(on_event=preview, color="never"))
        except EngineError:
            # The engine refuses to delete what is protected, which is no fault if it is confirmed.
            if not preview.lost or preview.errors:
                raise
        if preview.lost:
            loss.ask_for_up(consent, preview.lost)
            self._deployed(stack).release(preview.lost)

    def _loss_guarded_by_up(self, stack: Stack, state: State) -> Loss | None:
        """Return what decides over the data that the state has; None if there is none, or it may go."""
        if not state.marked:
            return None
        values = self._deployed(stack).values()
        loss = self._loss(state, values)
        if loss.throwaway:
            return None
        config = self.workspace.parsed(values)
        for cloud in clouds.importable().values():
            cloud.check_store_stays(config, state, self.workspace.stack)
        return loss

    def _loss(self, state: State, values: Mapping[str, str]) -> Loss:
        # The rest of the config is not read: a down needs no faultless one.
        throwaway = values.get(f"{self.workspace.project}:throwaway") == "true"
        return Loss(self.workspace.stack, state, throwaway=throwaway)

    def _deployed(self, stack: Stack) -> Deployed:
        return Deployed(stack, self.workspace)

    def _settled(self, stack: Stack) -> State:
        """Return the state. What a killed run had begun is in it only after a refresh."""
        deployed = self._deployed(stack)
        state = deployed.state()
        if not state.interrupted:
            return state
        self._out(
            f"an interrupted run had begun to change {', '.join(state.interrupted)}: looking what came of it"
        )
        self._refresh(stack, Drift(self._out))
        return deployed.state()

    def _tell_of_interruption(self, stack: Stack) -> State:
        """Return the state; say if it is not whole. Nothing is mended, since nothing may be written."""
        state = self._deployed(stack).state()
        if begun := state.interrupted:
            self._out(
                f"an interrupted run had begun to change {', '.join(begun)}; what came of it, the next "
                f"`make up` looks at first (make refresh STACK={self.workspace.stack} looks now)"
            )
        return state

    def _refresh(self, stack: Stack, report: Report) -> None:
        # A creation that was interrupted is cleared: `create` finds what it may have left by itself.
        refresh = functools.partial(stack.refresh, clear_pending_creates=True, show_secrets=False)
        self._run(report, lambda: refresh(on_event=report, color="never"))

    def _say_drift(self, report: Drift) -> None:
        if not report.changes:
            self._out(f"stack {self.workspace.stack}: all is as the state says")

    def _stack(self) -> Stack:
        workspace = self.workspace
        for notice in workspace.notices:
            self._out(notice)
        break_dead_locks(workspace.backend or "", workspace.project, workspace.stack)
        drop_broken_attributes(workspace.backend or "")
        file = str(workspace.checkout / "__main__.py")

        def program() -> None:
            # Not as "__main__": that name is this process's own module, which runs on in other threads.
            runpy.run_path(file, run_name="switchboard_program")

        try:
            return QuietStack.of(
                workspace.stack,
                FewQuestions(
                    known=workspace.own_state is not None and not workspace.never_up,
                    work_dir=str(workspace.directory),
                    program=program,
                    env_vars=workspace.environment,
                    pulumi_command=self._engine(),
                    secrets_provider=workspace.secrets_provider,
                ),
            )
        except CommandError as error:
            raise EngineError(workspace.explained(command_error(error))) from None

    def _run(self, report: Report | Preview, operation: Callable[[], T]) -> T:
        try:
            return uninterrupted(operation, self._out)
        except ConcurrentUpdateError as error:
            workspace = self.workspace
            held = locks(workspace.backend or "", workspace.project, workspace.stack)
            who = ", ".join(str(lock) for lock in held)
            raise LockedError(
                f"stack {workspace.stack} is locked by {who or command_error(error)}; "
                "wait until that run is over"
            ) from None
        except CommandError as error:
            problem = "\n".join(report.errors) or command_error(error)
            raise EngineError(self.workspace.explained(problem)) from None
