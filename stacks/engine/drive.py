"""Drive the engine: the verbs of `python -m stacks.engine`, each with the checks that go before it."""

from __future__ import annotations

import os
import runpy
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psutil
from pulumi import automation
from pulumi.automation import LocalWorkspaceOptions, OutputMap, PulumiCommand, Stack
from pulumi.automation.errors import CommandError, ConcurrentUpdateError

from stacks import docker, fly, local
from stacks.config import StackConfig, parse
from stacks.engine.locks import break_dead_locks, locks
from stacks.engine.report import Report, clean
from stacks.engine.workspace import Workspace, prepare
from stacks.errors import EngineError, LockedError
from stacks.progress import say

T = TypeVar("T")


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
        self._engine = engine
        self._out = out

    def up(self) -> OutputMap:
        """Make the stack what the config says; its outputs."""
        self.check()
        stack = self._stack()
        report = Report(out=self._out)
        result = self._run(report, lambda: stack.up(on_event=report, color="never", show_secrets=False))
        if not report.changes:
            self._out(f"stack {self.workspace.stack}: nothing to change")
        return result.outputs

    def preview(self) -> int:
        """Say what an up would change; return how many resources change."""
        self.check()
        stack = self._stack()
        report = Report(preview=True, out=self._out)
        self._run(report, lambda: stack.preview(on_event=report, color="never"))
        if not report.changes:
            self._out(f"stack {self.workspace.stack}: nothing to change")
        return report.changes

    def refresh(self) -> int:
        """Make the state what is really there; how many resources were found gone or changed."""
        stack = self._stack()
        report = Report(out=self._out)
        self._run(report, lambda: stack.refresh(on_event=report, color="never", show_secrets=False))
        if not report.changes:
            self._out(f"stack {self.workspace.stack}: all is as the state says")
        return report.changes

    def destroy(self) -> None:
        """Take the stack down: every process of it ends."""
        if self.workspace.never_up:
            self._out(f"stack {self.workspace.stack} is not up")
            return
        stack = self._stack()
        report = Report(out=self._out)
        self._run(report, lambda: stack.destroy(on_event=report, color="never", show_secrets=False))
        if not report.changes:
            self._out(f"stack {self.workspace.stack} is not up")

    def outputs(self) -> OutputMap:
        """What the last up has told; nothing if the stack is not up."""
        return {} if self.workspace.never_up else self._stack().outputs()

    def config(self) -> StackConfig | None:
        """None if it can only be read by an engine, since a value is encrypted."""
        workspace = self.workspace
        if workspace.values is None:
            return None
        return parse(
            workspace.values, project=workspace.project, checkout=workspace.checkout, stack=workspace.stack
        )

    def check(self) -> StackConfig | None:
        """Refuse what can be refused before an engine runs. None if the config can only be read by one."""
        self.workspace.refuse_in_clear()
        workspace, config = self.workspace, self.config()
        if config is None:
            return None
        if config.cloud == "local":
            local.check(config)
        elif config.cloud == "docker":
            docker.check(config)
        elif config.cloud == "fly":
            fly.check(config, workspace.project, workspace.stack)
        return config

    def _stack(self) -> Stack:
        workspace = self.workspace
        for notice in workspace.notices:
            self._out(notice)
        broken = break_dead_locks(workspace.backend or "", workspace.project, workspace.stack)
        file = str(workspace.checkout / "__main__.py")

        def program() -> None:
            # Not as "__main__": that name is this process's own module, which runs on in other threads.
            runpy.run_path(file, run_name="switchboard_program")

        try:
            stack = automation.create_or_select_stack(
                stack_name=workspace.stack,
                project_name=workspace.project,
                program=program,
                opts=LocalWorkspaceOptions(
                    work_dir=str(workspace.directory),
                    env_vars=workspace.environment,
                    pulumi_command=self._engine(),
                    secrets_provider=workspace.secrets_provider,
                ),
            )
        except CommandError as error:
            raise EngineError(workspace.explained(command_error(error))) from None
        if broken:
            # What the killed run had begun: `create` finds the process that it may have left by itself.
            report = Report(out=self._out)
            self._run(
                report, lambda: stack.refresh(on_event=report, color="never", clear_pending_creates=True)
            )
        return stack

    def _run(self, report: Report, operation: Callable[[], T]) -> T:
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


def command_error(error: CommandError) -> str:
    """What the engine's command line said on its error output, without the dump around it."""
    text = str(error).rpartition("stderr:")[2]
    lines = [clean(line) for line in text.splitlines() if line.strip()]
    return "\n".join(lines) or "the engine failed without a word"


def uninterrupted(operation: Callable[[], T], out: Callable[[str], None]) -> T:
    """Run `operation` to its end, though Ctrl-C or SIGTERM comes.

    The engine, which gets the signal too, finishes what it has begun and writes its state; a second signal
    ends it at once. Were this process to die first, the engine would lose the program that it is running.
    """
    result: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(operation())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the calling thread
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    if threading.current_thread() is not threading.main_thread():
        work()
    else:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        interrupted: list[int] = []

        def interrupt(number: int, _frame: object) -> None:
            if interrupted:
                raise KeyboardInterrupt
            interrupted.append(number)
            out("interrupted: the engine finishes what it has begun (once more to end it at once)")
            if number == signal.SIGTERM:
                for child in psutil.Process(os.getpid()).children():
                    child.send_signal(signal.SIGINT)

        try:
            for number in before:
                signal.signal(number, interrupt)
            thread.start()
            while thread.is_alive():
                thread.join(0.2)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if interrupted:
            raise KeyboardInterrupt
    if failure:
        raise failure[0]
    return result[0]
