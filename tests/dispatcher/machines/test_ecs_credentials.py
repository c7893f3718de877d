"""Credentials for AWS: what the SDK finds, also what it finds only later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from aiobotocore.session import AioSession

from dispatcher.machines.ecs.connection import REOPEN_SECONDS, Credentials
from dispatcher.machines.provider import Rejected
from tests.ecs.world import KEY, World

FOUND_BY_THE_SDK = Credentials()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    assert made.ecs.violations == []


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place in which the SDK can find credentials; it is not there yet."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path / "credentials"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has the service of each client that is opened."""
    made: list[str] = []
    original = AioSession.create_client

    def create_client(self: AioSession, service: str, **options: object) -> object:
        made.append(service)
        return original(self, service, **options)

    monkeypatch.setattr(AioSession, "create_client", create_client)
    return made


def test_credentials_that_come_later_are_found(world: World, key_file: Path, opened: list[str]) -> None:
    async def look() -> None:
        provider = world.provider(FOUND_BY_THE_SDK)
        for _ in range(3):
            with pytest.raises(Rejected, match="no credentials for AWS were found"):
                await provider.get("m-1")
        assert opened == ["ecs"], "credentials are not searched for at each call"
        key_file.write_text(
            f"[default]\naws_access_key_id = {KEY.key_id}\naws_secret_access_key = {KEY.secret}\n"
        )
        await world.clock.sleep(REOPEN_SECONDS)
        assert await provider.get("m-1") is None
        assert await provider.get("m-2") is None
        assert opened == ["ecs", "ecs"]
        await provider.close()

    world.run(look())
