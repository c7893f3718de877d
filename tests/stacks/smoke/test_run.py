"""One session of a deployed stack, against a real dispatcher with a machine that the test plays."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from bot import protocol
from dispatcher.keys import KeySettings, hash_of
from dispatcher.machines.provider import NoCapacity
from stacks.config import parse
from stacks.errors import SmokeError, exit_status
from stacks.prices import Price
from stacks.smoke import daily
from stacks.smoke.http import Session
from stacks.smoke.run import Joined, run, summary
from tests.dispatcher.harness import Deployment, deployment, eventually
from tests.patience import PATIENCE
from tests.stacks.local.test_program import REPOSITORY
from tests.stacks.planning import plan_of

KEY = "pk_for-the-smoke-test"
KEYS = (KeySettings(name="smoke", hash=hash_of(KEY), scope="start"),)
RECORD = {
    "agent": "echo",
    "transport": "webrtc",
    "state": "ended",
    "reason": "stopped",
    "message": "",
    **dict.fromkeys(("createdAt", "admittedAt", "endedAt"), "2026-01-01T00:00:00.000+00:00"),
}


async def machine_that_works(running: Deployment, here: threading.Event) -> None:
    """The session's machine takes its client, and ends when it is told to."""

    async def asked_for() -> list[str]:
        return list(running.provider.specs)

    (machine_id,) = await eventually(asked_for, bool)
    machine = await running.connect(machine_id, machine_id.removeprefix("m-"))
    running.clock.advance(20)
    await machine.hello("waiting")
    here.set()
    assert isinstance(await machine.receive(), protocol.Stop)
    await machine.send(protocol.Ended(reason="stopped", message="It was told to."))


def heard(session: Session, tell: Callable[[str], None]) -> str:
    """Stands for the caller, which `test_smoke_call.py` has: no media reaches a machine that a test plays."""
    return "a caller heard the bot"


def heard_once(here: threading.Event) -> Callable[[Session, Callable[[str], None]], str]:
    """Stand for the caller, once the machine is there."""

    def call(session: Session, tell: Callable[[str], None]) -> str:
        assert here.wait(PATIENCE), "its machine"
        return heard(session, tell)

    return call


def smoke(tmp_path: Path, key: str = KEY, **more: Any) -> tuple[Joined, list[str]]:
    """With a machine that works, unless `more` says otherwise."""
    lines: list[str] = []
    fault, here = more.pop("fault", None), threading.Event()
    calls = {"webrtc": heard_once(here)}

    async def play() -> Joined:
        async with deployment(tmp_path, key=KEY, keys=KEYS, **more) as running:
            running.provider.fault = fault
            caller = asyncio.create_task(
                asyncio.to_thread(run, running.url, key, "echo", lines.append, calls=calls)
            )
            machine = asyncio.create_task(machine_that_works(running, here))
            try:
                while not caller.done():
                    await asyncio.wait([caller], timeout=0.01)
                    running.clock.advance(0.01)
                return await caller
            finally:
                machine.cancel()
                await asyncio.gather(machine, return_exceptions=True)
                await running.settle()

    return asyncio.run(play()), lines


def test_a_session_is_started_and_ended_and_its_seconds_are_counted(tmp_path: Path) -> None:
    joined, (line,) = smoke(tmp_path)
    assert (joined.agent, joined.transport) == ("echo", "webrtc")
    assert 20 <= joined.machine_seconds < 30
    assert line.startswith(f"  session {joined.session} of echo: the start was answered after ")


def test_daily_session_says_that_no_sound_was_checked() -> None:
    lines: list[str] = []
    session = Session(httpx.Client(), "http://d", "s", "token", [])
    assert daily.call(session, lines.append) == "a bot joined"
    assert any(line.startswith("not checked: sound") for line in lines)


def test_a_dispatcher_without_room_is_a_failure_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(
        SmokeError, match=r"^no bot joined: 50\d .*\(POST http://127\.0\.0\.1:\d+/v1/public/echo/start\)"
    ):
        smoke(tmp_path, fault=NoCapacity("all machines are taken"))


def test_a_wrong_key_is_told_without_it(tmp_path: Path) -> None:
    with pytest.raises(SmokeError, match=r"401 .*; SWITCHBOARD_KEY is to be a key of scope start") as raised:
        smoke(tmp_path, key="pk_wrong")
    assert "pk_wrong" not in str(raised.value)


