"""Handing a running dispatcher its images: what the engine is asked, and what is said when it does not go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.image_table import content_of, mark_of
from stacks.docker import rollout
from stacks.docker.rollout import MOST_PROCESSES, archive, roll_out, table_of
from stacks.errors import StackError
from tests.stacks.stand_in_engine import StandInEngine, standing_in

IMAGES = {"echo": "bots:2"}


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInEngine]:
    monkeypatch.setattr(rollout, "READY_SECONDS", 0.0)
    with standing_in(tmp_path / "engine.sock") as made:
        yield made


def props(tmp_path: Path, **more: Any) -> dict[str, Any]:
    url = f"unix://{tmp_path / 'engine.sock'}"
    given = {"host": url, "container": "voice-dispatcher", "images": IMAGES, "pulled": False}
    return {**given, "containers": ["c1", "c2"], **more}


def test_a_dispatcher_is_handed_its_table_and_asked_whether_it_uses_it(tmp_path, engine):
    roll_out(props(tmp_path))
    assert table_of(props(tmp_path)["host"], "voice-dispatcher") == IMAGES
    assert engine.executed[-1][-2:] == ["dispatcher.probe", mark_of(IMAGES)]
    assert engine.updated == {key: {"PidsLimit": MOST_PROCESSES} for key in ("c1", "c2")}


def test_a_dispatcher_that_takes_no_starts_is_named_with_what_it_lacks(tmp_path, engine):
    engine.lacks = "The store does not answer."
    with pytest.raises(StackError, match="does not take starts after 0 s: The store does not"):
        roll_out(props(tmp_path))


def test_a_probe_whose_end_the_engine_tells_late_counts(tmp_path, engine):
    engine.runs_on = 2
    roll_out(props(tmp_path))
    assert engine.runs_on < 0


def test_a_container_that_is_not_there_is_named(tmp_path, engine):
    engine.has_no_container = True
    with pytest.raises(StackError, match="voice-dispatcher is not there any more: make refresh"):
        roll_out(props(tmp_path))


def test_a_dispatcher_without_a_table_has_none(tmp_path, engine):
    assert table_of(props(tmp_path)["host"], "voice-dispatcher") == {}
    engine.table = archive(content_of({"echo": "another:1"}))
    assert table_of(props(tmp_path)["host"], "voice-dispatcher") == {"echo": "another:1"}
