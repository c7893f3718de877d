"""The loader's thread: it pretends to be the main one to a bot file, and leaves little behind."""

import asyncio
import signal
import subprocess
import sys
import threading

from bot.loader import as_main_thread
from tests.bot.dispatcher import CHECKOUT
from tests.patience import PATIENCE


def test_a_thread_that_passes_for_the_main_one_sets_signal_handlers():
    before = signal.getsignal(signal.SIGUSR2)
    real = signal.signal
    seen: list[object] = []

    def handler(number, frame): ...

    def load(loop):
        with as_main_thread(loop):
            seen.append(signal.signal(signal.SIGUSR2, handler))
            seen.append(asyncio.get_event_loop_policy().get_event_loop() is loop)

    async def scenario():
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=load, args=(loop,))
        thread.start()
        await asyncio.to_thread(thread.join)

    try:
        asyncio.run(scenario())
        assert seen == [before, True]
        assert signal.getsignal(signal.SIGUSR2) is handler
        assert signal.signal is real
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_an_import_of_the_runtime_starts_nothing_and_preloads_nothing():
    """A template process forks machines: it must hold no event loop and no thread."""
    code = (
        "import asyncio, sys, threading, bot.runtime, bot.preload\n"
        "heavy = {'pipecat', 'numpy', 'aiortc', 'fastapi', 'psutil', 'openai'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "bot.preload.preload()\n"
        "assert 'pipecat.pipeline.worker' in sys.modules and 'bot.webrtc' in sys.modules\n"
        "assert 'pipecat.runner.run' not in sys.modules and 'fastapi' not in sys.modules\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert asyncio.get_event_loop_policy()._local._loop is None\n"
    )
    environment = {"PYTHONPATH": str(CHECKOUT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr


def test_bots_own_package_called_bot_has_modules_with_the_names_of_ours(tmp_path):
    """Its relative imports find its own; a module that has a name of ours alone is there once."""
    (tmp_path / "bot").mkdir()
    (tmp_path / "bot" / "__init__.py").write_text("from .session import NAME\n")
    (tmp_path / "bot" / "session.py").write_text("NAME = 'theirs'\n")
    (tmp_path / "main.py").write_text("from bot import NAME\nasync def bot(runner_args): ...\n")
    code = (
        "import pathlib\nfrom bot import loader\n"
        f"_, module = loader.load(pathlib.Path({str(tmp_path / 'main.py')!r}))\n"
        "assert module.NAME == 'theirs'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr


def test_relative_import_with_an_alternative_does_not_import_the_package(tmp_path):
    """`python bot.py` takes the alternative, and never runs the package's `__init__.py`."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("raise RuntimeError('no package')\n")
    (tmp_path / "mine" / "tools.py").write_text("NAME = 'tools'\n")
    (tmp_path / "mine" / "main.py").write_text(
        "try:\n    from .tools import NAME\nexcept ImportError:\n    from tools import NAME\n"
        "async def bot(runner_args): ...\n"
    )
    code = (
        "import pathlib\nfrom bot import loader\n"
        f"_, module = loader.load(pathlib.Path({str(tmp_path / 'mine' / 'main.py')!r}))\n"
        "assert module.NAME == 'tools'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
