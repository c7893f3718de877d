"""A bot file with the name of our package, and a neighbour that imports it by that name."""

from pathlib import Path

import helper

GREETING = "hello from the user's bot.py"


async def bot(runner_args):
    Path("greeting").write_text(helper.greeting())
