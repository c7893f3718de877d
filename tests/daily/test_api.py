"""Daily's REST API: what an error says, and when it is asked."""

import asyncio
import traceback

import httpx
import pytest

from dispatcher.clock import SystemClock
from dispatcher.transports.daily.client import DailyApi
from dispatcher.transports.errors import NoAnswer
from tests.dispatcher.harness import ManualClock


@pytest.mark.parametrize("key", ["hunter2-hunter2\n", "hunter2\thunter2 ", "\0hunter2"])
async def test_a_key_that_no_header_takes_is_in_no_error(key, caplog):
    with caplog.at_level("INFO"):

        async def hang_up(_, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        clock = SystemClock()
        api = DailyApi(key, f"http://127.0.0.1:{port}/v1", clock)
        try:
            with pytest.raises(NoAnswer) as failed:
                await api.room("any", clock.now() + 10)
        finally:
            await api.close()
            server.close()
        assert str(failed.value) == "Daily did not answer: LocalProtocolError"
        told = "".join(traceback.format_exception(failed.value))
        assert "hunter2" not in told + caplog.text


async def test_a_deletion_of_another_room_is_no_answer():
    clock = ManualClock()
    other = httpx.MockTransport(lambda _: httpx.Response(200, json={"deleted": True, "name": "other"}))
    api = DailyApi("key", "http://daily.test", clock, other)
    try:
        with pytest.raises(NoAnswer, match="answered with room other when asked for any"):
            await api.delete_room("any", clock.now() + 10)
    finally:
        await api.close()
