"""A checkout for runs of the real engine, with stand-ins for a cloud's providers."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from pulumi.automation import PulumiCommand

from tests.stacks import stand_in_provider
from tests.stacks.checkouts import CheckoutCopy


def prepared_checkout(
    directory: Path,
    engine: PulumiCommand,
    monkeypatch: pytest.MonkeyPatch,
    *,
    cloud: str,
    asked: Path,
    config: Mapping[str, Any],
    variables: Mapping[str, str] | None = None,
) -> CheckoutCopy:
    """Return a checkout that images could be built of.

    Args:
        cloud: Cloud of the provider `pulumi-<cloud>`; that of images stands in too.
        asked: File in which the stand-ins write down what they are asked.
        variables: More variables of the engine's process.
    """
    names = {name: version(f"pulumi-{name}") for name in (cloud, "docker-build")}
    given = stand_in_provider.install(directory / "bin", asked, names)
    for name, value in {**given, **(variables or {}), "ECHO_KEY": "hunter2-of-echo"}.items():
        monkeypatch.setenv(name, value)
    checkout = CheckoutCopy(directory / "checkout", engine)
    checkout.add_images()
    checkout.write_config(**config)
    return checkout
