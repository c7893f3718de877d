"""Ends of asyncio tasks."""

import asyncio
from typing import Any

import pytest

from dispatcher.tasks import end_tasks, loop


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


async def test_end_tasks_returns_when_there_are_none() -> None:
    await end_tasks()


async def test_loop_logs_its_error_at_once_when_it_fails(caplog: Any) -> None:
    failing = loop(fails_at_once())
    await asyncio.wait([failing])
    (record,) = caplog.records
    assert (record.levelname, str(record.exc_info[1])) == ("CRITICAL", "no descriptors")
    await end_tasks(failing)
    assert len(caplog.records) == 1


async def test_loop_logs_its_error_once_when_it_fails_while_it_is_cancelled(caplog: Any) -> None:
    failing = loop(fails_at_its_end())
    await asyncio.sleep(0)
    await end_tasks(failing)
    (record,) = caplog.records
    assert str(record.exc_info[1]) == "no descriptors"
