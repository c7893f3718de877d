"""Pipecat's development runner with our page and our echo bot: `development_runner.py -t webrtc --port …`.

The page is mounted into the runner's own server, so that browser, page and requests are the same in both
halves of a bench, and nothing stands in between.
"""

from __future__ import annotations

import sys
from pathlib import Path

from starlette.staticfiles import StaticFiles

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT))

from pipecat.runner.run import app, main  # noqa: E402

from bot.agents.echo import bot  # noqa: E402

__all__ = ["bot"]

if __name__ == "__main__":
    # The runner finds the bot in the main module.
    app.mount("/page", StaticFiles(directory=CHECKOUT / "dispatcher" / "web" / "dist", html=True))
    main()
