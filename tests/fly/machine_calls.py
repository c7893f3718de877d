"""The operations on machines."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Any

from tests.fly.machines import Lease, Machine
from tests.fly.wire import Answer, Call, Refusal

if TYPE_CHECKING:
    from tests.fly.fake import FakeFly

OK = Answer(200, {"ok": True})

LONGEST_WAIT = 60
"""Seconds; so long does a wait last that names no time."""

LARGEST_EVENTS = 50

STATES_OF_A_WAIT = ("started", "stopped", "suspended", "destroyed", "failed", "settled")

REGIONS = ("iad", "ord", "dfw", "sjc", "yyz", "gru", "lhr", "ams", "fra", "nrt", "sin", "syd")
ALIASES = {
    "any": REGIONS,
    "us": ("iad", "ord", "dfw", "sjc"),
    "na": ("iad", "ord", "dfw", "sjc", "yyz"),
    "sa": ("gru",),
    "eu": ("lhr", "ams", "fra"),
}

GUESTS = {
    # kind → CPUs that there are, and the least (it is the step, too) and the most memory of each, in MiB:
    # Fly's guide "Machine sizing", and the presets of its pricing page.
    "shared": ((1, 2, 4, 6, 8), 256, 2048),
    "performance": ((1, 2, 4, 6, 8, 10, 12, 14, 16), 2048, 8192),
}


async def create(fake: FakeFly, call: Call) -> Answer:
    app = fake.app_of(call)
    body = call.body
    config = _checked(body.get("config"))
    if fake.images is not None and config["image"] not in fake.images:
        raise Refusal(400, f"failed to get manifest {config['image']}: MANIFEST_UNKNOWN: manifest unknown")
    name = body.get("name") or f"machine-{fake.new_id()}"
    _check_name(fake, app.name, name)
    if fake.machine_limit is not None and len(fake.living()) >= fake.machine_limit:
        raise Refusal(422, "Your organization has reached its machine limit. Please contact billing@fly.io")
    region = _region(fake, body.get("region", "any"))
    machine = Machine(fake, app, name, region, config, bool(body.get("skip_launch")))
    machine.cordoned = bool(body.get("skip_service_registration"))
    app.machines[machine.id] = machine
    if body.get("lease_ttl"):
        machine.lease = Lease(fake.new_id(), fake.clock.now() + body["lease_ttl"], "")
        return Answer(200, {**machine.shown(), "nonce": machine.lease.nonce})
    return Answer(200, fake.shown(machine))


async def listed(fake: FakeFly, call: Call) -> Answer:
    newest = fake.clock.now() - fake.list_lag_seconds
    states, regions = call.values("state"), call.values("region")
    filters = {name.partition(".")[2]: values[-1] for name, values in call.query.items() if "." in name}
    if not fake.filters:
        filters = {}
    found = [
        fake.shown(machine)
        for machine in fake.app_of(call).machines.values()
        if machine.created_at <= newest
        and (call.flag("include_deleted") or not machine.gone)
        and (not states or machine.state in states)
        and (not regions or machine.region in regions)
        and all(machine.metadata.get(key) == value for key, value in filters.items())
    ]
    if call.flag("summary"):
        left_out = ("config", "checks", "events", "host_status", "nonce")
        found = [{key: value for key, value in one.items() if key not in left_out} for one in found]
    return Answer(200, found)


async def show(fake: FakeFly, call: Call) -> Answer:
    return Answer(200, fake.shown(fake.machine_of(call)))


async def update(fake: FakeFly, call: Call) -> Answer:
    machine = _leased(fake, call)
    config = _checked(call.body.get("config"))
    if config.get("mounts", []) != machine.config.get("mounts", []):
        # "You can't attach a volume to an existing Machine", nor detach one (Fly's guide to volumes).
        raise Refusal(400, "invalid_argument: a machine's mounts cannot be changed")
    current = call.body.get("current_version")
    if current is not None and current != machine.instance_id:
        raise Refusal(409, "aborted: machine update failed due to concurrent update")
    machine.update(config, not call.body.get("skip_launch"))
    if call.body.get("name"):
        machine.name = call.body["name"]
    return Answer(200, machine.shown())


async def delete(fake: FakeFly, call: Call) -> Answer:
    _leased(fake, call).destroy(call.flag("force"))
    return OK


async def wait(fake: FakeFly, call: Call) -> Answer:
    machine = fake.machine_of(call)
    states = call.values("state") or ["started"]
    seconds = int(call.query.get("timeout", [str(LONGEST_WAIT)])[-1])
    if not 1 <= seconds <= LONGEST_WAIT:
        raise Refusal(400, f"invalid_argument: timeout must be between 1 and {LONGEST_WAIT}")
    if "stopped" in states and not (call.values("instance_id") or call.values("version")):
        raise Refusal(400, "invalid_argument: instance_id is required when waiting for stopped")
    if not await machine.until(states, seconds):
        raise Refusal(
            408,
            "deadline_exceeded: machine failed to reach desired state, "
            f"{','.join(states)}, currently {machine.state}",
        )
    facts = {"ok": True, "state": machine.state, "version": machine.instance_id}
    return Answer(200, {**facts, "event_id": machine.events[0]["id"]})


async def start(fake: FakeFly, call: Call) -> Answer:
    return Answer(200, {"previous_state": _leased(fake, call).start(), "migrated": False, "new_host": ""})


async def stop(fake: FakeFly, call: Call) -> Answer:
    body = call.body or {}
    number = signal.Signals[body.get("signal", "SIGINT")]
    seconds = None
    if (text := body.get("timeout")) is not None:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m)", text)
        if match is None:
            raise Refusal(400, f"invalid_argument: time: invalid duration {text!r}")
        seconds = float(match[1]) * {"ms": 0.001, "s": 1, "m": 60}[match[2]]
    _leased(fake, call).stop(number, seconds)
    return OK


async def suspend(fake: FakeFly, call: Call) -> Answer:
    _leased(fake, call).suspend()
    return OK


async def restart(fake: FakeFly, call: Call) -> Answer:
    _leased(fake, call).restart()
    return OK


async def send(fake: FakeFly, call: Call) -> Answer:
    _leased(fake, call).send(signal.Signals[call.body["signal"]])
    return OK


async def cordon(fake: FakeFly, call: Call) -> Answer:
    _leased(fake, call).cordoned = call.operation == "Machines_cordon"
    return OK


async def events(fake: FakeFly, call: Call) -> Answer:
    limit = min(int(call.query.get("limit", ["20"])[-1]), LARGEST_EVENTS)
    return Answer(200, fake.machine_of(call).events[:limit])


async def take_lease(fake: FakeFly, call: Call) -> Answer:
    machine = _leased(fake, call)
    body = call.body or {}
    nonce = machine.lease.nonce if machine.lease is not None else fake.new_id()
    machine.lease = Lease(nonce, fake.clock.now() + body.get("ttl", 30), body.get("description", ""))
    return Answer(201, _enveloped(machine))


async def show_lease(fake: FakeFly, call: Call) -> Answer:
    machine = fake.machine_of(call)
    if machine.held_lease() is None:
        raise Refusal(404, f"not_found: lease not found, machine ID {machine.id}")
    return Answer(200, _enveloped(machine))


async def release_lease(fake: FakeFly, call: Call) -> Answer:
    machine = _leased(fake, call)
    machine.lease = None
    return Answer(200, {"status": "success", "data": {"ok": True}})


async def metadata(fake: FakeFly, call: Call) -> Answer:
    return Answer(200, fake.machine_of(call).metadata)


async def update_metadata(fake: FakeFly, call: Call) -> Answer:
    machine = _leased(fake, call)
    version = call.body.get("machine_version")
    if version is not None and version != machine.instance_id:
        raise Refusal(412, "failed_precondition: machine version does not match")
    for key, value in call.body.get("metadata", {}).items():
        _set(machine, key, value)
    return Answer(204)


async def metadata_key(fake: FakeFly, call: Call) -> Answer:
    machine, key = fake.machine_of(call), call.params["key"]
    if key not in machine.metadata:
        raise Refusal(404, f"not_found: metadata key {key} not found")
    return Answer(200, {"value": machine.metadata[key]})


async def set_metadata_key(fake: FakeFly, call: Call) -> Answer:
    _set(_leased(fake, call), call.params["key"], call.body["value"])
    return Answer(204)


async def delete_metadata_key(fake: FakeFly, call: Call) -> Answer:
    _set(_leased(fake, call), call.params["key"], "")
    return Answer(204)


HANDLERS = {
    "Machines_create": create,
    "Machines_list": listed,
    "Machines_show": show,
    "Machines_update": update,
    "Machines_delete": delete,
    "Machines_wait": wait,
    "Machines_start": start,
    "Machines_stop": stop,
    "Machines_suspend": suspend,
    "Machines_restart": restart,
    "Machines_signal": send,
    "Machines_cordon": cordon,
    "Machines_uncordon": cordon,
    "Machines_list_events": events,
    "Machines_create_lease": take_lease,
    "Machines_show_lease": show_lease,
    "Machines_release_lease": release_lease,
    "Machines_show_metadata": metadata,
    "Machines_update_metadata": update_metadata,
    "Machines_get_metadata_key": metadata_key,
    "Machines_upsert_metadata": set_metadata_key,
    "Machines_delete_metadata": delete_metadata_key,
}


def _leased(fake: FakeFly, call: Call) -> Machine:
    """The machine that a call changes, which nobody else may hold."""
    machine = fake.machine_of(call)
    machine.check_lease(call.headers.get("fly-machine-lease-nonce"))
    if machine.gone and call.operation != "Machines_delete":
        raise Refusal(412, f"failed_precondition: machine {machine.id} is destroyed")
    return machine


def _enveloped(machine: Machine) -> dict[str, Any]:
    lease = machine.lease
    assert lease is not None
    data = {
        "nonce": lease.nonce,
        "expires_at": round(lease.expires_at),
        "owner": lease.owner,
        "description": lease.description,
        "version": machine.instance_id,
    }
    return {"status": "success", "data": data}


def _set(machine: Machine, key: str, value: str) -> None:
    if value:
        machine.metadata[key] = value
    else:
        machine.metadata.pop(key, None)


def _checked(config: Any) -> dict[str, Any]:
    """A machine's configuration, if Fly would take it."""
    if not config or not config.get("image"):
        raise Refusal(400, "invalid_argument: config.image is required")
    guest = config.get("guest", {})
    kind = guest.get("cpu_kind", "shared")
    if kind not in GUESTS:
        raise Refusal(400, f"invalid_argument: invalid config.guest.cpu_kind {kind!r}")
    cpus, memory = guest.get("cpus", 1), guest.get("memory_mb", 256)
    known, least, most = GUESTS[kind]
    if cpus not in known:
        raise Refusal(400, f"invalid_argument: invalid config.guest.cpus {cpus}, allowed: {known}")
    if not least * cpus <= memory <= most * cpus or memory % least:
        raise Refusal(
            400,
            f"invalid_argument: invalid config.guest.memory_mb {memory}, minimum required {least * cpus} "
            f"MiB, maximum allowed {most * cpus} MiB, in steps of {least}",
        )
    return config


def _check_name(fake: FakeFly, app: str, name: str) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name):
        raise Refusal(400, f"invalid_argument: invalid machine name {name!r}")
    for machine in fake.apps[app].machines.values():
        if machine.name == name and not machine.gone:
            raise Refusal(
                409,
                "already_exists: unique machine name violation, machine ID "
                f'{machine.id} already exists with name "{name}"',
            )


def _region(fake: FakeFly, wanted: str) -> str:
    """The first of a list of regions and their groups that has room."""
    for name in wanted.split(","):
        regions = ALIASES.get(name, (name,))
        if not set(regions) <= set(REGIONS):
            raise Refusal(422, f"invalid_argument: region {name!r} not found")
        for region in regions:
            room = fake.room.get(region)
            if room is None or sum(one.region == region for one in fake.living()) < room:
                return region
    raise Refusal(422, f"insufficient resources to create new machine in {wanted}", "insufficient_capacity")
