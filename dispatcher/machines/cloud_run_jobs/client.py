"""Calls of the Cloud Run Admin API that the provider makes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from dispatcher.machines.cloud_run_jobs.status import Execution
from dispatcher.machines.google.api import GoogleApi, Kind
from dispatcher.machines.google.shapes import EXECUTION, EXECUTIONS, TASKS, shaped
from dispatcher.machines.provider import Rejected, Unreachable
from dispatcher.rate_limit import Rate

RATES: Mapping[Kind, Rate] = {"read": Rate(20, burst=60), "write": Rate(3, burst=30)}
"""Turns of a dispatcher's calls. "Cloud Run quotas" counts job runs and other writes of a project and region
by the minute; the numbers differ between regions, and a call over them is answered with 429."""

PAGE = 100

MOST_PAGES = 1000
"""Limit on the pages of one list: each job keeps 1,000 ended executions, and a region runs 1,000 at once."""


class RunApi:
    """One project and region. Every method raises `ProviderError`."""

    def __init__(self, api: GoogleApi) -> None:
        self._api = api

    async def close(self) -> None:
        await self._api.close()

    async def run(self, job: str, body: Mapping[str, Any]) -> Execution:
        """Run a job; return the execution. A second call runs a second one."""
        operation = (await self._api.call("write", "POST", f"{job}:run", json=body)).body
        execution = shaped(EXECUTION, operation.get("metadata"), f"the execution of {job}")
        if not execution["name"].startswith(f"{job}/executions/"):
            raise Unreachable(f"Cloud Run ran {job} and shows no execution of it: {execution['name']}")
        return execution

    async def show(self, name: str) -> Execution | None:
        """Return an execution; None if there is none of this name."""
        answer = await self._api.call("read", "GET", name, expected=(404,))
        if not answer.ok:
            return None
        shown = shaped(EXECUTION, answer.body, name)
        if shown["name"] != name:
            raise Unreachable(f"Cloud Run showed {shown['name']} when asked for {name}")
        return shown

    async def pages(self, job: str) -> AsyncGenerator[list[Execution], None]:
        """Yield a job's executions, also ended ones, a page at a time. The API has no filter.

        Args:
            job: Its name; with `-` in the place of the last part those of all jobs of the region.
        """
        token = ""
        for _ in range(MOST_PAGES):
            params = [("pageSize", str(PAGE))] + ([("pageToken", token)] if token else [])
            answer = await self._api.call("read", "GET", f"{job}/executions", params=params)
            page = shaped(EXECUTIONS, answer.body, f"the list of executions of {job}")
            yield page.get("executions", [])
            if not (token := page.get("nextPageToken", "")):
                return
        raise Unreachable(f"{job} has more executions than {MOST_PAGES} pages show")

    async def tasks(self, execution: str) -> list[Mapping[str, Any]]:
        """Return an execution's tasks: one, as the job has it."""
        params = (("pageSize", "1"),)
        answer = await self._api.call("read", "GET", f"{execution}/tasks", params=params, expected=(404,))
        shown = shaped(TASKS, answer.body if answer.ok else {}, f"the tasks of {execution}")
        return shown.get("tasks", [])

    async def cancel(self, execution: str) -> None:
        """Cancel an execution: its container gets SIGTERM, and SIGKILL ten seconds later.

        Does nothing if it is over or gone.
        """
        try:
            await self._api.call("write", "POST", f"{execution}:cancel", json={}, expected=(404,))
        except Rejected:
            shown = await self.show(execution)
            if shown is not None and not shown.get("completionTime"):
                raise

    async def delete(self, execution: str) -> None:
        """Delete an ended execution. Does nothing if it is gone."""
        await self._api.call("write", "DELETE", execution, expected=(404,))
