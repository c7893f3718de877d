"""The probe that a stack runs in the dispatcher's container."""

import asyncio
import json

import pytest

from dispatcher import probe
from dispatcher.image_table import mark_of
from dispatcher.settings import AgentSettings
from tests.dispatcher.harness import deployment
from tests.patience import PATIENCE
from tests.ports import free_port

IMAGES, OTHERS = ({"echo": {"image": f"bots:{one}", "bot": "bot.py"}} for one in "12")


@pytest.mark.parametrize(
    ("table", "mark", "said"),
    [
        (IMAGES, mark_of(IMAGES), ""),
        (IMAGES, "", ""),
        (IMAGES, mark_of(OTHERS), "it does not use the new images yet; its log has the reason"),
        (None, "", "No agent's image is known yet."),
    ],
)
async def test_probe_says_what_a_dispatcher_lacks(tmp_path, monkeypatch, capsys, table, mark, said):
    file = tmp_path / "images.json"
    if table is not None:
        file.write_text(json.dumps(table))
    more = {"images_file": file, "placements": {"scripted": {"provider": "container"}}}
    agents = {"echo": AgentSettings.model_validate({"bot": "bot.py"})}
    async with deployment(tmp_path, agents=agents, **more) as running:
        monkeypatch.setenv("SWITCHBOARD_PORT", running.url.rpartition(":")[2])
        if table is not None:
            await running.dispatcher.images.look()
        assert await asyncio.to_thread(probe.main, [mark]) == (1 if said else 0)
    assert capsys.readouterr().out.startswith(said)


async def test_probe_waits_as_long_as_it_is_told(tmp_path, monkeypatch, capsys):
    file = tmp_path / "images.json"
    more = {"images_file": file, "placements": {"scripted": {"provider": "container"}}}
    agents = {"echo": AgentSettings.model_validate({"bot": "bot.py"})}
    async with deployment(tmp_path, agents=agents, **more) as running:
        monkeypatch.setenv("SWITCHBOARD_PORT", running.url.rpartition(":")[2])
        waiting = asyncio.create_task(asyncio.to_thread(probe.main, [mark_of(IMAGES), str(PATIENCE)]))
        file.write_text(json.dumps(IMAGES))
        await running.dispatcher.images.look()
        assert await waiting == 0
    assert capsys.readouterr().out == ""


def test_probe_says_that_nobody_answers(monkeypatch, capsys):
    monkeypatch.setenv("SWITCHBOARD_PORT", str(free_port()))
    assert probe.main([]) == 1
    assert "it does not answer: " in capsys.readouterr().out
