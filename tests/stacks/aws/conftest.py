from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stacks.aws.moto_server import Moto, serving
from tests.stacks.aws.terraform import Terraform


@pytest.fixture
def terraform(tmp_path: Path) -> Terraform:
    (tmp_path / "terraform").mkdir()
    return Terraform(tmp_path / "terraform")


@pytest.fixture
def moto(tmp_path: Path) -> Iterator[Moto]:
    with serving(tmp_path / "calls") as server:
        yield server
