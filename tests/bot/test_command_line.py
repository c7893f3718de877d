"""A bot's own command line, against the development runner itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from bot.command_line import RUNNER_DEFAULTS, parse
from bot.outcome import InvalidBot
from tests.bot.dispatcher import CHECKOUT
from tests.patience import PATIENCE

RUNNER = """
import json, sys
import uvicorn
from pipecat.runner import run

found = []
run._configure_server_app = found.append
uvicorn.run = lambda *args, **kwargs: None
sys.argv = ["bot.py", *sys.argv[1:]]
run.main()
print(json.dumps(vars(found[0]), default=str))
"""


def runner(*arguments: str) -> dict[str, object]:
    """Give what the runner's own `main` makes of a command line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIPECAT_")}
    command = [sys.executable, "-c", RUNNER, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def parsed(tmp_path: Path, source: str, *arguments: str) -> dict[str, object]:
    file = tmp_path / "mine.py"
    file.write_text(source)
    module = types.ModuleType("mine")
    exec(compile(source, str(file), "exec"), module.__dict__)
    return vars(parse(file, module, list(arguments)))


@pytest.mark.parametrize(
    "arguments", [[], ["-t", "webrtc", "-vv", "--esp32", "--host", "10.0.0.1", "--no-dialin"]]
)
def test_options_and_defaults_are_the_runners(tmp_path: Path, arguments: list[str]) -> None:
    theirs = runner(*arguments)
    ours = parsed(tmp_path, "async def bot(runner_args): ...\n", *arguments)
    for name in RUNNER_DEFAULTS:
        # The runner's own server of MoQ, which is not here, fills its options in.
        if not name.startswith("moq_"):
            assert ours[name] == theirs[name], name
    assert set(RUNNER_DEFAULTS) <= set(theirs)


@pytest.mark.parametrize(
    "block",
    [
        "raise RuntimeError('no block without a parser is run')",
        "from pipecat.runner.run import main\n    main()\n    raise RuntimeError('nor what is behind')",
        "import asyncio\n    asyncio.run(bot(None))\n    raise RuntimeError('nor another runner')",
    ],
)
def test_main_block_without_a_parser_is_not_run(tmp_path: Path, block: str) -> None:
    source = f"async def bot(runner_args): ...\n\nif __name__ == '__main__':\n    {block}\n"
    assert parsed(tmp_path, source)["port"] == 7860


def test_main_that_was_imported_at_the_top_is_not_called(tmp_path: Path) -> None:
    source = (
        "import argparse\nfrom pipecat.runner.run import main\n"
        "if __name__ == '__main__':\n"
        "    parser = argparse.ArgumentParser()\n    parser.add_argument('--pace', type=float, default=1.0)\n"
        "    main(parser=parser)\n"
    )
    assert parsed(tmp_path, source, "--pace", "1.5")["pace"] == 1.5


BLOCKS = {
    "main": "from pipecat.runner.run import main\n    STATE['set'] = 1\n    main()",
    "alias": "from pipecat.runner.run import main as go\n    STATE['set'] = 1\n    go()",
    "module": "import pipecat.runner.run as runner\n    STATE['set'] = 1\n    runner.main()",
    "dotted": "import pipecat.runner.run\n    STATE['set'] = 1\n    pipecat.runner.run.main()",
    "package": "from pipecat.runner import run\n    STATE['set'] = 1\n    run.main()",
    "route": "from pipecat.runner.run import app, main\n    STATE['set'] = app.title\n    main()",
    "function": "from pipecat.runner.run import main\n    start(main)",
}


@pytest.mark.parametrize("imported", [True, False])
@pytest.mark.parametrize("block", BLOCKS)
def test_main_block_runs_up_to_the_runners_main(tmp_path: Path, block: str, imported: bool) -> None:
    """In a process of its own: whether the runner was imported before makes a difference."""
    source = (
        "STATE = {}\nasync def bot(runner_args): ...\n\ndef start(main):\n    STATE['set'] = 1\n    main()\n"
        f"if __name__ == '__main__':\n    {BLOCKS[block]}\n    STATE['behind'] = 1\n"
    )
    (tmp_path / "mine.py").write_text(source)
    code = (
        f"{'import pipecat.runner.run' if imported else ''}\nimport pathlib, sys\n"
        "from bot import command_line, loader\n"
        f"file = pathlib.Path({str(tmp_path / 'mine.py')!r})\n"
        "_, module = loader.load(file)\nparsed = command_line.parse(file, module, [])\n"
        "import pipecat.runner.run as runner\n"
        "assert runner.main.__module__ == 'pipecat.runner.run' and callable(runner.runner_host)\n"
        "assert set(module.STATE) == {'set'}, module.STATE\nassert parsed.port == 7860\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr


def test_block_before_the_imports_is_not_the_main_block(tmp_path: Path) -> None:
    """A file of a package puts the package's directory on the path for its author, and for nobody else."""
    source = (
        "if __name__ == '__main__':\n    raise RuntimeError('this prepares the imports of a script')\n"
        "async def bot(runner_args): ...\n"
        "if __name__ == '__main__':\n    from pipecat.runner.run import main\n    main()\n"
    )
    assert parsed(tmp_path, source)["port"] == 7860


def test_main_block_that_fails_ends_only_a_bot_with_arguments(tmp_path: Path) -> None:
    source = (
        "async def bot(runner_args): ...\n"
        "if __name__ == '__main__':\n    from pipecat.runner.run import main\n    1 / 0\n    main()\n"
    )
    assert parsed(tmp_path, source)["port"] == 7860
    with pytest.raises(
        InvalidBot, match=r"The main block of the bot file mine\.py failed: ZeroDivisionError"
    ):
        parsed(tmp_path, source, "--port", "1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--nowhere"], "unrecognized arguments: --nowhere"), (["--help"], "--help ends the bot")],
)
def test_refused_arguments_are_an_invalid_bot(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(InvalidBot, match=words):
        parsed(tmp_path, "", *arguments)
