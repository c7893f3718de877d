"""A bot that traces by itself joins its session's trace."""

import asyncio
import json
from typing import Any

import pytest

from bot.protocol import TRACEPARENT_VARIABLE, Assign, Ended, Hello
from tests.bot.dispatcher import assignment, dispatcher, machine

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
DAILY = assignment("daily", room_url="https://x.daily.co/r", token="room-token")


def traced(directory, *, variable: str | None, over_channel: str | None) -> dict[str, Any]:
    """Collect the bot's traces, on a machine started for its session or, with a channel's, before it."""

    async def scenario() -> None:
        warm = variable is None
        started_with = None if warm else DAILY
        environment = {} if variable is None else {TRACEPARENT_VARIABLE: variable}
        async with (
            dispatcher() as served,
            machine(directory, "traces.py", served.url, started_with, environment=environment) as run,
        ):
            if warm:
                await served.wait_for(Hello)
                session = DAILY.model_copy(update={"traceparent": over_channel})
                await served.send(Assign(assignment=session))
            ended = await served.wait_for(Ended)
            assert ended.reason == "completed", (ended, run.text())

    asyncio.run(scenario())
    return json.loads((directory / "spans.json").read_text())


@pytest.mark.parametrize(
    "ways", [{"variable": TRACEPARENT, "over_channel": None}, {"variable": None, "over_channel": TRACEPARENT}]
)
def test_a_bots_own_spans_join_the_trace_of_its_session(tmp_path, ways):
    seen = traced(tmp_path, **ways)
    assert seen["spans"]["mine"] == [TRACE, SPAN]
    assert seen["spans"]["conversation"] == [TRACE, SPAN], "Pipecat's own"
    assert seen["variable"] == TRACEPARENT


def test_without_a_trace_a_bot_begins_its_own(tmp_path):
    seen = traced(tmp_path, variable=None, over_channel=None)
    trace_id, parent = seen["spans"]["conversation"]
    assert parent is None
    assert trace_id != TRACE
    assert seen["variable"] is None
