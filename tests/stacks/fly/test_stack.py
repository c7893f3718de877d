"""The `fly` stack with the real engine, dispatcher and bot, between a fake Fly and a fake Daily.

What Fly would run in a machine is run here as a process: the dispatcher with its machine's variables and its
app's secrets, and the bot with what the dispatcher gave it. Only ports and places are this host's.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jwt
import psutil
import pytest
from pulumi.automation import PulumiCommand

from dispatcher.clock import Clock, SystemClock
from dispatcher.keys import hash_of, new_key
from tests.daily.fake import API_KEY, DOMAIN, DOMAIN_ID, FakeDaily
from tests.daily.fake import app as daily_app
from tests.fly.fake import FakeFly
from tests.fly.machines import Machine
from tests.fly.processes import Launch, OfThisHost
from tests.fly.wire import served
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.served import served as served_app
from tests.stacks.checkouts import REPOSITORY, until
from tests.stacks.fly.test_engine import prepared

BOT = """\
import asyncio, json, os, pathlib

async def bot(runner_args):
    told = {"room": runner_args.room_url, "kind": type(runner_args).__name__, "key": os.environ["ECHO_KEY"]}
    path = pathlib.Path(__file__).with_name("told.new")
    path.write_text(json.dumps(told))
    path.rename(path.with_name("told.json"))
    await asyncio.sleep(600)
"""
KEY = new_key(public=True)
MAX_SECONDS = 900


class Hosts:
    """Fly's hosts: where its machines run, which is here."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = directory

    def run(self, launch: Launch, clock: Clock) -> OfThisHost:
        return OfThisHost(
            self._dispatcher(launch) if "dispatcher" in launch.command else self._bot(launch), clock
        )

    def _dispatcher(self, launch: Launch) -> Launch:
        here = {
            "SWITCHBOARD_HOST": "127.0.0.1",
            "SWITCHBOARD_PORT": str(self.port),
            "SWITCHBOARD_DATA_DIR": str(self.directory / "data"),
            "SWITCHBOARD_MACHINE_URL": self.url,
            "PYTHONPATH": str(REPOSITORY),
        }
        # Without what makes root a user of the image's.
        assert "dispatcher.unprivileged" in launch.command
        command = (sys.executable, *launch.command[-3:])
        return replace(launch, command=command, environment={**launch.environment, **here})

    def _bot(self, launch: Launch) -> Launch:
        here = {"PYTHONPATH": str(REPOSITORY), "SWITCHBOARD_TEST": str(self.directory)}
        return replace(launch, environment={**launch.environment, **here})

    def passes(self, machine: Machine, _check: str) -> bool:
        """As Fly's health check asks, at the port that is the machine's here."""
        if not machine.runs:
            return False
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/readyz", timeout=1) as answer:
            return answer.status == 200
        return False

    def processes(self) -> list[psutil.Process]:
        """Processes that run here, by their environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and str(self.directory) in process.environ().values():
                    found.append(process)
        return found


def test_a_deployed_dispatcher_opens_a_room_and_a_machine_and_nothing_is_left(
    tmp_path: Path, pulumi_engine: PulumiCommand, nobody_logged_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = prepared(tmp_path, pulumi_engine, monkeypatch)
    bots = tmp_path / "bots"
    bots.mkdir()
    (bots / "bot.py").write_text(BOT)
    hosts, daily = Hosts(tmp_path), FakeDaily(SystemClock())
    fake = FakeFly(start=hosts.run)
    fake.passes = hosts.passes
    fake.prepare_seconds = fake.boot_seconds = fake.destroy_seconds = 0.01
    monkeypatch.setenv("ECHO_KEY", "of-the-bot")
    monkeypatch.setenv("DAILY_API_KEY", API_KEY)
    with served(fake) as fly_url, served_app(daily_app(daily)) as daily_url:
        monkeypatch.setenv("FLY_API_TOKEN", fake.token())
        checkout.write_config(
            cloud="fly",
            agents={"echo": agent(bots / "bot.py")},
            keys=[{"name": "web", "hash": hash_of(KEY), "scope": "start"}],
            daily={"domain": DOMAIN, "domainId": DOMAIN_ID, "apiUrl": f"{daily_url}/v1"},
            fly={"org": "tests", "prefix": "voice", "apiUrl": fly_url},
        )
        checkout.driver().up()

        answer = httpx.post(
            f"{hosts.url}/start",
            params={"wait": "started"},
            headers={"Authorization": f"Bearer {KEY}"},
            json={"transport": "daily"},
            timeout=PATIENCE,
        )
        assert answer.status_code == 200, answer.text
        joined = answer.json()

        # The room is private, and over with the session; the caller's token is good for it and no owner's.
        (room,) = daily.rooms.values()
        assert joined["dailyRoom"] == room["url"]
        assert room["privacy"] == "private"
        assert room["config"]["exp"] <= time.time() + MAX_SECONDS + 60
        claims = jwt.decode(
            joined["dailyToken"], API_KEY, algorithms=["HS256"], options={"verify_aud": False}
        )
        assert claims["r"] == room["name"]
        assert not claims.get("o")

        # The machine is in the agent's app, and its bot has the room and the agent's secret.
        (machine,) = fake.apps["voice-echo-0"].machines.values()
        told = bots / "told.json"
        until("the bot runs", told.exists)
        assert told.read_text() == (
            f'{{"room": "{room["url"]}", "kind": "DailyRunnerArguments", "key": "of-the-bot"}}'
        )
        assert "of-the-bot" not in str(machine.shown())
        assert API_KEY not in str(machine.shown())

        own = {"Authorization": f"Bearer {joined['sessionToken']}"}
        stopped = httpx.delete(f"{hosts.url}/sessions/{joined['sessionId']}", headers=own, timeout=PATIENCE)
        assert stopped.status_code == 200, stopped.text
        until("the machine is gone", lambda: machine.gone)
        until("the room is deleted", lambda: daily.rooms == {})
        checkout.driver().destroy()
        assert fake.apps == {}
        until("no process is left", lambda: hosts.processes() == [])
    assert fake.violations == []


def agent(bot: Path) -> dict[str, Any]:
    image = f"registry.fly.io/voice@sha256:{'0' * 64}"
    limits = {"maxDurationSeconds": MAX_SECONDS, "startTimeoutSeconds": 60}
    return {"bot": str(bot), "image": image, "transports": ["daily"], "env": ["ECHO_KEY"], **limits}
