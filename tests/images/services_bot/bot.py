"""A bot that imports every module of Pipecat's services."""

import importlib
import pkgutil

import pipecat.services

FAILED = {}
IMPORTED = []
for module in pkgutil.walk_packages(pipecat.services.__path__, "pipecat.services."):
    try:
        importlib.import_module(module.name)
        IMPORTED.append(module.name)
    except Exception as error:  # noqa: BLE001 - what Pipecat raises where a package is missing
        FAILED[module.name] = str(error)


async def bot(runner_args):
    """End at once: the imports are the test."""
