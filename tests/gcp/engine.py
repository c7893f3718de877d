"""A fake of Compute Engine: one project, its instance templates, and VMs in zones."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dispatcher.clock import Clock
from tests.fly.processes import Scripted, Start
from tests.fly.wire import Call
from tests.gcp import faults
from tests.gcp.faults import Refusal
from tests.gcp.instances import Times, Vm, moment
from tests.gcp.server import Handler, Server

PROJECT = "my-project"
ZONES = ("europe-west4-a", "europe-west4-b", "europe-west4-c")
LONGEST_WAIT = 120.0

TEMPLATE: dict[str, Any] = {
    "machineType": "e2-standard-2",
    "labels": {"agent": "echo", "stack": "tests"},
    "tags": {"items": ["bots"]},
    "metadata": {
        "items": [
            {"key": "user-data", "value": "#cloud-config\n"},
            {"key": "enable-guest-attributes", "value": "TRUE"},
        ]
    },
    "scheduling": {"onHostMaintenance": "MIGRATE", "automaticRestart": True},
    "networkInterfaces": [
        {
            "network": f"projects/{PROJECT}/global/networks/bots",
            "subnetwork": f"projects/{PROJECT}/regions/europe-west4/subnetworks/bots",
            "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "name": "external"}],
        }
    ],
    "serviceAccounts": [
        {
            "email": f"bots@{PROJECT}.iam.gserviceaccount.com",
            "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
        }
    ],
}
"""Properties of a template, as the stacks make it."""


@dataclass
class Pending:
    """A zone's operation."""

    name: str
    number: int
    zone: str
    kind: str
    target: str
    began_at: float
    request_id: str = ""
    errors: list[dict[str, Any]] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    ended_at: float = 0.0

    def shown(self) -> dict[str, Any]:
        base = f"https://www.googleapis.com/compute/v1/projects/{PROJECT}/zones/{self.zone}"
        over = self.done.is_set()
        made: dict[str, Any] = {
            "kind": "compute#operation",
            "id": str(self.number),
            "name": self.name,
            "zone": base,
            "operationType": self.kind,
            "targetLink": f"{base}/instances/{self.target}",
            "selfLink": f"{base}/operations/{self.name}",
            "status": "DONE" if over else "RUNNING",
            "progress": 100 if over else 0,
            "insertTime": moment(self.began_at),
            "startTime": moment(self.began_at),
        }
        if self.request_id:
            made["clientOperationId"] = self.request_id
        if over:
            made["endTime"] = moment(self.ended_at)
            if self.errors:
                made |= {"error": {"errors": self.errors}, "httpErrorStatusCode": 503}
        return made


