"""Ends of asyncio tasks."""

import asyncio
from typing import Any

import pytest

from dispatcher.tasks import end_tasks


async def fails_at_its_end() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise OSError("no descriptors")


async def fails_at_once() -> None:
    raise OSError("no descriptors")


async def test_end_tasks_logs_the_error_of_a_task_that_fails_while_it_is_cancelled(caplog: Any) -> None:
    quiet, failing = asyncio.create_task(asyncio.sleep(60)), asyncio.create_task(fails_at_its_end())
    await asyncio.sleep(0)
    await end_tasks(quiet, failing)
    (record,) = [record for record in caplog.records if record.name == "dispatcher.tasks"]
    assert (record.levelname, str(record.exc_info[1])) == ("ERROR", "no descriptors")
    assert quiet.cancelled()


async def test_end_tasks_leaves_the_error_of_a_task_that_was_done_to_its_owner(caplog: Any) -> None:
    failed = asyncio.create_task(fails_at_once())
    await asyncio.wait([failed])
    await end_tasks(failed)
    assert not caplog.records
    with pytest.raises(OSError, match="no descriptors"):
        failed.result()
