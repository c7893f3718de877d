"""The environment of machines that are processes, and the cache that sessions share."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bot.protocol import BOT_FILE_VARIABLE, PRIVATE_ARGUMENTS, PRIVATE_ARGUMENTS_VARIABLE
from dispatcher.machines.process.groups import DIRECTORY_VARIABLE
from dispatcher.machines.provider import MACHINE_VARIABLE, MachineSpec, thread_variables

SOURCE = Path(__file__).resolve().parents[3]
"""The directory of the `bot` package."""

PYTHONPATH = ".pythonpath"
"""The directory under `root` in which machines find the `bot` package, and nothing else of the checkout."""

CACHE = ".cache"
"""The directory under `root` for bots' downloads: models would otherwise be downloaded for each session."""

CACHES = {"XDG_CACHE_HOME": ".", "HF_HOME": "huggingface", "TORCH_HOME": "torch", "NLTK_DATA": "nltk_data"}
"""Variable → subdirectory of a bot file's cache, as XDG, Hugging Face's hub, PyTorch and NLTK
document them."""


def runtime_path(root: Path) -> Path:
    """Return the directory with a link to this checkout's `bot` package; each checkout has its own.

    A machine imports from it as long as it runs: the next checkout must not replace the package under it.
    """
    return root / PYTHONPATH / hashlib.sha256(os.fsencode(SOURCE)).hexdigest()[:16]


def environment_of(spec: MachineSpec, root: Path, work: Path, bot_file: Path) -> dict[str, str]:
    """Return a clean environment: Python's needs, and the variables of the agent's config."""
    return {
        **_base_environment(root, spec.cpu, spec.python),
        **_caches(root, bot_file),
        "HOME": str(work),
        "TMPDIR": str(work.parent / "tmp"),
        BOT_FILE_VARIABLE: str(bot_file.resolve()),
        MACHINE_VARIABLE: spec.id,
        DIRECTORY_VARIABLE: str(work.parent.resolve()),
        **spec.whole_environment,
    }


def in_private(spec: MachineSpec) -> MachineSpec:
    """Move the arguments that are secret or personal into the machine's environment."""
    shown: list[str] = []
    private: list[str] = []
    arguments = iter(spec.arguments)
    for argument in arguments:
        if argument in PRIVATE_ARGUMENTS:
            private += [argument, *itertools.islice(arguments, 1)]
        else:
            (private if argument.partition("=")[0] in PRIVATE_ARGUMENTS else shown).append(argument)
    if not private:
        return spec
    environment = {**spec.environment, PRIVATE_ARGUMENTS_VARIABLE: json.dumps(private)}
    return replace(spec, arguments=tuple(shown), environment=environment)


def template_environment(root: Path, bot_file: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return a template's own environment: a machine's, without the variables of one machine."""
    return {**_base_environment(root, 1.0, None), **_caches(root, bot_file), **environment}


def cache_directory(root: Path, bot_file: Path) -> Path:
    """Return the directory for the downloads of a bot file's machines."""
    name = f"{bot_file.stem}-{hashlib.sha256(str(bot_file).encode()).hexdigest()[:8]}"
    return root / CACHE / name


def _caches(root: Path, bot_file: Path) -> dict[str, str]:
    """Return the variables that put downloads into the bot file's cache, which its processes share and may
    write."""
    cache = cache_directory(root, bot_file)
    cache.mkdir(parents=True, exist_ok=True)
    return {variable: str(cache / place) for variable, place in CACHES.items()}


def _base_environment(root: Path, cpu: float, python: str | None) -> dict[str, str]:
    # As in an activated environment: bots call `python`, and tools such as ffmpeg.
    beside = str(Path(python or sys.executable).parent)
    return {
        "PATH": os.pathsep.join([beside, os.environ.get("PATH") or os.defpath]),
        **{name: os.environ[name] for name in ("TZ",) if name in os.environ},
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(runtime_path(root)),
        "PYTHONUNBUFFERED": "1",
        **thread_variables(cpu),
        # ONNX runtime 1.29 and later reports the models that it runs unless this is set.
        "ORT_DISABLE_TELEMETRY": "1",
    }
