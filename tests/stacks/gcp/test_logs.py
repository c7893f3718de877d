"""`make logs` of a `gcp` stack: lines of Cloud Logging, at a fake of `entries.list` (Logging API v2)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from stacks.gcp.ending import GcpError
from stacks.gcp.logs import GcpLogs
from stacks.gcp.tail import MOST_PAGES, Entries, Tail
from stacks.log_commands import tool_of
from stacks.log_sources import Source
from stacks.shared.tail import BEGIN_SECONDS

LOG = "gcloud run services logs read prod-dispatcher --project voice-1234 --region us-central1"
SESSION = "5f0c1d2e-0a1b-4c2d-8e3f-405162738495"
NOW = 1_800_000_000.0


class Logging:
    """Lines, two on a page."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.good = "token-1"
        self.endless = False

    def write(self, ago: float, vm: str, text: str) -> None:
        stamp = datetime.fromtimestamp(NOW - ago, UTC).isoformat()
        payload = {"instance": {"name": vm}, "message": text}
        self.entries.append({"insertId": str(len(self.entries)), "timestamp": stamp, "jsonPayload": payload})

    def handle(self, request: httpx.Request) -> httpx.Response:
        if request.headers["authorization"] != f"Bearer {self.good}":
            return httpx.Response(401, json={"error": {"message": "the token expired"}})
        asked = json.loads(request.content)
        self.asked.append(asked)
        begin = asked["filter"].partition('timestamp >= "')[2].rstrip('"')
        found = sorted(
            (one for one in self.entries if one["timestamp"] >= begin), key=lambda one: one["timestamp"]
        )
        at = int(asked.get("pageToken", 0))
        more = {"nextPageToken": str(at + 2)} if self.endless or at + 2 < len(found) else {}
        return httpx.Response(200, json={"entries": found[at : at + 2], **more})

    def client(self) -> httpx.Client:
        return httpx.Client(base_url="http://logging.test", transport=httpx.MockTransport(self.handle))


def tail(logging: Logging, tokens: list[str] | None = None) -> Tail:
    given = tokens or ["token-1"]
    return Tail(
        Entries(logging.client(), lambda: given.pop(0)), "voice-1234", "f", BEGIN_SECONDS, lambda: NOW
    )


def filter_of(source: Source) -> str:
    words = list(source.words)
    return words[words.index("--filter") + 1]


def test_line_is_printed_once_though_it_is_looked_at_again() -> None:
    logging = Logging()
    logging.write(2 * BEGIN_SECONDS, "prod-m-0", "long ago")
    for number in range(3):
        logging.write(30 - number, "prod-m-1", f"line {number}")
    shown = tail(logging)
    assert list(shown.lines()) == [("prod-m-1", f"line {number}") for number in range(3)]
    logging.write(20, "prod-m-1", "late")
    assert list(shown.lines()) == [("prod-m-1", "late")]
    assert logging.asked[0]["resourceNames"] == ["projects/voice-1234"]


def test_token_that_expires_is_replaced() -> None:
    logging = Logging()
    logging.write(1, "prod-m-1", "hello")
    shown = tail(logging, ["expired", "token-1"])
    assert list(shown.lines()) == [("prod-m-1", "hello")]


def test_refusal_is_told_in_a_line() -> None:
    with pytest.raises(GcpError, match="Cloud Logging answered 401: the token expired"):
        list(tail(Logging(), ["bad", "bad"]).lines())


def test_pages_without_end_end_a_look() -> None:
    logging = Logging()
    logging.endless = True
    assert list(tail(logging).lines()) == []
    assert len(logging.asked) == MOST_PAGES


def test_tool_shows_the_service_and_each_placements_vms() -> None:
    tool = tool_of(LOG, ["voice-1234:prod", "voice-1234:prod-london"])
    assert 'service_name="prod-dispatcher"' in filter_of(tool.dispatcher("", once=True))
    found = {one.name: filter_of(one) for one in tool.bots("", first=True, once=True)}
    assert found["prod"].endswith('instance.name=~"^prod-m-"')
    assert found["prod-london"].endswith('instance.name=~"^prod-london-m-"')


def test_session_has_its_own_vm_and_the_dispatchers_lines_about_it() -> None:
    tool = tool_of(LOG, ["voice-1234:prod"])
    assert filter_of(tool.dispatcher(SESSION, once=True)).endswith(f'AND "{SESSION}"')
    (source,) = tool.bots(SESSION, first=True, once=True)
    assert (source.name, source.words[-2:]) == (f"m-{SESSION}", ["--session", "--once"])
    assert f'"^prod-m-{SESSION}"' in filter_of(source)


def test_session_without_a_vm_has_the_lines_of_its_executions() -> None:
    asked: list[tuple[str, ...]] = []

    def find(*words: str) -> list[str]:
        asked.append(words)
        return ["prod-j-phone-x7k2p"]

    tool = GcpLogs(LOG.split(), ["voice-1234:us-central1/prod"], find)
    (source,) = tool.bots(SESSION, first=True, once=True)
    assert asked == [("voice-1234", "us-central1", "prod", f"m-{SESSION}")]
    assert source.name == f"m-{SESSION}"
    assert filter_of(source).endswith('"run.googleapis.com/execution_name"="prod-j-phone-x7k2p"')
    (every,) = tool.bots("", first=True, once=True)
    assert filter_of(every).endswith('resource.labels.job_name=~"^prod-j-"')


def test_line_of_an_execution_is_shown_with_its_name() -> None:
    logging = Logging()
    logging.write(1, "", "")
    logging.entries[0].pop("jsonPayload")
    logging.entries[0] |= {
        "textPayload": "hello",
        "labels": {"run.googleapis.com/execution_name": "prod-j-phone-x7k2p"},
    }
    assert list(tail(logging).lines()) == [("prod-j-phone-x7k2p", "hello")]


def test_bots_of_a_host_elsewhere_are_shown_too() -> None:
    said: list[Any] = []
    tool = tool_of(
        "docker --host unix:///x logs d", [], {"gcp": ["voice-1234:prod"]}, lambda *line: said.append(line)
    )
    assert said == []
    assert tool.look_seconds < 60
