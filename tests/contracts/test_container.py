"""Containers keep the contract: real ones of a real engine, asked directly and through the engine's proxy."""

from __future__ import annotations

import pytest

from tests.contracts.conformance import CHECKS
from tests.contracts.containers import Containers


@pytest.mark.parametrize("check", CHECKS)
def test_containers_keep_the_contract(check: str, containers: Containers) -> None:
    containers.run(CHECKS[check](containers))


@pytest.mark.parametrize("check", CHECKS)
def test_containers_keep_the_contract_through_the_proxy(check: str, proxied_containers: Containers) -> None:
    proxied_containers.run(CHECKS[check](proxied_containers))
