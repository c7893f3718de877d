"""Raises, as a bot does whose key is missing."""

import os


async def bot(runner_args):
    print("about to look up the key")
    os.environ["KEY_THAT_NOBODY_SET"]