def test_a_dispatcher_that_does_not_answer_is_told() -> None:
    with pytest.raises(SmokeError, match=r"^POST http://127\.0\.0\.1:1/start: .*refused"):
        run("http://127.0.0.1:1", KEY)


class Faulty:
    """A dispatcher with one session, at which something goes wrong.

    Args:
        lost_starts: Starts whose answer is lost.
        refused: Methods that are answered with 500.
        failed_starts: Starts that are written, and answered with 503.
        strange_starts: Starts whose answer is this text, with the status 200.
        record: The session's record.
    """

    def __init__(
        self,
        *,
        lost_starts: int = 0,
        refused: tuple[str, ...] = (),
        failed_starts: int = 0,
        strange_starts: tuple[str, ...] = (),
        record: dict[str, Any] | None = None,
    ) -> None:
        self.lost_starts = lost_starts
        self.refused = refused
        self.failed_starts = failed_starts
        self.strange_starts = list(strange_starts)
        self.record = RECORD if record is None else record
        self.interrupted = False
        self.sessions: dict[str, str] = {}
        """Idempotency key → session."""
        self.deleted: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            key = request.headers["idempotency-key"]
            session = self.sessions.setdefault(key, f"s-{len(self.sessions)}")
            if self.lost_starts:
                self.lost_starts -= 1
                raise httpx.ReadTimeout("timed out", request=request)
            if self.failed_starts:
                self.failed_starts -= 1
                return httpx.Response(503, json={"detail": "The store does not answer."})
            if self.interrupted:
                self.interrupted = False
                raise KeyboardInterrupt
            if self.strange_starts:
                return httpx.Response(200, text=self.strange_starts.pop())
            return httpx.Response(200, json={"sessionId": session, "sessionToken": f"token-of-{session}"})
        if request.method in self.refused:
            return httpx.Response(500, json={"detail": f"broken {request.method}"})
        session = request.url.path.rpartition("/")[2]
        assert request.headers["authorization"] == f"Bearer token-of-{session}"
        if request.method == "GET":
            return httpx.Response(200, json=self.record)
        self.deleted.append(session)
        return httpx.Response(200, json={})

    def run(self, call: Callable[..., str] = heard) -> Joined:
        http = httpx.Client(transport=httpx.MockTransport(self.answer))
        return run("http://d", KEY, client=http, calls={"webrtc": call}, out=lambda _line: None)

    def fails(self) -> str:
        with pytest.raises(SmokeError) as raised:
            self.run()
        return str(raised.value)


def test_a_session_whose_answer_was_lost_is_ended() -> None:
    faulty = Faulty(lost_starts=1)
    assert faulty.fails() == "POST http://d/start: timed out"
    assert faulty.deleted == ["s-0"]
    assert len(faulty.sessions) == 1
    assert Faulty(lost_starts=2).fails().count("timed out") == 2


def test_session_is_ended_when_its_start_fails_at_the_dispatcher() -> None:
    faulty = Faulty(failed_starts=1)
    assert faulty.fails() == "no bot joined: 503 The store does not answer. (POST http://d/start)"
    assert faulty.deleted == ["s-0"]


def test_session_is_ended_when_its_start_is_interrupted() -> None:
    faulty = Faulty()
    faulty.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        faulty.run()
    assert (len(faulty.sessions), faulty.deleted) == (1, ["s-0"])


@pytest.mark.parametrize("answer", ["{}", "[]", '"started"', '{"sessionId": "s-0"}', '{"iceConfig": []}'])
def test_session_is_ended_when_the_answer_to_its_start_is_strange(answer: str) -> None:
    faulty = Faulty(strange_starts=(answer,))
    assert faulty.fails().startswith("POST http://d")
    assert faulty.deleted == ["s-0"]


@pytest.mark.parametrize(
    "error",
    [
        KeyError("sdp"),
        httpx.InvalidURL("no host"),
        RuntimeError("a fault"),
        KeyboardInterrupt(),
        SystemExit(1),
    ],
)
def test_session_is_ended_when_its_call_raises_anything(error: BaseException) -> None:
    def fails(session: Session, tell: Callable[[str], None]) -> str:
        raise error

    faulty = Faulty()
    with pytest.raises(type(error)):
        faulty.run(fails)
    assert faulty.deleted == ["s-0"]


def test_error_of_the_call_is_kept_when_the_session_does_not_end() -> None:
    def fails(session: Session, tell: Callable[[str], None]) -> str:
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault") as raised:
        Faulty(refused=("DELETE",)).run(fails)
    (note,) = raised.value.__notes__
    assert note.startswith("its session may run on until its deadline: 500 broken DELETE")


