"""Following a container's log: of Docker, asked directly and through the engine's proxy, and of Podman."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.contracts.containers import AnyContainers, Containers

LONG = "x" * 40_000
"""An engine keeps such a line in pieces, each with a time of its own."""

CODE = (
    f"import sys, time; [print(n, flush=True) for n in range(5)]; print('x' * {len(LONG)}, flush=True); "
    "time.sleep(1); print('on stderr', file=sys.stderr, flush=True); time.sleep(600)"
)


def assert_followed(containers: AnyContainers) -> None:
    """Read until the last line has come: each line comes once, and a short read says that there were more."""

    async def run() -> list[str]:
        provider = containers.provider()
        spec = containers.spec("m-prints")
        await provider.create(replace(spec, arguments=("run", CODE)))
        lines: list[str] = []
        place: int | None = None
        while "on stderr" not in lines:
            part = await provider.read_log(spec.id, 100, place)
            assert part is not None
            assert part.skipped == 0
            lines += part.lines
            place = part.next
        last = await provider.read_log(spec.id, 1)
        assert last is not None
        assert (last.lines, last.skipped) == (("on stderr",), None)
        return lines

    # Podman makes lines of the pieces, and puts the last line before them into the first one.
    assert "".join(containers.run(run())) == f"01234{LONG}on stderr"


def test_log_is_followed(containers: Containers) -> None:
    assert_followed(containers)


def test_log_is_followed_through_the_proxy(proxied_containers: Containers) -> None:
    assert_followed(proxied_containers)


@pytest.mark.long
def test_log_of_podman_is_followed(containers_of_podman: AnyContainers) -> None:
    assert_followed(containers_of_podman)