class FakeEngine(Server):
    """One project.

    Attributes:
        templates: Path after the project → properties.
        room: Zone → VMs that fit there; unlimited where nothing is said.
        insert_errors: Zone → errors of its next creations.
        lag_seconds: How long a new VM is not shown yet.
        filters: False: filters of a list are ignored.
        mixed_up: VM's name → name of the VM that is shown in its place.
        away: Zones that do not answer.
    """

    file = "compute.v1.json"
    over_rate = faults.RATE_LIMITED

    def __init__(
        self, clock: Clock | None = None, *, start: Start = Scripted, times: Times | None = None
    ) -> None:
        super().__init__(clock)
        self.start = start
        self.times = times or Times()
        self.templates = {"global/instanceTemplates/echo-1": TEMPLATE}
        self.room: dict[str, int] = {}
        self.insert_errors: dict[str, deque[dict[str, Any]]] = defaultdict(deque)
        self.lag_seconds = 0.0
        self.filters = True
        self.mixed_up: dict[str, str] = {}
        self.away: set[str] = set()
        self.vms: list[Vm] = []
        self._operations: dict[str, Pending] = {}
        self._requests: dict[tuple[str, str], Pending] = {}
        self._numbers = itertools.count(1)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return {
            "compute.instanceTemplates.get": self._template,
            "compute.regionInstanceTemplates.get": self._template,
            "compute.instances.insert": self._insert,
            "compute.instances.get": self._get,
            "compute.instances.list": self._list,
            "compute.instances.delete": self._delete,
            "compute.instances.suspend": self._suspend,
            "compute.instances.resume": self._resume,
            "compute.instances.getGuestAttributes": self._guest_attributes,
            "compute.zoneOperations.get": lambda call: self._operation(call).shown(),
            "compute.zoneOperations.wait": self._wait,
        }

    def living(self, zone: str = "") -> list[Vm]:
        """The VMs that exist."""
        return [vm for vm in self.vms if not vm.gone and zone in ("", vm.zone)]

    def running(self) -> list[str]:
        """The names of VMs whose bot runs."""
        return [vm.name for vm in self.vms if vm.runs]

    def one(self, name: str) -> Vm:
        """The VM of this name that exists."""
        return next(vm for vm in self.living() if vm.name == name)

    def _template(self, call: Call) -> dict[str, Any]:
        path = call.path.partition(f"/projects/{PROJECT}/")[2]
        if path not in self.templates:
            raise Refusal(404, f"The resource 'projects/{PROJECT}/{path}' was not found", "notFound")
        name = path.rpartition("/")[2]
        return {
            "kind": "compute#instanceTemplate",
            "id": "1",
            "name": name,
            "properties": self.templates[path],
            "selfLink": f"https://www.googleapis.com/compute/v1/projects/{PROJECT}/{path}",
        }

    def _insert(self, call: Call) -> dict[str, Any]:
        zone, body = self._zone(call), call.body
        request_id = call.query.get("requestId", [""])[0]
        if (before := self._requests.get((zone, request_id))) is not None and request_id:
            return before.shown()
        source = call.query.get("sourceInstanceTemplate", [""])[0].removeprefix(f"projects/{PROJECT}/")
        if source not in self.templates:
            raise Refusal(404, f"The resource 'projects/{PROJECT}/{source}' was not found", "notFound")
        name = body["name"]
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name):
            raise Refusal(400, f"Invalid value for field 'resource.name': '{name}'.", "invalid")
        if any(vm.name == name for vm in self.living(zone)):
            words = f"The resource 'projects/{PROJECT}/zones/{zone}/instances/{name}' already exists"
            raise Refusal(409, words, "alreadyExists")
        shape = merged(self.templates[source], body)
        self._check_scheduling(shape["scheduling"])
        vm = Vm(name, zone, next(self._numbers), shape, source, self.clock, self.clock.now())
        operation = self._begin("insert", zone, name, request_id)
        if self.insert_errors[zone]:
            operation.errors = [self.insert_errors[zone].popleft()]
        elif len(self.living(zone)) >= self.room.get(zone, 1 << 30):
            operation.errors = [faults.stockout(zone)]
        self.vms.append(vm)
        vm.life = self.task(self._create(vm, operation))
        return operation.shown()

    async def _create(self, vm: Vm, operation: Pending) -> None:
        await self.clock.sleep(self.times.stockout if operation.errors else self.times.provision)
        if operation.errors:
            vm.gone = True
        else:
            vm.status = "STAGING"
            await self.clock.sleep(self.times.stage)
            vm.status, vm.ran_since = "RUNNING", self.clock.now()
        self._finish(operation)
        if not vm.gone:
            await vm.live(self.start, self.times)

    def _get(self, call: Call) -> dict[str, Any]:
        return self._vm(call).shown(PROJECT)

    def _list(self, call: Call) -> dict[str, Any]:
        zone = self._zone(call)
        wanted = dict(re.findall(r'labels\.([a-z-]+)="([^"]*)"', call.query.get("filter", [""])[0]))
        found = [vm for vm in self.living(zone) if not self._is_new(vm)]
        if self.filters:
            found = [vm for vm in found if wanted.items() <= vm.shape["labels"].items()]
        first, most = (
            int(call.query.get("pageToken", ["0"])[0]),
            int(call.query.get("maxResults", ["500"])[0]),
        )
        page: dict[str, Any] = {
            "kind": "compute#instanceList",
            "id": f"projects/{PROJECT}/zones/{zone}/instances",
        }
        # An empty page has no items.
        if shown := [vm.shown(PROJECT) for vm in found[first : first + most]]:
            page["items"] = shown
        return page | ({"nextPageToken": str(first + most)} if first + most < len(found) else {})

    def _delete(self, call: Call) -> dict[str, Any]:
        vm = self._vm(call, is_shown=False)
        vm.delete()
        operation = self._begin("delete", vm.zone, vm.name)

        async def go_on() -> None:
            while not vm.gone:
                await self.clock.sleep(0.5)
            self._finish(operation)

        self.task(go_on())
        return operation.shown()

    def _suspend(self, call: Call) -> dict[str, Any]:
        return self._step(call, "suspend", "RUNNING", "SUSPENDING", "SUSPENDED", self.times.suspend)

    def _resume(self, call: Call) -> dict[str, Any]:
        return self._step(call, "resume", "SUSPENDED", "PROVISIONING", "RUNNING", self.times.resume)

    def _step(
        self, call: Call, kind: str, since: str, meanwhile: str, until: str, seconds: float
    ) -> dict[str, Any]:
        vm = self._vm(call)
        if vm.status != since:
            words = f"Instance is in {vm.status} state. Instance needs to be in {since} state."
            raise Refusal(400, words, "invalidResourceUsage")
        operation, vm.status = self._begin(kind, vm.zone, vm.name), meanwhile

        async def go_on() -> None:
            await self.clock.sleep(seconds)
            vm.status = until
            self._finish(operation)

        self.task(go_on())
        return operation.shown()

    def _guest_attributes(self, call: Call) -> dict[str, Any]:
        vm = self._vm(call)
        namespace, _, key = call.query["queryPath"][0].partition("/")
        if (value := vm.attributes.get(namespace, {}).get(key)) is None:
            raise Refusal(
                404, "The resource 'guestAttributes' of type 'Guest Attribute' was not found.", "notFound"
            )
        items = [{"namespace": namespace, "key": key, "value": value}]
        return {
            "kind": "compute#guestAttributes",
            "queryPath": f"{namespace}/{key}",
            "queryValue": {"items": items},
        }

    async def _wait(self, call: Call) -> dict[str, Any]:
        operation = self._operation(call)
        done = asyncio.ensure_future(operation.done.wait())
        timer = asyncio.ensure_future(self.clock.sleep(LONGEST_WAIT))
        await asyncio.wait({done, timer}, return_when=asyncio.FIRST_COMPLETED)
        done.cancel()
        timer.cancel()
        return operation.shown()

    def _operation(self, call: Call) -> Pending:
        self._zone(call)
        if (found := self._operations.get(call.params["operation"])) is None:
            raise Refusal(404, "The resource 'operation' was not found", "notFound")
        return found

    def _begin(self, kind: str, zone: str, target: str, request_id: str = "") -> Pending:
        number = next(self._numbers)
        operation = Pending(
            f"operation-{number:08x}", number, zone, kind, target, self.clock.now(), request_id
        )
        self._operations[operation.name] = operation
        if request_id:
            self._requests[zone, request_id] = operation
        return operation

    def _finish(self, operation: Pending) -> None:
        operation.ended_at = self.clock.now()
        operation.done.set()

    def _zone(self, call: Call) -> str:
        zone = call.params["zone"]
        if zone in self.away:
            raise Refusal(503, "Internal error. Please try again.", "backendError")
        if zone not in ZONES:
            raise Refusal(400, f"Invalid value for field 'zone': '{zone}'. Unknown zone.", "invalid")
        return zone

    def _vm(self, call: Call, *, is_shown: bool = True) -> Vm:
        zone, name = self._zone(call), call.params["instance"]
        if (instead := self.mixed_up.get(name)) is not None:
            return next(vm for vm in reversed(self.vms) if vm.name == instead)
        for vm in self.living(zone):
            if vm.name == name and not (is_shown and self._is_new(vm)):
                return vm
        words = f"The resource 'projects/{PROJECT}/zones/{zone}/instances/{name}' was not found"
        raise Refusal(404, words, "notFound")

    def _is_new(self, vm: Vm) -> bool:
        return self.clock.now() < vm.created_at + self.lag_seconds

    def _check_scheduling(self, scheduling: Mapping[str, Any]) -> None:
        """Check what Compute Engine checks: "Limit the run time of a VM", "Create and use Spot VMs"."""
        limit = scheduling.get("maxRunDuration")
        if limit is not None and not 30 <= int(limit["seconds"]) <= 120 * 86400:
            raise Refusal(400, "Invalid value for field 'resource.scheduling.maxRunDuration'.", "invalid")
        if scheduling.get("provisioningModel") == "SPOT":
            if scheduling.get("automaticRestart", True) or scheduling.get("onHostMaintenance") != "TERMINATE":
                raise Refusal(400, "Scheduling must have automaticRestart be false when Spot.", "badRequest")
        elif "instanceTerminationAction" in scheduling and limit is None:
            raise Refusal(400, "instanceTerminationAction needs a Spot VM or a limit.", "badRequest")


def merged(given: Any, patch: Any) -> Any:
    """Return a JSON merge patch applied (RFC 7396): objects merge, all else is replaced."""
    if not isinstance(patch, dict):
        return patch
    made = dict(given) if isinstance(given, dict) else {}
    for name, value in patch.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = merged(made.get(name), value)
    return made
