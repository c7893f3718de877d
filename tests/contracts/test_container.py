"""Containers keep the contract: of Docker, asked directly and through the engine's proxy, and of Podman."""

from __future__ import annotations

import pytest

from tests.contracts.conformance import CHECKS
from tests.contracts.containers import AnyContainers, Containers


@pytest.mark.parametrize("check", CHECKS)
def test_containers_keep_the_contract(check: str, containers: Containers) -> None:
    containers.run(CHECKS[check](containers))


@pytest.mark.parametrize("check", CHECKS)
def test_containers_keep_the_contract_through_the_proxy(check: str, proxied_containers: Containers) -> None:
    proxied_containers.run(CHECKS[check](proxied_containers))


@pytest.mark.long
@pytest.mark.parametrize("check", CHECKS)
def test_podmans_containers_keep_the_contract(check: str, containers_of_podman: AnyContainers) -> None:
    containers_of_podman.run(CHECKS[check](containers_of_podman))


@pytest.mark.long
@pytest.mark.parametrize("check", CHECKS)
def test_containers_without_root_keep_the_contract(check: str, rootless_containers: AnyContainers) -> None:
    rootless_containers.run(CHECKS[check](rootless_containers))
