"""Inputs of a resource as lines of a plan."""

from __future__ import annotations

from typing import Any

import pytest
from pulumi.runtime import rpc

from stacks.engine.differences import LONGEST, changed, listed

SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "[secret]"}
DIGESTS = [f"registry.example.com/bot:{mark}@sha256:{mark[0] * 64}" for mark in ("1a", "2b")]


@pytest.mark.parametrize(
    ("inputs", "lines"),
    [
        ({}, []),
        ({"__provider": "pickled"}, []),
        (
            {"app": "voice", "size": 3, "ratio": 0.5, "on": True, "no": None},
            ["app: voice", "size: 3", "ratio: 0.5", "on: true", "no: null"],
        ),
        ({"app": rpc.UNKNOWN}, ["app: known after apply"]),
        ({"values": {"A_KEY": SECRET}}, ["values.A_KEY: [secret]"]),
        ({"config": {"env": {"AGENTS": '{"echo": {"cpu": 1}}'}}}, ["config.env.AGENTS.echo.cpu: 1"]),
        ({"drops": ["ALL"], "empty": [], "nothing": ""}, ["drops: [ALL]", "empty: []", 'nothing: ""']),
        ({"envs": ["A=1", "B=", SECRET]}, ["envs[A]: 1", 'envs[B]: ""', "envs[secret 1]: [secret]"]),
        ({"text": "one\ntwo"}, ['text: "one\\ntwo"']),
    ],
)
def test_a_new_resource_shows_each_input(inputs: dict[str, Any], lines: list[str]) -> None:
    assert listed(inputs) == lines


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ({"port": 1}, {"port": 2}, ["port: 1 → 2"]),
        ({"__provider": "x"}, {"__provider": "x", "port": 2}, ["port: – → 2"]),
        ({"port": 1, "old": 1}, {"port": 1, "new": 2}, ["new: – → 2", "old: 1 → –"]),
        (
            {"envs": ["A=1", "PORT=7860", "Z=9"]},
            {"envs": ["A=1", "B=2", "PORT=7861", "Z=9"]},
            ["envs[B]: – → 2", "envs[PORT]: 7860 → 7861"],
        ),
        ({"envs": ["A=1", SECRET, "Z=9"]}, {"envs": ["A=1", "B=2", SECRET, "Z=9"]}, ["envs[B]: – → 2"]),
        (
            {"envs": ["A=1", 'IMAGES={"echo": "x:1"}']},
            {"envs": ["A=1", rpc.UNKNOWN]},
            ["envs[IMAGES].echo: x:1 → known after apply"],
        ),
        ({"envs": ["A=1"]}, {"envs": ["A=1", rpc.UNKNOWN]}, ["envs[unknown 1]: – → known after apply"]),
        (
            {"config": {"image": "x:1", "cpus": 2}},
            {"config": rpc.UNKNOWN},
            ["config.cpus: 2 → known after apply", "config.image: x:1 → known after apply"],
        ),
        (
            {"ports": [{"out": port} for port in range(12)]},
            {"ports": [{"out": port} for port in (0, 1, 20, *range(3, 11))]},
            ["ports[2].out: 2 → 20", "ports[11].out: 11 → –"],
        ),
        ({"values": {"KEY": SECRET}}, {"values": {"KEY": SECRET}}, []),
    ],
)
def test_a_change_shows_what_differs(before: dict[str, Any], after: dict[str, Any], lines: list[str]) -> None:
    assert changed(before, after) == lines


def test_a_long_value_is_cut_and_its_difference_is_shown() -> None:
    (line,) = changed({"image": DIGESTS[0]}, {"image": DIGESTS[1]})
    assert len(line) <= 2 * LONGEST + len("image:  → ")
    old, _, new = line.removeprefix("image: ").partition(" → ")
    assert old != new
    assert "bot:1a@sha256:1" in old
    assert "bot:2b@sha256:2" in new
    head, tail = "a" * 150, "b" * 150
    (line,) = changed({"text": f"{head}1{tail}"}, {"text": f"{head}2{tail}"})
    assert "a1b" in line
    assert "a2b" in line
    assert len(listed({"text": head + tail})[0]) == len("text: ") + LONGEST
