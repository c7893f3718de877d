"""A session over Daily: its bot joins the room. Nobody else does, so no sound is checked."""

from __future__ import annotations

from collections.abc import Callable

from stacks.smoke.http import Session


def call(session: Session, tell: Callable[[str], None]) -> str:
    """Return what the start's answer has checked already: it comes once the bot is in the room, ready."""
    tell("the bot is in its Daily room, with its pipeline running")
    tell("not checked: sound, as no caller has joined the room")
    return "a bot joined"
