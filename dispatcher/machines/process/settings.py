"""The settings of placements whose machines are processes of this host."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from dispatcher.machines.settings import HostNotice, PlacementSettings, ProviderContext
from dispatcher.plugins import SharedSettings

if TYPE_CHECKING:
    from dispatcher.machines.provider import MachineProvider


class ProcessShared(SharedSettings):
    """Settings of all machines that are processes."""

    templates: bool = True
    """Fork machines that are processes from a template: fast, at 150 MB for each bot file."""
    isolation: Literal["auto", "off", "required"] = "auto"
    """Isolate machines that are processes from each other and from `data_dir`: `auto` by the means that this
    host has, `required` or no such machine starts."""


class ProcessPlacement(PlacementSettings):
    """Machines are processes of this host."""

    shared: ClassVar[type[SharedSettings]] = ProcessShared
    needs_image: ClassVar[bool] = False
    has_reserve: ClassVar[bool] = True
    only_one: ClassVar[str] = "are all this host"
    is_default: ClassVar[bool] = True

    provider: Literal["process"]  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    """Machine provider of the placement."""

    def check_host(self, context: ProviderContext) -> Sequence[HostNotice]:
        from dispatcher.machines.process.isolation import Isolation

        mode = ProcessShared.of(context.shared).isolation
        isolation = Isolation(mode, context.data_dir, ())
        if isolation.weak and mode == "required":
            raise ValueError(
                "process_isolation: 'required', and nothing on this host keeps machines apart; allowed: "
                "'auto', 'off'; a dispatcher that is root; Linux 5.19 or later with Landlock"
            )
        level = logging.WARNING if isolation.weak else logging.INFO
        kept = f"isolation of machines that are processes: {isolation.describe()}"
        notices = [HostNotice(level, kept)]
        if context.has_remote_callers and not isolation.users:
            words = (
                "callers from other hosts start bots that run as the dispatcher's user: a bot that is taken "
                "over has that user's files. Use containers, or see docs/security.md"
            )
            notices.append(HostNotice(logging.WARNING, words))
        return notices

    def build(self, context: ProviderContext) -> MachineProvider:
        from dispatcher.machines.process.provider import ProcessProvider

        shared = ProcessShared.of(context.shared)
        return ProcessProvider(
            context.data_dir / "machines",
            python=sys.executable,
            keep=context.keep_machine_dirs,
            templates=shared.templates,
            isolation=shared.isolation,
            private=context.private,
            clock=context.clock,
        )
