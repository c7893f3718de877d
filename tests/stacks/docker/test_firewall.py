"""The end of the firewall's rules: of a container that is there, of one that is not, and on a real engine."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.firewall.expressions import Family, Table
from dispatcher.firewall.netlink import Nftables
from stacks.docker.firewall_rules import FirewallRulesProvider, remove
from stacks.errors import StackError
from tests.engine import Engine
from tests.stacks.checkouts import REPOSITORY
from tests.stacks.stand_in_engine import StandInEngine, standing_in

CONTAINER, TABLE, IMAGE = "calls-firewall", "calls", "dispatcher:1"
BY_HAND = "nft delete table inet calls; nft delete table bridge calls"

DOCKERFILE = """
ARG BASE
FROM $BASE
RUN mkdir -p /opt/venv/bin && ln -s /usr/bin/python3 /opt/venv/bin/python
COPY dispatcher /srv/dispatcher
ENV PYTHONPATH=/srv
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandInEngine]:
    with standing_in(tmp_path / "engine.sock") as made:
        yield made


@pytest.fixture
def url(stand_in: StandInEngine, tmp_path: Path) -> str:
    return f"unix://{tmp_path / 'engine.sock'}"


def test_the_container_removes_its_rules(stand_in: StandInEngine, url: str) -> None:
    remove(url, CONTAINER, TABLE, IMAGE)
    assert stand_in.asked == [("POST", f"/v1.41/containers/{CONTAINER}/start")]
    (words,) = stand_in.executed
    assert words[4:7] == ["remove", "--table", TABLE]


def test_rules_that_stay_are_told_with_the_way_out(stand_in: StandInEngine, url: str) -> None:
    stand_in.lacks = "firewall: nftables: the kernel refuses a batch: Operation not permitted"
    with pytest.raises(StackError, match="Operation not permitted; make refresh") as told:
        remove(url, CONTAINER, TABLE, IMAGE)
    assert BY_HAND in str(told.value)


def test_another_container_removes_the_rules_of_one_that_is_gone(stand_in: StandInEngine, url: str) -> None:
    stand_in.absent = {CONTAINER}
    remove(url, CONTAINER, TABLE, IMAGE)
    assert [(method, path.partition("?")[0].split("/")[-1]) for method, path in stand_in.asked] == [
        *(("POST", "start"), ("DELETE", f"{CONTAINER}-end"), ("POST", "create")),
        *(("POST", "start"), ("POST", "wait"), ("GET", "logs"), ("DELETE", f"{CONTAINER}-end")),
    ]
    assert stand_in.created["Image"] == IMAGE
    assert stand_in.created["Entrypoint"][4:7] == ["remove", "--table", TABLE]
    assert stand_in.created["HostConfig"]["NetworkMode"] == "host"


@pytest.mark.parametrize("image", [None, "", IMAGE])
def test_rules_whose_container_and_image_are_gone_are_told(
    image: str | None, stand_in: StandInEngine, url: str
) -> None:
    stand_in.absent = {CONTAINER, IMAGE}
    # As the state of an earlier release has it, without an image.
    props = {"host": url, "container": CONTAINER, "table": TABLE} | ({"image": image} if image else {})
    with pytest.raises(Exception, match=f"no image {IMAGE}" if image else "not there any more") as told:
        FirewallRulesProvider().delete(CONTAINER, props)
    assert BY_HAND in str(told.value)


def test_a_real_engine_removes_tables_of_a_container_that_is_gone(
    engine: Engine, base_image: str, tmp_path: Path
) -> None:
    shutil.copytree(REPOSITORY / "dispatcher" / "firewall", tmp_path / "dispatcher" / "firewall")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    image = engine.build("--build-arg", f"BASE={base_image}", "--tag", "firewall:test", str(tmp_path))
    table, kernel = f"sb{uuid.uuid4().hex[:8]}", Nftables()
    names = [(family, table) for family in Family]
    try:
        kernel.replace([Table(family, table, ()) for family in Family])
        remove(engine.url, f"{table}-firewall", table, image)
        assert [kernel.has(*name) for name in names] == [False, False]
    finally:
        kernel.remove(names)
        kernel.close()
    assert table not in engine.docker("ps", "--all", "--format", "{{.Names}}")
