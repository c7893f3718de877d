"""A session's log over HTTP: real processes that print, and placements that keep nothing to read."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dispatcher.keys import hash_of
from dispatcher.machines.process import ProcessProvider
from dispatcher.machines.provider import LOG_BYTES, LogPart, Rejected, Unreachable
from tests.dispatcher.harness import ScriptedProvider, deployment
from tests.patience import PATIENCE

SCRIPT = "#!/bin/sh\n%s\n"


def printing(directory: Path, script: str) -> ProcessProvider:
    python = directory / "python"
    python.write_text(SCRIPT % script)
    python.chmod(0o755)
    return ProcessProvider(directory / "machines", python=str(python), templates=False)


class Logged(ScriptedProvider):
    """Keeps a log, or raises what it is given."""

    said: LogPart | Exception | None = None

    async def read_log(
        self, machine_id: str, lines: int, after: int | None = None, *, ended: bool = False
    ) -> LogPart | None:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


async def started(running, **headers: str) -> str:
    answer = await running.http.post("/start", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["sessionId"]


def answer_of(tmp_path, provider, query="", until=lambda answer: True):
    async def run():
        async with deployment(tmp_path, provider=provider) as running:
            session_id = await started(running)
            async with asyncio.timeout(PATIENCE):
                while True:
                    answer = await running.http.get(f"/v1/sessions/{session_id}/logs{query}")
                    if until(answer):
                        break
                    await asyncio.sleep(0.05)
            await running.http.delete(f"/sessions/{session_id}")
            return answer

    return asyncio.run(run())


def says(words: str):
    return lambda answer: answer.status_code == 200 and words in answer.json()["lines"]


def test_log_of_a_process_has_its_last_lines(tmp_path):
    provider = printing(tmp_path, "seq 1 500; exec sleep 3600")
    answer = answer_of(tmp_path, provider, "?tail=3", says("500"))
    assert answer.json()["lines"] == ["498", "499", "500"]
    assert answer.headers["cache-control"] == "no-store"


def test_log_is_bounded_when_the_bot_prints_without_end(tmp_path):
    provider = printing(tmp_path, "head -c 5000000 /dev/zero | tr '\\0' x; echo; echo last; exec sleep 3600")
    answer = answer_of(tmp_path, provider, "?tail=1000", says("last"))
    assert len(answer.content) < LOG_BYTES + 1000


async def test_follower_gets_what_is_new_and_hears_of_the_end(tmp_path):
    """Two looks at a bot that prints in between, and one when its machine is gone."""
    more = tmp_path / "more"
    wait = f"while [ ! -e {more} ]; do sleep 0.05; done"
    provider: Any = printing(tmp_path, f"echo first; printf 'not yet'; {wait}; echo ' done'; printf last")

    async with deployment(tmp_path, provider=provider) as running, asyncio.timeout(PATIENCE):
        path = f"/v1/sessions/{await started(running)}/logs"

        async def read(after, wanted):
            while True:
                answer = await running.http.get(path, params={"after": after} if after else {})
                if answer.status_code == 200 and wanted(answer.json()):
                    return answer.json()
                await running.look(0.1)

        first = await read(None, lambda part: "first" in part["lines"])
        nothing = await read(first["next"], lambda part: True)
        more.touch()
        # The machine ends with its shell.
        rest = await read(first["next"], lambda part: part["ended"])
        nothing_more = await read(rest["next"], lambda part: True)
    assert (first["lines"], first["skippedBytes"], first["ended"]) == (["first"], 0, False)
    assert (nothing["lines"], nothing["next"]) == ([], first["next"])
    assert (rest["lines"], rest["skippedBytes"]) == (["not yet done", "last"], 0)
    assert (nothing_more["lines"], nothing_more["next"], nothing_more["ended"]) == ([], rest["next"], True)


def test_follower_is_told_how_much_it_missed(tmp_path):
    provider = printing(tmp_path, "seq 1 500; exec sleep 3600")
    answer = answer_of(tmp_path, provider, "?tail=2&after=4", says("500"))
    # 1 to 2 are before it, 3 to 498 are not among the last two.
    assert answer.json()["skippedBytes"] == len("".join(f"{number}\n" for number in range(3, 499)))
    assert answer.json()["lines"] == ["499", "500"]


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "9" * 26])
def test_after_is_refused_by_name_when_it_is_no_place(tmp_path, after):
    answer = answer_of(tmp_path, Logged(), f"?after={after}")
    assert answer.status_code == 400
    assert "after" in answer.json()["detail"]


@pytest.mark.parametrize("tail", ["0", "1001", "x"])
def test_tail_is_refused_by_name_when_out_of_range(tmp_path, tail):
    answer = answer_of(tmp_path, Logged(), f"?tail={tail}")
    assert answer.status_code == 400
    assert "tail" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("said", "status", "words"),
    [
        (None, 404, "has no log"),
        (Rejected("Fly keeps it, read it with `fly logs`"), 404, "Fly keeps it, read it with `fly logs`"),
        (Unreachable("no answer"), 503, "no answer"),
    ],
)
def test_log_says_why_when_there_is_none(tmp_path, said, status, words):
    provider = Logged()
    provider.said = said
    answer = answer_of(
        tmp_path, provider, until=lambda answer: answer.json()["detail"].startswith(("Machine", "The"))
    )
    assert answer.status_code == status
    assert words in answer.json()["detail"]


def test_log_is_elsewhere_when_the_provider_keeps_none(tmp_path):
    answer = answer_of(tmp_path, ScriptedProvider(), until=lambda answer: answer.json()["code"] != "no_log")
    assert (answer.status_code, answer.json()["code"]) == (404, "log_elsewhere")


async def test_log_of_no_session_is_404(tmp_path):
    async with deployment(tmp_path) as running:
        assert (await running.http.get("/v1/sessions/nobody/logs")).status_code == 404


@pytest.mark.parametrize(("scope", "status"), [("read", 200), ("admin", 200), ("start", 403)])
async def test_log_is_for_keys_that_read(tmp_path, scope, status):
    provider = Logged()
    provider.said = LogPart(("line",), 5)
    keys = [
        {"name": "backend", "hash": hash_of("sk_backend"), "scope": "start"},
        {"name": "other", "hash": hash_of("sk_other"), "scope": scope},
    ]

    async with deployment(tmp_path, provider=provider, keys=keys) as running:
        started = await running.http.post("/start", headers={"Authorization": "Bearer sk_backend"})
        path = f"/v1/sessions/{started.json()['sessionId']}/logs"
        token = {"Authorization": f"Bearer {started.json()['sessionToken']}"}
        assert (await running.http.get(path, headers=token)).status_code == 403
        answer = await running.http.get(path, headers={"Authorization": "Bearer sk_other"})
        assert answer.status_code == status
