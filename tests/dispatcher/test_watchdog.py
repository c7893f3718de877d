"""A process whose event loop hangs ends, and says where it hung."""

import subprocess
import sys

from tests.patience import PATIENCE

HANG = """
import asyncio, sys, time
from dispatcher import watchdog

watchdog.HANG_SECONDS = 2.0

async def work():
    async with watchdog.watching():
        # Longer than the loop may hang, and it does not.
        await asyncio.sleep(3.0)
        print("alive", flush=True)
        if sys.argv[1] == "hang":
            time.sleep(3600)
    # Nobody watches any more.
    time.sleep(2.5)
    print("done", flush=True)

asyncio.run(work())
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HANG, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_a_loop_that_hangs_ends_its_process():
    ended = run("hang")
    assert (ended.returncode, ended.stdout) == (1, "alive\n")
    assert ended.stderr.startswith("Timeout")
    assert "in work" in ended.stderr


def test_a_loop_that_lives_and_a_program_that_is_done_with_it_are_left_alone():
    ended = run("live")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "alive\ndone\n", "")
