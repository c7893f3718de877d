"""The process that hosts dynamic providers, which is the SDK's, made to end with its engine.

python -m stacks.engine.host ADDRESS    what the launcher in `stacks/engine/bin` runs

Only the standard library is imported here: what is loaded before the watch begins is not watched.
"""

from __future__ import annotations

import functools
import os
import runpy
import select
import threading

STDOUT = 1
WATCH_MILLISECONDS = 1000
"""Between two looks at the parent. A pipe without a reader is told at once."""


@functools.cache
def end_with_engine() -> None:
    """From now on, end this process when the engine that started it is gone.

    The engine ends its hosts itself, but not when it is killed; each would then stay for ever. The host's
    output is a pipe that the engine reads as long as it lives, so an engine that ended before this was called
    is noticed, too. The parent is looked at for where the output is no pipe.
    """
    engine = os.getppid()
    output = select.poll()
    # Without an event to wait for: errors and hang-ups are always told.
    output.register(STDOUT, 0)

    def watch() -> None:
        while not output.poll(WATCH_MILLISECONDS) and os.getppid() == engine:
            pass
        # Nobody would write down what comes of what goes on here. The next run begins with a sweep.
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-engine").start()


if __name__ == "__main__":
    # Before anything else is loaded, which takes a second. As the module that providers import, which
    # watches once.
    from stacks.engine.host import end_with_engine as watch_engine

    watch_engine()
    runpy.run_module("pulumi.dynamic", run_name="__main__", alter_sys=True)
