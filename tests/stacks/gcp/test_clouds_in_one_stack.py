"""One stack at AWS with bots at AWS, at Google Cloud twice, and at Fly; its dispatcher runs at fakes of them.

Everything that the dispatcher is told is the stack's: settings, and for each cloud the credentials.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dispatcher.app import build
from dispatcher.clock import SystemClock
from dispatcher.configured import context_of
from dispatcher.machines.ecs.settings import EcsPlacement
from dispatcher.settings import Settings
from tests.ecs.fake import GROUP, SUBNETS, FakeEcs
from tests.ecs.tasks import Definition
from tests.ecs.tasks import Times as TaskTimes
from tests.ecs.world import KEY as AWS_KEY
from tests.fly.fake import FakeFly, Grant
from tests.fly.wire import InProcess
from tests.gcp.engine import PROJECT, TEMPLATE, ZONES, FakeEngine
from tests.gcp.instances import Times as VmTimes
from tests.stacks.aws.graph import Graph
from tests.stacks.aws.test_program import graph
from tests.stacks.aws.test_program import told as variables_of

TOKEN_URL = "https://oauth2.googleapis.com/token"
MADE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PRIVATE = MADE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

PLACEMENTS = {
    "virginia": {"cloud": "aws", "region": "us-east-1"},
    "netherlands": {"cloud": "gcp", "project": PROJECT, "region": "europe-west4", "zones": ["a", "b"]},
    "spare": {"cloud": "gcp", "project": PROJECT, "region": "europe-west4", "zones": ["c"]},
    "overflow": {"cloud": "fly", "org": "personal", "regions": ["iad"]},
}
AGENTS = {
    "echo": {
        "bot": "bot/agents/echo.py",
        "env": ["ECHO_KEY"],
        "memoryMb": 2048,
        "placements": list(PLACEMENTS),
    }
}
FLY_APP = "switchboard-prod-overflow-echo-0"


@pytest.fixture(scope="module")
def stack() -> Graph:
    found = graph(aws={"domain": "voice.example.com"}, agents=AGENTS, placements=PLACEMENTS)
    assert found.error == ""
    return found


@pytest.fixture
def settings(stack: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The dispatcher's settings, with a store of its own in the place of RDS, and ids as AWS gives them."""
    ids = dict(zip(("us-east-1a", "us-east-1b"), SUBNETS, strict=False))
    theirs = {f"virginia-network-{zone}-id": subnet for zone, subnet in ids.items()}
    theirs["virginia-network-bots-id"] = GROUP
    for name, value in variables_of(stack).items():
        for ours, made in theirs.items():
            value = value.replace(ours, made)
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SWITCHBOARD_DATABASE_URL")
    monkeypatch.setenv("SWITCHBOARD_DATA_DIR", str(tmp_path))
    # The role of the dispatcher's task.
    monkeypatch.setenv("SWITCHBOARD_ECS_ACCESS_KEY_ID", AWS_KEY.key_id)
    monkeypatch.setenv("SWITCHBOARD_ECS_SECRET_ACCESS_KEY", AWS_KEY.secret)
    # The recorder's keys have no key in them: Google's have.
    given = json.loads(variables_of(stack)["SWITCHBOARD_COMPUTE_ENGINE_CREDENTIALS_OF"])
    keys = {
        name: json.dumps({**json.loads(key), "private_key": PRIVATE, "token_uri": TOKEN_URL})
        for name, key in given.items()
    }
    monkeypatch.setenv("SWITCHBOARD_COMPUTE_ENGINE_CREDENTIALS_OF", json.dumps(keys))
    return Settings()  # type: ignore[call-arg]


