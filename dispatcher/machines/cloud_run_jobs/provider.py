"""The `cloud-run-jobs` provider: a machine is an execution of an agent's job.

Cloud Run takes no token by which a repeated `run` would be known, and gives an execution no name or label of
the caller's choice. So an execution's identity is in its variables, each create looks for one before it runs
another, and a machine with two executions, after a race or a lost answer, keeps the first: the others are
cancelled as soon as a list shows them.

Three deadlines hold without a dispatcher: the bot's own; `timeout`, the container's first program; and the
task's timeout. An ended execution costs nothing; it is deleted once the machine's end is on record, which
keeps the lists short.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import timedelta

from dispatcher.clock import Clock, SystemClock
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.cloud_run_jobs.client import RunApi
from dispatcher.machines.cloud_run_jobs.finder import Finder
from dispatcher.machines.cloud_run_jobs.request import Place, run_job
from dispatcher.machines.cloud_run_jobs.status import (
    Execution,
    exit_code_of,
    first,
    not_started,
    state_of,
    words_of,
)
from dispatcher.machines.provider import (
    Action,
    LogPart,
    MachineSpec,
    Preparation,
    ProviderError,
    Rejected,
)
from dispatcher.machines.removal import Removal
from dispatcher.rate_limit import Rate
from dispatcher.tasks import Background, end_tasks

log = logging.getLogger(__name__)

CREATE_RATE = Rate(2, burst=20)
"""Executions are run and cancelled under one rate of writes (`client.RATES`), and this leaves some of it."""

CREATE_SECONDS = 90.0
"""Limit on a create's wait for its container. Five to fifteen seconds are usual; with Direct VPC egress a
minute and more."""

SETTLING = timedelta(seconds=15)
"""Time until an execution whose answer was lost is listed; Cloud Run documents none."""

POLLS = (2.0, 2.0, 3.0, 5.0)
"""Seconds between two looks at an execution that starts; the last goes on."""


class CloudRunJobsProvider:
    """Machines at Cloud Run jobs."""

    name = "cloud-run-jobs"
    settling = SETTLING
    create_seconds = CREATE_SECONDS

    def __init__(self, api: RunApi, place: Place, clock: Clock | None = None) -> None:
        self._api = api
        self._place = place
        self._clock = clock or SystemClock()
        self._finder = Finder(api, place, self._clock, SETTLING.total_seconds())
        self._creating: dict[str, tuple[asyncio.Lock, int]] = {}
        """Machine → its lock, and the creates of it that are under way here."""
        self._cancelled: set[str] = set()
        """Executions that are being cancelled in the background."""
        self._removal = Removal(self._remove)
        self._background = Background(self._clock)
        self._checks: set[asyncio.Task[None]] = set()
        """Searches for second executions of machines that were created lately."""
        self._learning: asyncio.Task[None] | None = None

    @property
    def rates(self) -> Mapping[Action, Rate]:
        """Creates. Each call takes a turn of its own besides."""
        return {"create": CREATE_RATE}

    @property
    def ended(self) -> Collection[str]:
        return self._removal.ended

    def recorded(self, machine_ids: Iterable[str]) -> None:
        self._removal.told(machine_ids)

    async def prepare(self, preparations: Iterable[Preparation]) -> None:
        """List the machines, and so find out whether the credentials are good for the jobs."""
        self._learning = asyncio.create_task(self._learn())

    async def close(self) -> None:
        if self._learning is not None:
            await end_tasks(self._learning)
        if self._checks:
            await end_tasks(*self._checks)
        await self._removal.close()
        await self._background.close(0)
        await self._finder.close()
        await self._api.close()

    async def create(self, spec: MachineSpec) -> MachineStatus:
        execution = await self._execution(spec)
        execution = await self._begun(spec, execution)
        if (error := not_started(execution)) is not None:
            raise error
        return MachineStatus(spec.id, state_of(execution))

    async def get(self, machine_id: str) -> MachineStatus | None:
        found = await self._finder.look(machine_id)
        if (execution := first(found)) is None:
            return None
        if (state := state_of(execution)) is not MachineState.gone:
            return MachineStatus(machine_id, state)
        words = words_of(execution)
        code = exit_code_of(execution, await self._api.tasks(execution["name"]))
        output = f"Cloud Run says: {words}\n" if words and code is None else ""
        return MachineStatus(machine_id, state, code, output=output)

    async def list(self) -> AsyncIterator[MachineStatus]:
        """Yield every machine of all jobs that is not gone.

        The error of a job that cannot be asked is raised at the end, after the machines of the others.
        """
        machines, failed = await self._finder.machines()
        gone: list[str] = []
        for machine_id, executions in machines.items():
            chosen = self._chosen(machine_id, executions)
            if (state := state_of(chosen)) is MachineState.gone:
                gone.append(machine_id)
            else:
                yield MachineStatus(machine_id, state)
        if failed is not None:
            raise failed
        self._removal.listed(gone)

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        """Cancel the machine's executions. Cloud Run kills what has not ended after ten seconds."""
        told: set[str] = set()
        # Another dispatcher may have begun one that is not remembered here. What is known ends first: a list
        # may fail.
        for look in (self._finder.look, self._finder.search):
            for execution in await look(machine_id):
                name = execution["name"]
                if name not in told and state_of(execution) is not MachineState.gone:
                    told.add(name)
                    await self._api.cancel(name)

    async def read_log(
        self, machine_id: str, lines: int, after: int | None = None, *, ended: bool = False
    ) -> LogPart | None:
        """Say where the log is: the Cloud Run API has none."""
        execution = first(await self._finder.look(machine_id))
        if execution is None:
            raise Rejected(
                "Cloud Run no longer knows the execution; Cloud Logging keeps its lines for 30 days"
            )
        name = execution["name"].rpartition("/")[2]
        raise Rejected(
            "Cloud Logging keeps it, read it with `gcloud logging read "
            f'\'labels."run.googleapis.com/execution_name"="{name}"\' --project {self._place.project}`'
        )

    async def _execution(self, spec: MachineSpec) -> Execution:
        """Return the machine's execution; run one if there is none."""
        job, body = self._place.job(spec.agent), run_job(self._place, spec)
        lock, creates = self._creating.get(spec.id, (asyncio.Lock(), 0))
        self._creating[spec.id] = (lock, creates + 1)
        try:
            async with lock:
                if (found := first(await self._finder.begun(spec.id))) is not None:
                    return found
                made = self._finder.given(spec.id, await self._api.run(job, body))
        finally:
            _, creates = self._creating.pop(spec.id)
            if creates > 1:
                self._creating[spec.id] = (lock, creates - 1)
        check = asyncio.create_task(self._keep_one(spec.id))
        self._checks.add(check)
        check.add_done_callback(self._checks.discard)
        return made

    async def _begun(self, spec: MachineSpec, execution: Execution) -> Execution:
        """Return the execution once its container runs or is over, or as it is when the answer is due."""
        until = min(spec.answer_by, self._clock.now() + CREATE_SECONDS)
        looks = 0
        while state_of(execution) is MachineState.requested:
            pause = POLLS[min(looks, len(POLLS) - 1)]
            looks += 1
            if self._clock.now() + pause >= until:
                break
            await self._clock.sleep(pause)
            try:
                shown = await self._api.show(execution["name"])
            except ProviderError as error:
                log.debug("machine %s: its execution could not be looked at: %s", spec.id, error)
                continue
            if shown is not None:
                execution = self._finder.remember(spec.id, shown)
        return execution

    async def _keep_one(self, machine_id: str) -> None:
        """Cancel all executions of a machine but the first, now and once every list shows them."""
        for pause in (0.0, SETTLING.total_seconds()):
            await self._clock.sleep(pause)
            try:
                executions = await self._finder.search(machine_id)
            except ProviderError as error:
                # The next list sees to it.
                log.debug("machine %s: its executions could not be listed: %s", machine_id, error)
            else:
                if executions:
                    self._chosen(machine_id, executions)

    def _chosen(self, machine_id: str, executions: Sequence[Execution]) -> Execution:
        """Return the execution that the machine is, and cancel the others in the background."""
        chosen = first(executions)
        if chosen is None:
            raise AssertionError("a machine in a list has an execution")
        for execution in executions:
            name = execution["name"]
            if execution is chosen or state_of(execution) is MachineState.gone or name in self._cancelled:
                continue
            self._cancelled.add(name)
            log.warning("machine %s runs twice: %s is cancelled", machine_id, name)
            self._background.spawn(self._cancel(machine_id, name))
        return chosen

    async def _cancel(self, machine_id: str, name: str) -> None:
        try:
            await self._api.cancel(name)
        except ProviderError as error:
            log.warning("machine %s: %s cannot be cancelled: %s", machine_id, name, error)
        finally:
            self._cancelled.discard(name)

    async def _remove(self, machine_id: str) -> None:
        """Delete what is left of a machine that has ended."""
        for execution in await self._finder.look(machine_id):
            if state_of(execution) is MachineState.gone:
                await self._api.delete(execution["name"])

    async def _learn(self) -> None:
        try:
            count = len([status async for status in self.list()])
        except ProviderError as error:
            log.warning("the executions in %s could not be listed: %s", self._place.region, error)
        else:
            log.info("Cloud Run: %d machines in %s", count, self._place.region)
