"""A call's way through a fake of one of Google's APIs: token, faults, quotas, and the discovery document."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dispatcher.clock import Clock, SystemClock
from tests.fly.faults import Fault, Faults
from tests.fly.wire import Answer, Call, Dropped
from tests.gcp.discovery import document
from tests.gcp.faults import Refusal, error

Handler = Callable[[Call], Any]

TOKEN = "ya29.good"


@dataclass
class Made:
    """A call that was made."""

    method: str
    params: Mapping[str, str]
    query: Mapping[str, list[str]]
    body: Any
    at: float
    status: int = 0
    """0: none was given."""


class Server:
    """One API.

    Attributes:
        tokens: Access tokens that are good.
        latency: Seconds before every answer.
        validates: False: requests and answers are not held to the document, which takes some time.
        rates: Method → calls in each minute; a method without one is unlimited.
        calls: Every call with a good token.
        violations: What was sent or answered and the document does not know: there must be none.
    """

    file: str
    over_rate: Fault

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.tokens = {TOKEN}
        self.latency = 0.0
        self.validates = True
        self.rates: dict[str, int] = {}
        self.faults = Faults()
        self.calls: list[Made] = []
        self.violations: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """Id of a method → its handler. A handler may be asynchronous."""
        raise NotImplementedError

    def count(self, method: str) -> int:
        """Count the calls of a method, by the end of its id."""
        return sum(one.method.endswith(method) for one in self.calls)

    def task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End what goes on."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def handle(self, call: Call) -> Answer:
        described = document(self.file)
        found = described.find(call.method, call.path)
        if found is None:
            self.violations.append(f"there is no method {call.method} {call.path}")
            return error(404, "Not found.")
        method, params = found
        if call.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return error(
                401, "Request had invalid authentication credentials.", "authError", "UNAUTHENTICATED"
            )
        made = Made(method.id, params, call.query, call.body, self.clock.now())
        self.calls.append(made)
        if self.validates:
            problems = described.request_problems(method, params, call.query, call.body)
            self.violations += problems
        answer = await self._answer(method.id, replace(call, operation=method.id, params=params))
        made.status = answer.status
        if self.validates and answer.status < 400:
            self.violations += [
                f"the fake: {one}" for one in described.answer_problems(method, answer.body or {})
            ]
        return answer

    async def _answer(self, method: str, call: Call) -> Answer:
        fault = self.faults.next(method) or Fault()
        if self.latency + fault.after > 0:
            await self.clock.sleep(self.latency + fault.after)
        if fault.lose == "request":
            raise Dropped
        if fault.answer is not None:
            return fault.answer
        if self._is_over_rate(method):
            assert self.over_rate.answer is not None
            return self.over_rate.answer
        try:
            given = self.handlers[method](call)
            answer = Answer(200, await given if asyncio.iscoroutine(given) else given)
        except Refusal as refusal:
            answer = refusal.answer
        if fault.lose == "reply":
            raise Dropped
        return answer

    def _is_over_rate(self, method: str) -> bool:
        """Rate quotas are refilled at the start of each minute."""
        if (limit := self.rates.get(method)) is None:
            return False
        minute = self.clock.now() // 60
        return sum(one.method == method and one.at // 60 == minute for one in self.calls) > limit
