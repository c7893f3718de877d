"""Requests and their answers, kept so that a repeated request does not run twice.

A broken connection may have lost a request or its answer; the dispatcher cannot tell which. It repeats every
request that it has no answer to over the next connection.
"""

from __future__ import annotations

from collections import OrderedDict

from bot.protocol import Request, Response

KEPT_REQUESTS = 1000
"""Limit on the ids remembered; in the few seconds of a reconnect a client makes a handful of requests."""

KEPT_BYTES = 8 * 1024 * 1024
"""Limit on the answers kept, the newest first: room for two of the largest frames."""


class Answers:
    """Remembers requests by their ids."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, Response | None] = OrderedDict()
        self._bytes = 0

    def is_new(self, request: Request) -> bool:
        """Return True if the request comes for the first time, and remember its id."""
        if request.id in self._answers:
            return False
        self._answers[request.id] = None
        if len(self._answers) > KEPT_REQUESTS:
            _, oldest = self._answers.popitem(last=False)
            self._bytes -= _size(oldest)
        return True

    def keep(self, response: Response) -> None:
        """Keep the answer, in case the request is repeated."""
        if response.id not in self._answers:
            return
        self._bytes += _size(response) - _size(self._answers[response.id])
        self._answers[response.id] = response
        self._answers.move_to_end(response.id)
        for request_id, answer in self._answers.items():
            if self._bytes <= KEPT_BYTES:
                return
            self._answers[request_id] = None
            self._bytes -= _size(answer)

    def find(self, request: Request) -> Response | None:
        """Return the answer; None if there is none yet, or if it is no longer kept."""
        return self._answers.get(request.id)


def _size(answer: Response | None) -> int:
    return 0 if answer is None else len(answer.body)
