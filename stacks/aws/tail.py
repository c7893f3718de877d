"""`python -m stacks.aws.tail --region REGION --group GROUP`: print a log group's lines, and follow them.

`aws logs tail` does as much, but only in version 2 of the AWS CLI, which no Python package has.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from stacks.aws.ending import AwsError, client
from stacks.errors import exit_status
from stacks.shared.tail import BEGIN_SECONDS, LATE_SECONDS, Seen, follow

POLL_SECONDS = 2.0
"""Between two looks. An account has some FilterLogEvents a second, for all who look."""


class NotThereError(AwsError):
    """The log group or the log stream does not exist."""


class Tail:
    """Lines of a log group, each once.

    Args:
        logs: A client of CloudWatch Logs.
        stream: The one log stream to read; empty: all.
        text: Text that a line must have; empty: all lines.
        now: Seconds since 1970.
    """

    def __init__(
        self, logs: Any, group: str, stream: str = "", text: str = "", now: Callable[[], float] = time.time
    ) -> None:
        self._logs, self._group, self._stream, self._text, self._now = logs, group, stream, text, now
        self._seen = Seen()
        # A stream or a text names little: it is shown from the beginning.
        self._begin = 0 if stream or text else int(1000 * (now() - BEGIN_SECONDS))

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield stream and line of what has come since the last call. Raises AwsError."""
        from botocore.exceptions import BotoCoreError, ClientError

        asked: dict[str, Any] = {"logGroupName": self._group, "startTime": self._begin}
        if self._stream:
            asked["logStreamNames"] = [self._stream]
        if self._text:
            # In quotes: a hyphen in it would leave out a word.
            asked["filterPattern"] = f'"{self._text}"'
        until = int(1000 * (self._now() - LATE_SECONDS))
        try:
            for page in self._logs.get_paginator("filter_log_events").paginate(**asked):
                for event in page["events"]:
                    if self._seen.is_new(event["eventId"]):
                        yield event["logStreamName"], event["message"]
        except (BotoCoreError, ClientError) as error:
            if getattr(error, "response", {}).get("Error", {}).get("Code") == "ResourceNotFoundException":
                what = f"the log stream {self._stream} of " if self._stream else "the log group "
                raise NotThereError(
                    f"{what}{self._group} is not there: it is deleted, or nothing has been written"
                ) from None
            raise AwsError(f"the log group {self._group} cannot be read: {error}") from None
        self._begin = max(self._begin, until)
        self._seen.forget()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="stacks.aws.tail", description="Prints a log group's lines.")
    parser.add_argument("--region", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--profile", default="")
    parser.add_argument("--stream", default="", help="the lines of this log stream alone")
    parser.add_argument("--text", default="", help="the lines with this text alone")
    parser.add_argument("--tasks", action="store_true", help="put the task before each line")
    parser.add_argument("--once", action="store_true", help="print what there is, and end")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _print(options))


def _print(options: argparse.Namespace) -> None:
    logs = client(options.region, options.profile, "logs")
    tail = Tail(logs, options.group, options.stream, options.text)

    def look() -> None:
        # A task's stream is there with its first line.
        with contextlib.suppress(*([NotThereError] if options.stream and not options.once else [])):
            for stream, line in tail.lines():
                # The awslogs driver calls a stream `prefix/container/task`.
                task = f"{stream.rpartition('/')[2]} " if options.tasks else ""
                print(f"{task}{line}", flush=True)

    follow(look, POLL_SECONDS, once=options.once)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
