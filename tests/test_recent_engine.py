"""The choice of an engine that knows named contexts; `tests/images/test_outside_checkout.py` runs one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import recent_engine
from tests.engine import Missing, Programs


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's root with buildx; its Docker is what `dockerd` in there says."""
    plugins = tmp_path / "usr/libexec/docker/cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / "docker-buildx").touch()
    programs = Programs(str(tmp_path / "dockerd"), "/usr/bin/docker")
    monkeypatch.setattr("tests.engine.find", lambda beside: programs)
    monkeypatch.setattr(recent_engine, "_unpacked", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("version", "own"), [("20.10.24+dfsg1", False), ("23.0.0", True), ("26.1.5+dfsg1", True)]
)
def test_the_machines_own_engine_is_taken_if_it_is_recent(machine: Path, version: str, own: bool) -> None:
    (machine / "dockerd").write_text(f"#!/bin/sh\necho Docker version {version}, build a61e2b4\n")
    (machine / "dockerd").chmod(0o755)
    found = recent_engine.find_recent(machine)
    assert found.engine == str(machine / ("dockerd" if own else "usr/sbin/dockerd"))
    assert found.plugins == str(machine / "usr/libexec/docker/cli-plugins")
    assert found.options == recent_engine.ALONE


def test_without_a_mirror_of_debians_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_engine, "_run", lambda *_: "Ubuntu|Ubuntu|http://mirror.example/ubuntu/\n")
    with pytest.raises(
        Missing, match=r"no Docker 23 or later with buildx, and apt has no mirror of Debian's"
    ):
        recent_engine._mirror()
