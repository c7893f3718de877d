"""Never finishes its import."""

import time

time.sleep(3600)


async def bot(runner_args):
    pass
