"""A pipeline that has started and has its client: it tells what Pipecat's observers would have told."""

from __future__ import annotations

from bot import watch


def start() -> None:
    current = watch._current
    assert current is not None
    current._listener.pipeline_started()
    current._listener.client_here()
