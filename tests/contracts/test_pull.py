"""The image of a machine comes from a registry, by its digest: what was pushed is what runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from dispatcher.machines.provider import Preparation, Rejected
from tests.contracts.containers import Containers
from tests.engine import Engine
from tests.registry import Registry

LOG = "dispatcher.machines.container.images"


@pytest.fixture
def pushed(engine: Engine, registry: Registry, stub_image: str) -> Iterator[str]:
    """The stub with a layer of its own, which the engine does not have any more: in the registry alone."""
    # Not by a build, whose cache would keep the layer.
    write = ("python3", "-c", "import pathlib; pathlib.Path('/pushed').touch()")
    engine.docker("run", "--name", "to-be-pushed", stub_image, *write)
    image = engine.docker("commit", "to-be-pushed")
    engine.docker("rm", "to-be-pushed")
    reference = registry.push(engine, image, "bots/stub")
    engine.docker("rmi", "--force", image)
    assert not engine.has_image(reference)
    yield reference
    engine.docker("rmi", "--force", reference)


def test_a_machines_image_is_pulled_by_its_digest(
    containers: Containers, pushed: str, caplog: pytest.LogCaptureFixture
) -> None:
    containers.image = pushed
    assert "@sha256:" in pushed

    async def scenario() -> None:
        provider = containers.provider()
        machine = await provider.create(containers.spec("pulled"))
        assert machine.state == "started"
        assert await containers.running() == ["pulled"]
        # It is here now: the next machine is not kept waiting.
        caplog.clear()
        await provider.create(containers.spec("at-once"))

    with caplog.at_level(logging.DEBUG, LOG):
        containers.run(scenario())
        assert "pulling" not in caplog.text
    containers.engine.docker("inspect", pushed)


def test_progress_is_told_and_an_image_is_pulled_once_for_all_who_wait(
    containers: Containers, pushed: str, caplog: pytest.LogCaptureFixture
) -> None:
    containers.image = pushed

    async def scenario() -> None:
        provider = containers.provider()
        await provider.prepare([Preparation("bot.py", {}, pushed)])
        await provider.create(containers.spec("waited"))

    with caplog.at_level(logging.DEBUG, LOG):
        containers.run(scenario())
    lines = [record.getMessage() for record in caplog.records if record.name == LOG]
    assert lines.count(f"image {pushed}: pulling") == 1
    assert any("Download complete" in line or "Pull complete" in line for line in lines)
    (done,) = [line for line in lines if ": pulled, " in line]
    assert done.startswith(f"image {pushed}: ")


def test_a_digest_that_the_registry_does_not_have_is_rejected(
    containers: Containers, registry: Registry
) -> None:
    containers.image = f"{registry.address}/bots/stub@sha256:{'0' * 64}"

    async def scenario() -> None:
        with pytest.raises(Rejected, match=r"not found|unknown"):
            await containers.provider().create(containers.spec("unknown"))

    containers.run(scenario())
