"""`python -m tests.images`: build the images once, so that tests of images and containers find them built.

Where no engine can run nothing is built: those tests are skipped, and say why.
"""

from __future__ import annotations

import sys

from stacks.progress import say, step
from tests.base_image import NoBase, import_base
from tests.engine import DockerError, Engine, Missing
from tests.images.conftest import CHECKOUT, CLOUD_BOT, DAILY, ECHO, build_arguments

IMAGES: dict[str, tuple[str, dict[str, str]]] = {
    "the bot's, with all transports": ("bot", CLOUD_BOT),
    "the bot's, with SmallWebRTC": ("bot", ECHO),
    "the bot's, with Daily": ("bot", DAILY),
    "the dispatcher's": ("dispatcher", {}),
}
"""What is it, Dockerfile and arguments."""


def main() -> int:
    try:
        engine = Engine()
    except Missing as missing:
        say(f"the tests of images and containers are skipped: {missing}")
        return 0
    try:
        with engine:
            with step("making the base of the tests' images"):
                base = import_base(engine)
            for what, (dockerfile, arguments) in IMAGES.items():
                with step(f"building the tests' images: {what}"):
                    engine.build(*build_arguments(dockerfile, CHECKOUT, {"BASE": base, **arguments}))
    except NoBase as missing:
        say(f"the tests of images and containers are skipped: {missing}")
    except DockerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
