"""Consent to a run that would take data or calls away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pulumi.automation.events import EngineEvent

from stacks.engine.report import clean
from stacks.errors import LossError
from stacks.stateful import Resource, State, Store

DELETING = ("delete", "replace", "delete-replaced", "create-replacement")
PROTECTED = "it is protected"
"""The engine's words where it refuses to delete or replace a resource."""

CONSEQUENCES = ("update failed", "preview failed")


@dataclass(frozen=True)
class Consent:
    """The consent of the command line or the terminal."""

    confirmed: frozenset[str] = frozenset()
    """Logical names of what holds data and may go (`CONFIRM=store`)."""
    yes: bool = False
    """True if the service may go, with the calls that are up (`YES=1`)."""
    ask: Callable[[str], str] | None = None
    """Asks a person; None where nobody sits before it."""


class Preview:
    """Collects, from the events of a preview, which resources that hold data would go."""

    def __init__(self, state: State) -> None:
        self._marked = {one.urn: one for one in state.marked}
        self._lost: dict[str, Resource] = {}
        self.errors: list[str] = []
        """But for the engine's own refusals to delete what is protected."""

    @property
    def lost(self) -> list[Resource]:
        return list(self._lost.values())

    def __call__(self, event: EngineEvent) -> None:
        if event.resource_pre_event:
            step = event.resource_pre_event.metadata
            if str(getattr(step.op, "value", step.op)) in DELETING:
                self._note(step.urn)
        elif event.diagnostic_event and event.diagnostic_event.severity == "error":
            text = clean(event.diagnostic_event.message)
            if PROTECTED in " ".join(text.split()):
                self._note(event.diagnostic_event.urn or "")
            elif text not in (*self.errors, *CONSEQUENCES):
                self.errors.append(text)

    def _note(self, urn: str) -> None:
        if urn in self._marked:
            self._lost[urn] = self._marked[urn]


class Loss:
    """Decides what a run of one stack may take away."""

    def __init__(self, stack: str, state: State, *, throwaway: bool) -> None:
        self._stack = stack
        self._state = state
        self.throwaway = throwaway

    def ask_for_up(self, consent: Consent, lost: Sequence[Resource]) -> None:
        """Raise LossError unless every store among `lost` is confirmed. An app goes with its store."""
        stores = [one for one in lost if isinstance(one, Store)] or list(lost)
        self._check_names(consent, stores)
        missing = [one for one in stores if one.name not in consent.confirmed]
        if missing:
            names = ",".join(one.name for one in stores)
            raise LossError(
                f"stack {self._stack}: this up would delete {_listed(missing)}, with every session that is "
                "recorded there and the key that signs tokens. Nothing was changed. Undo what the config "
                f"says otherwise than before; or make a backup, then: make up STACK={self._stack} "
                f"CONFIRM={names}"
            )

    def kept_by_down(self, consent: Consent) -> list[Resource]:
        """Return what a down leaves: the stores that were not named, and what is protected with them.

        Raises:
            LossError: a store would go that no up of this release has protected.
        """
        stores = self._state.stores
        self._check_names(consent, stores)
        kept = [one for one in stores if one.name not in consent.confirmed]
        if self.throwaway or not kept:
            return []
        if bare := [one for one in kept if not one.protected]:
            raise LossError(
                f"stack {self._stack}: {_listed(bare)} holds data, and no up has protected it yet; nothing "
                f"was deleted. To keep it: make up STACK={self._stack}, then make down; to delete it: "
                f"{self._down(bare)}"
            )
        return [one for one in self._state.marked if one in kept or not isinstance(one, Store)]

    def ask_for_down(self, consent: Consent, goes: Sequence[Resource], kept: Sequence[Resource]) -> None:
        """Raise LossError unless somebody has agreed that the service goes."""
        if self.throwaway or consent.yes or consent.confirmed:
            return
        names = ", ".join(one.name for one in goes)
        told = f"stack {self._stack}: this down ends every call and deletes {names}"
        stays = f"; {_listed(kept)} stays" if kept else ""
        if consent.ask is None:
            raise LossError(
                f"{told}{stays}. Nothing was deleted, since nobody can be asked here: "
                f"make down STACK={self._stack} YES=1"
            )
        if consent.ask(f"{told}{stays}. Type yes to go on: ").strip().lower() not in ("y", "yes"):
            raise LossError("nothing was deleted")

    def told_of(self, kept: Sequence[Resource]) -> str:
        """Return the end of a sentence: what is kept, and how it goes on or away."""
        if not kept:
            return ""
        stores = [one for one in kept if isinstance(one, Store)]
        return f"; kept: {_listed(kept)}. `make up` goes on with it, `{self._down(stores)}` deletes it"

    def _down(self, stores: Iterable[Resource]) -> str:
        return f"make down STACK={self._stack} CONFIRM={','.join(one.name for one in stores)}"

    def _check_names(self, consent: Consent, known: Sequence[Resource]) -> None:
        names = {one.name for one in known}
        if unknown := sorted(consent.confirmed - names):
            raise LossError(
                f"CONFIRM: {', '.join(unknown)} is nothing that holds data and would go; "
                f"allowed: {', '.join(sorted(names)) or 'nothing, as no data would go'}"
            )


def _listed(resources: Iterable[Resource]) -> str:
    return ", ".join(str(one) for one in resources)
