"""Placements with an image or a URL of their own: what a machine is made from depends on where it is made."""

import pytest
from pydantic import ValidationError

from dispatcher.machines.provider import NoCapacity
from dispatcher.settings import Settings
from tests.dispatcher.harness import ScriptedProvider, deployment

OURS, THEIRS = "voice-bot:1", f"registry.example.com/voice-bot@sha256:{'1' * 64}"
HERE = {"provider": "container"}
THERE = {"provider": "container", "images": {"echo": THEIRS}, "machineUrl": "https://voice.example.com/"}
AGENTS = {"echo": {"bot": "bot.py", "image": OURS}}


async def test_machine_gets_image_and_url_of_its_placement(tmp_path):
    here, there = ScriptedProvider(), ScriptedProvider()
    placements = {"scripted": HERE, "second": THERE}
    async with deployment(
        tmp_path, provider=here, second=there, agents=AGENTS, placements=placements
    ) as running:
        assert (await running.http.post("/start", params={"wait": "started"}, json={})).is_success
        here.fault = NoCapacity("none left")
        assert (await running.http.post("/start", params={"wait": "started"}, json={})).is_success
    (first,), (second,) = here.specs.values(), there.specs.values()
    assert (first.image, second.image) == (OURS, THEIRS)
    assert "https://voice.example.com" in second.arguments
    assert not any("voice.example.com" in one for one in first.arguments)
    assert first.variants == second.variants == {}


def settings(**changes) -> Settings:
    return Settings(**{"agents": AGENTS, "placements": {"here": HERE, "there": THERE}} | changes)


def test_image_of_a_placement_stands_in_for_the_agents():
    made = settings(agents={"echo": {"bot": "b.py"}}, placements={"there": THERE})
    assert made.placements["there"].images == {"echo": THEIRS}
    assert '"machine_url": "https://voice.example.com/"' in made.to_environment()["SWITCHBOARD_PLACEMENTS"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"agents": {"echo": {"bot": "b.py"}}}, "image is missing, and placement 'here' runs images"),
        ({"placements": {"a": HERE | {"images": {"ecko": THEIRS}}}}, "'ecko' is not an agent; allowed: echo"),
        ({"placements": {"a": HERE | {"machineUrl": "ftp://x"}}}, "placements.a.machineUrl"),
        ({"placements": {"a": HERE | {"machineUrl": "https://user@x"}}}, "placements.a.machineUrl"),
    ],
)
def test_bad_settings_of_a_placement_are_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        settings(**changes)