class Google(httpx.AsyncBaseTransport):
    """Google's server of tokens, and Compute Engine behind it. A token is the account's that it was given
    to."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = InProcess(engine)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "compute.googleapis.com":
            return await self._engine.handle_async_request(request)
        assert str(request.url) == TOKEN_URL
        form = parse_qs((await request.aread()).decode())
        claims = jwt.decode(form["assertion"][0], MADE.public_key(), ["RS256"], audience=TOKEN_URL)
        given = {"access_token": claims["iss"], "expires_in": 3600, "token_type": "Bearer"}
        return httpx.Response(200, json=given)


class Clouds:
    """Fakes that hold what the stack made, and take its credentials alone."""

    def __init__(self, stack: Graph, settings: Settings) -> None:
        clock = SystemClock()
        virginia = settings.placements["virginia"]
        assert isinstance(virginia, EcsPlacement)
        self.ecs = FakeEcs(clock=clock, times=TaskTimes(0.0, 0.0, 0.0, 30.0, 0.0))
        self.ecs.cluster = virginia.cluster
        self.ecs.definitions = {virginia.task_definitions["echo"]: Definition()}
        times = VmTimes(provision=0.0, stage=0.0, boot=0.0, stockout=0.0)
        self.engines: dict[str, FakeEngine] = {}
        for name in ("netherlands", "spare"):
            account = stack.inputs(f"{name}-dispatcher-account")
            engine = self.engines[name] = FakeEngine(clock, times=times)
            engine.tokens = {f"{account['accountId']}@{account['project']}.iam.gserviceaccount.com"}
            made = stack.inputs(f"{name}-bots-echo-template")
            path = f"regions/{made['region']}/instanceTemplates/{made['namePrefix']}0000000"
            engine.templates = {path: TEMPLATE}
        self.fly = FakeFly(clock)
        self.fly.app(FLY_APP)
        (token,) = json.loads(variables_of(stack)["SWITCHBOARD_FLY_API_TOKEN"]).values()
        self.fly.tokens[token.removeprefix("FlyV1 ")] = Grant(FLY_APP)
        self.fly.prepare_seconds = self.fly.boot_seconds = 0.0

    def transport(self, placement: str) -> httpx.AsyncBaseTransport:
        if placement in self.engines:
            return Google(self.engines[placement])
        return InProcess(self.ecs if placement == "virginia" else self.fly)

    def fill(self, *placements: str) -> None:
        """Leave no capacity there."""
        for name in placements:
            if name == "virginia":
                self.ecs.free = {("FARGATE", zone): 0 for zone in SUBNETS.values()}
            else:
                self.engines[name].room = dict.fromkeys(ZONES, 0)

    def machines(self) -> list[str]:
        """Return the placement of each machine."""
        living = {"virginia": self.ecs.living(), "overflow": self.fly.living()}
        living |= {name: engine.living() for name, engine in self.engines.items()}
        return [name for name, machines in living.items() for _ in machines]

    async def close(self) -> None:
        every = (self.ecs, self.fly, *self.engines.values())
        await asyncio.gather(*(one.close() for one in every))
        assert [violation for one in every for violation in one.violations] == []


async def start(clouds: Clouds, settings: Settings) -> tuple[list[str], list[str]]:
    """Start a session; return the placement of its machine, and what its caller's timeline says of them."""
    clock = SystemClock()
    providers = {
        name: of.build(replace(context_of(settings, name, clock), http=clouds.transport(name)))
        for name, of in settings.placements.items()
    }
    made = build(settings, clock=clock, providers=providers, environment={})
    transport, url = httpx.ASGITransport(made.app), str(settings.public_url)
    try:
        async with (
            made.app.router.lifespan_context(made.app),
            httpx.AsyncClient(transport=transport, base_url=url, timeout=60) as client,
        ):
            client.headers["Authorization"] = "Bearer sk_test"
            answer = await client.post("/start", params={"wait": "started"}, json={})
            started = answer.raise_for_status().json()
            client.headers["Authorization"] = f"Bearer {started['sessionToken']}"
            events = await client.get(f"/v1/sessions/{started['sessionId']}/events")
        said = [one for one in events.raise_for_status().json()["events"] if "placement" in one["event"]]
        return clouds.machines(), [one["message"] for one in said]
    finally:
        await clouds.close()


def test_first_placement_of_the_stack_gives_the_machine(stack: Graph, settings: Settings) -> None:
    assert settings.agents["echo"].placements == ("virginia", "netherlands", "spare", "overflow-echo")
    assert asyncio.run(start(Clouds(stack, settings), settings)) == (["virginia"], [])


@pytest.mark.parametrize(
    ("full", "given", "said"),
    [
        (["virginia"], "netherlands", ["virginia gave no machine; netherlands is asked for it."]),
        (
            ["virginia", "netherlands"],
            "spare",
            [
                "virginia gave no machine; netherlands is asked for it.",
                "netherlands gave no machine; spare is asked for it.",
            ],
        ),
        (
            ["virginia", "netherlands", "spare"],
            "overflow",
            [
                "virginia gave no machine; netherlands is asked for it.",
                "netherlands gave no machine; spare is asked for it.",
                "spare gave no machine; overflow-echo is asked for it.",
            ],
        ),
    ],
)
def test_session_starts_at_the_next_cloud_where_the_others_have_no_capacity(
    stack: Graph, settings: Settings, full: list[str], given: str, said: list[str]
) -> None:
    clouds = Clouds(stack, settings)
    clouds.fill(*full)
    assert asyncio.run(start(clouds, settings)) == ([given], said)


def test_each_placement_at_google_has_an_account_of_its_own(stack: Graph, settings: Settings) -> None:
    context = {name: context_of(settings, name, SystemClock()) for name in settings.placements}
    assert {name: context[name].placement for name in context} == {name: name for name in context}
    given = json.loads(variables_of(stack)["SWITCHBOARD_COMPUTE_ENGINE_CREDENTIALS_OF"])
    emails = {name: json.loads(key)["client_email"].partition("@")[0] for name, key in given.items()}
    assert emails == {
        name: stack.inputs(f"{name}-dispatcher-account")["accountId"] for name in ("netherlands", "spare")
    }
    assert len(set(emails.values())) == 2
