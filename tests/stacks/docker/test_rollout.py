"""Handing a running dispatcher its images: what the engine is asked, and what is said when it does not go."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.image_table import content_of, mark_of
from dispatcher.machines.container.request import UNFILTERED
from stacks.docker import host, rollout
from stacks.docker.allowed import AllowedImagesProvider
from stacks.docker.config import DockerConfig
from stacks.docker.rollout import MOST_PROCESSES, archive, roll_out, table_of
from stacks.errors import StackError
from tests.stacks.stand_in_engine import StandInEngine, standing_in

IMAGES, FORMER = ({"echo": {"image": f"bots:{one}", "bot": "bot.py"}} for one in "21")


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
    assert engine.executed[-1][-3:] == ["dispatcher.probe", mark_of(IMAGES), "0"]
    assert engine.updated == {key: {"PidsLimit": MOST_PROCESSES} for key in ("c1", "c2")}


def test_a_dispatcher_that_takes_no_starts_is_named_with_what_it_lacks(tmp_path, engine):
    engine.lacks = "The store does not answer."
    with pytest.raises(StackError, match=r"new images after 0 s: The store does not answer.$"):
        roll_out(props(tmp_path))


def test_a_host_that_takes_no_rules_is_told_with_the_way_around(tmp_path, engine):
    engine.lacks = f"No placement can be asked for a machine: {UNFILTERED}: Operation not permitted."
    with pytest.raises(StackError, match=r"not permitted.; switchboard:docker.firewall: false does without"):
        roll_out(props(tmp_path))


def test_a_probe_whose_end_the_engine_tells_late_counts(tmp_path, engine):
    engine.runs_on = 2
    roll_out(props(tmp_path))
    assert engine.runs_on < 0


def test_a_container_that_is_not_there_is_named(tmp_path, engine):
    engine.has_no_container = True
    with pytest.raises(StackError, match="voice-dispatcher is not there any more: make refresh"):
        roll_out(props(tmp_path))


def test_images_that_are_not_taken_give_way_to_those_of_before(tmp_path, engine):
    engine.table = archive(content_of(FORMER))
    engine.lacks = "it does not use the new images yet"
    with pytest.raises(StackError, match=r"those of before are in use again$"):
        roll_out(props(tmp_path))
    assert table_of(props(tmp_path)["host"], "voice-dispatcher") == FORMER


def test_words_of_a_probe_obey_nobody_and_have_an_end(tmp_path, engine):
    engine.lacks = "\x1b[2Jnothing is wrong\n" + "a" * 100_000
    with pytest.raises(StackError) as caught:
        roll_out(props(tmp_path))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_an_engine_that_is_away_for_a_while_is_waited_for(tmp_path, engine, monkeypatch):
    monkeypatch.setattr(rollout, "READY_SECONDS", 60.0)
    pauses = []
    monkeypatch.setattr(rollout.time, "sleep", pauses.append)
    engine.hangs_up = 2
    roll_out(props(tmp_path))
    assert pauses == [rollout.AWAY_SECONDS] * 2


def packed(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as files:
        entry = tarfile.TarInfo(name)
        entry.size, entry.type, entry.linkname = len(content), kind, "nowhere"
        files.addfile(entry, io.BytesIO(content))
    return made.getvalue()


@pytest.mark.parametrize(
    "table",
    [
        None,
        b"",
        b"no archive",
        packed("another.json", b"{}"),
        packed("images.json", b""),
        packed("images.json", b"[1]"),
        packed("images.json", b"[" * 100_000),
        packed("images.json", b"", tarfile.SYMTYPE),
        packed("images.json", b"", tarfile.DIRTYPE),
        packed("images.json", content_of(FORMER))[:700],
    ],
)
def test_what_is_no_table_is_written_anew(tmp_path, engine, table):
    engine.table = table
    assert table_of(props(tmp_path)["host"], "voice-dispatcher") == {}
    roll_out(props(tmp_path))
    assert table_of(props(tmp_path)["host"], "voice-dispatcher") == IMAGES


def test_an_answer_without_an_end_is_refused(tmp_path, engine, monkeypatch):
    monkeypatch.setattr(host, "MOST_BYTES", 1000)
    engine.table = packed("images.json", b" " * 10_000)
    with pytest.raises(StackError, match="more than 1000 bytes"):
        table_of(props(tmp_path)["host"], "voice-dispatcher")


def test_former_images_stay_allowed_until_the_next_change():
    provider = AllowedImagesProvider()

    def checked(olds, *repositories):
        return provider.check(olds, {"wanted": {"images": [], "repositories": list(repositories)}}).inputs

    first = checked({}, "a")
    assert first["repositories"] == ["a"]
    assert checked(first, "a") == first
    second = checked(first, "b")
    assert second["repositories"] == ["a", "b"]
    assert checked(second, "b") == second
    assert checked(second, "c")["repositories"] == ["b", "c"]


def test_a_socket_that_is_a_link_is_mounted_from_where_it_leads(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "engine.sock").touch()
    (tmp_path / "link.sock").symlink_to("run/engine.sock")
    host = f"unix://{tmp_path}/link.sock"
    assert DockerConfig(host=host).socket == f"{tmp_path}/run/engine.sock"
