"""`python -m stacks.gcp.tail --project PROJECT …`: print lines of Cloud Logging, and follow them.

`gcloud logging tail` does as much, but only in its beta, with packages that few have.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx

from stacks.errors import exit_status
from stacks.gcp.ending import CALL_SECONDS, GcpError, token
from stacks.shared.tail import BEGIN_SECONDS, LATE_SECONDS, Seen, follow

API = "https://logging.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/logging.read"

POLL_SECONDS = 5.0
"""Between two looks. A project has 60 calls of `entries.list` a minute ("Cloud Logging quotas")."""

SESSION_SECONDS = 30 * 86400.0
"""Part of one session's log that is shown: Cloud Logging keeps lines for 30 days by default."""

EXECUTION_LABEL = "run.googleapis.com/execution_name"
"""Label of an execution's lines ("View logs in Cloud Logging" of Cloud Run's documentation)."""

PAGE = 1000
"""Most lines of a page; the API's limit."""

MOST_PAGES = 100
"""Limit on the pages of one look; the next one goes on from there."""


class Tail:
    """Lines that a filter finds, each once.

    Args:
        call: Asks `entries.list`: its request, its answer.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        call: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        project: str,
        filter_: str,
        before: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._call, self._project, self._filter, self._now = call, project, filter_, now
        self._seen = Seen()
        self._begin = now() - before

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield VM or execution, and line, of what has come since the last call. Raises GcpError."""
        begin = datetime.fromtimestamp(self._begin, UTC).isoformat()
        asked: dict[str, Any] = {
            "resourceNames": [f"projects/{self._project}"],
            "filter": f'{self._filter} AND timestamp >= "{begin}"',
            "orderBy": "timestamp asc",
            "pageSize": PAGE,
        }
        until = self._now() - LATE_SECONDS
        for _ in range(MOST_PAGES):
            page = self._call(asked)
            for entry in page.get("entries", ()):
                key = (entry.get("timestamp", ""), entry.get("insertId", ""))
                if self._seen.is_new(key):
                    yield _machine(entry), _text(entry)
            if not (more := page.get("nextPageToken", "")):
                break
            asked["pageToken"] = more
        self._begin = max(self._begin, until)
        self._seen.forget()


def _payload(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    found = entry.get("jsonPayload")
    return found if isinstance(found, Mapping) else {}


def _machine(entry: Mapping[str, Any]) -> str:
    """Return the VM of a line of Docker's driver `gcplogs`, or the execution of a job's; empty for others."""
    labels = entry.get("labels")
    if isinstance(labels, Mapping) and (execution := labels.get(EXECUTION_LABEL)):
        return str(execution)
    instance = _payload(entry).get("instance")
    return str(instance.get("name", "")) if isinstance(instance, Mapping) else ""


def _text(entry: Mapping[str, Any]) -> str:
    return str(entry.get("textPayload") or _payload(entry).get("message", "")).rstrip("\n")


class Entries:
    """Calls of `entries.list`, with a token that is replaced when it is refused. Raises GcpError."""

    def __init__(self, client: httpx.Client, tokens: Callable[[], str]) -> None:
        self._client, self._tokens, self._token = client, tokens, ""

    def __call__(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = self._send(asked)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            self._token = ""
            answer = self._send(asked)
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not answer.is_success or not isinstance(body, dict):
            said = body.get("error", {}) if isinstance(body, dict) else {}
            words = said.get("message", "") if isinstance(said, dict) else ""
            raise GcpError(f"Cloud Logging answered {answer.status_code}: {words or 'without a message'}")
        return body

    def _send(self, asked: Mapping[str, Any]) -> httpx.Response:
        self._token = self._token or self._tokens()
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            return self._client.post("/v2/entries:list", json=dict(asked), headers=headers)
        except httpx.HTTPError as error:
            raise GcpError(f"Cloud Logging did not answer: {error}") from None


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="stacks.gcp.tail", description="Prints lines of Cloud Logging.")
    parser.add_argument("--project", required=True)
    parser.add_argument("--filter", required=True, help="in Cloud Logging's query language")
    parser.add_argument("--session", action="store_true", help="begin with all that is kept")
    parser.add_argument("--vms", action="store_true", help="put the VM or execution before each line")
    parser.add_argument("--once", action="store_true", help="print what there is, and end")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _print(options))


def _print(options: argparse.Namespace) -> None:
    with httpx.Client(base_url=API, timeout=CALL_SECONDS) as client:
        entries = Entries(client, lambda: token(client, SCOPE, "read the log"))
        before = SESSION_SECONDS if options.session else BEGIN_SECONDS
        tail = Tail(entries, options.project, options.filter, before)

        def look() -> None:
            for vm, line in tail.lines():
                print(f"{vm} {line}" if options.vms else line, flush=True)

        follow(look, POLL_SECONDS, once=options.once)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