def test_interruption_says_what_may_run_on(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(session: Session, tell: Callable[[str], None]) -> str:
        raise KeyboardInterrupt

    assert exit_status(lambda: Faulty(refused=("DELETE",)).run(interrupted)) == 130
    assert capsys.readouterr().err.startswith("interrupted; its session may run on until its deadline: 500 ")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (RECORD | {"transport": "websocket"}, "the session's transport is 'websocket'; known here: webrtc"),
        ({"agent": "echo"}, "the answer has no transport, state, "),
    ],
)
def test_session_is_ended_when_its_record_is_strange(record: dict[str, Any], words: str) -> None:
    faulty = Faulty(record=record)
    assert words in faulty.fails()
    assert faulty.deleted == ["s-0"]


def test_a_session_that_does_not_end_hides_no_earlier_error() -> None:
    said = Faulty(refused=("GET", "DELETE")).fails()
    assert "broken GET" in said.partition("; and its session may run on")[0]
    assert "broken DELETE" in said
    faulty = Faulty(refused=("GET",))
    assert "broken DELETE" not in faulty.fails()
    assert faulty.deleted == ["s-0"]


def test_a_cost_that_is_not_known_is_said() -> None:
    said = summary(Joined("s", "echo", "daily", "a bot joined", 2.34, 60.0), None).splitlines()
    assert said[1].startswith("what its 60.0 s of a machine cost is not known: the stack has no ")


@pytest.mark.parametrize(
    ("kind", "cpu", "memory_mb", "per_minute"),
    [
        ("performance", 1, 2048, 0.00072),
        ("performance", 1, 1024, 0.00072),
        ("performance", 1, 4096, 0.00095),
        ("performance", 1, 8192, 0.00141),
        ("shared", 1, 2048, 0.00026),
    ],
)
def test_the_price_of_a_machine_is_that_of_the_list(
    kind: str, cpu: float, memory_mb: int, per_minute: float
) -> None:
    values = {
        "cloud": "fly",
        "agents": {"echo": {"bot": "bot/agents/echo.py", "cpu": cpu, "memoryMb": memory_mb}},
        "keys": [{"name": "web", "hash": f"sha256:{'0' * 64}", "scope": "start"}],
        "fly": {"cpuKind": kind},
    }
    text = {
        f"switchboard:{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in values.items()
    }
    config = parse(text, project="switchboard", checkout=REPOSITORY, stack="fly")
    price = plan_of(config).prices()["echo"]
    assert price.per_second * 60 == pytest.approx(per_minute, rel=0.02)
    assert Price.from_shown(json.loads(json.dumps(price.shown()))) == price
    said = summary(Joined("s", "echo", "daily", "a bot joined", 2.34, 60.0), price).splitlines()
    assert said[0] == "a bot joined in 2.3 s over daily, and its session has ended"
    assert said[1].startswith(f"it cost ${price.per_second * 60:.6f}: 60.0 s of {kind}-{cpu}x with ")


def test_prices_of_an_agent_are_in_the_order_in_which_it_asks_placements() -> None:
    values = {
        "agents": {"echo": {"bot": "bot/agents/echo.py", "placements": ["overflow", "docker"]}},
        "keys": [{"name": "web", "hash": f"sha256:{'0' * 64}", "scope": "start"}],
        "docker": {"domain": "voice.example.com"},
        "placements": {"docker": {"cloud": "docker"}, "overflow": {"cloud": "fly", "org": "personal"}},
    }
    text = {f"switchboard:{key}": json.dumps(value) for key, value in values.items()}
    text["switchboard:cloud"] = "docker"
    plan = plan_of(parse(text, project="switchboard", checkout=REPOSITORY, stack="prod"))
    found = plan.prices_by_placement()
    assert [placement for _, placement, _ in found] == ["overflow", "docker"]
    assert plan.prices()["echo"] == found[0][2]
    assert found[0][2].per_second > found[1][2].per_second == 0


def test_a_machine_of_ones_own_costs_nothing_more(tmp_path: Path) -> None:
    agents = json.dumps({"echo": {"bot": "bot/agents/echo.py"}})
    config = parse({"switchboard:agents": agents}, project="switchboard", checkout=REPOSITORY, stack="local")
    assert plan_of(config).prices()["echo"].per_second == 0
