"""Machines of a service: made once, and updated one after the other without dropping a call.

An update holds the machine's lease, takes it out of Fly's proxy (cordon), replaces its configuration, waits
until its health checks pass, and puts it back (uncordon). Should they not pass, it gets back what it had.
Bots are machines of their own: their calls go on, and their channels find the new dispatcher by themselves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, UpdateResult

from stacks.fly.api import FlyError, FlyRefused, mapping, rows, whole
from stacks.fly.ending import GONE, end, living, machine_at, machine_path
from stacks.fly.leases import lease
from stacks.fly.resource import ADOPT, FlyResource, Kind
from stacks.shared.dynamic import plain_errors

DEAD = ("failed", "launch_failed")

READY_SECONDS = 150
"""For an image's pull, the boot, and the health checks."""

STARTED = "started"
CORDONED = "cordoned"
"""Started, and Fly's proxy sends nobody to it: what a run that was killed in an update leaves."""
DOWN = ("stopped", "suspended", *DEAD)
"""States in which it stays until somebody does something. Those on the way count as started."""


class MachineProvider(Kind):
    inputs = ("app", "name", "region", "config", "secretsVersion", "readySeconds", "state")
    replaced = ("app", "name", "region")

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        found = super().diff(_id, _olds, _news)
        before, wanted = mounts_of(_olds), mounts_of(_news)
        # Fly fixes mounts when it makes a machine. A config that is not known yet is no change of mounts.
        if before is not None and wanted is not None and before != wanted:
            found.replaces = [*(found.replaces or []), "config"]
        return found

    @plain_errors
    def create(self, props: dict[str, Any]) -> CreateResult:
        wanted = props.get(ADOPT)
        if (left := self._find(props, wanted)) is not None:
            # Of a run that failed, or of somebody else. Which secrets it was started with, Fly does not say.
            self._roll(left, props)
            return CreateResult(left["id"], self.kept(props))
        machine = self.fly.once_known(lambda: self._find(props, wanted), lambda: self._make(props, wanted))
        self._ready(machine["id"], machine.get("instance_id"), props)
        return CreateResult(machine["id"], self.kept(props))

    @plain_errors
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        machine = self._get(_news["app"], _id)
        if machine is None:
            raise FlyRefused(f"the machine {_id} is not there any more; `make refresh` tells the state so")
        if any(_olds.get(name) != _news.get(name) for name in ("config", "secretsVersion", "state")):
            self._roll(machine, _news)
        return UpdateResult(self.kept(_news))

    @plain_errors
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        machine = self._get(props["app"], id_)
        if machine is None:
            return ReadResult("", {})
        state = _state(machine)
        seen = {"config": restricted(machine.get("config") or {}, props["config"]), "state": state}
        return ReadResult(id_, {**props, **seen, "region": machine.get("region") or props["region"]})

    @plain_errors
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        machine = self._get(_props["app"], _id)
        if machine is not None:
            end(self.fly, _props["app"], machine)

    def _find(self, props: Mapping[str, Any], wanted: str | None) -> dict[str, Any] | None:
        """The one of this id; else of this name, which is unique in its app."""
        if wanted is not None:
            return self._get(props["app"], wanted)
        return next((one for one in living(self.fly, props["app"]) if one.get("name") == props["name"]), None)

    def _make(self, props: Mapping[str, Any], wanted: str | None) -> dict[str, Any]:
        if wanted is not None:
            raise FlyRefused(
                f"switchboard:fly.adopt: {wanted!r} is refused; allowed: the id of a machine of the app "
                f"{props['app']}"
            )
        body = {"name": props["name"], "region": props["region"], **_configured(props)}
        path = machine_path(props["app"])
        return mapping(self.fly.ask("POST", path, body), f"POST {path}", "id") or {}

    def _get(self, app: str, machine_id: str) -> dict[str, Any] | None:
        machine = machine_at(self.fly, machine_path(app, machine_id))
        return None if machine is None or machine["state"] in GONE else machine

    def _roll(self, machine: Mapping[str, Any], props: Mapping[str, Any]) -> None:
        """Give a machine its configuration, anew if it is the same. Raises FlyError.

        After a failure it has the configuration that it had, if that was another and can be.
        """
        path = machine_path(props["app"], machine["id"])
        had = machine.get("config") or {}
        with lease(self.fly, path) as held, self._cordoned(path, held):
            try:
                self._configure(path, props, held)
            except FlyError as error:
                if not had or same(had, props["config"]):
                    raise
                try:
                    self._configure(path, {**props, "config": had}, held)
                except FlyError as worse:
                    raise FlyRefused(f"{error}; nor does it with what it had before: {worse}") from None
                raise FlyRefused(f"{error}; it has what it had before") from None

    @contextlib.contextmanager
    def _cordoned(self, path: str, held: Mapping[str, str]) -> Iterator[None]:
        """Keep Fly's proxy from sending anybody to the machine meanwhile.

        A run that is killed in between leaves the machine cordoned: a refresh reads that as its state.
        """

        def back() -> None:
            try:
                self.fly.ask("POST", f"{path}/uncordon", headers=held, repeatable=True)
            except FlyError as error:
                raise FlyRefused(
                    f"{error}; Fly's proxy sends nobody to {path} until `fly machine uncordon`, or the next "
                    "change of it"
                ) from None

        try:
            self.fly.ask("POST", f"{path}/cordon", headers=held, repeatable=True)
            yield
        except Exception as error:
            try:
                back()
            except FlyRefused as worse:
                raise FlyRefused(f"{error}; and {worse}") from None
            raise
        back()

    def _configure(self, path: str, props: Mapping[str, Any], held: Mapping[str, str]) -> None:
        # Twice is once, though it boots twice: the body says what it is to be.
        asked = self.fly.ask("POST", path, _configured(props), headers=held, repeatable=True)
        answer = mapping(asked, f"POST {path}")
        self._ready(path.rpartition("/")[2], (answer or {}).get("instance_id"), props)

    def _ready(self, machine_id: str, instance: str | None, props: Mapping[str, Any]) -> None:
        """Return once this version of it runs and all its health checks pass.

        Raises:
            FlyRefused: it does not come to that, in the time that it has.
        """
        last = "not there"

        def ready() -> bool | None:
            nonlocal last
            machine = self._get(props["app"], machine_id)
            if machine is None or machine["state"] in DEAD:
                raise FlyRefused(f"the machine {props['name']} is {machine['state'] if machine else 'gone'}")
            checks = rows(machine.get("checks"), "the machine's checks")
            failing = [str(one.get("name")) for one in checks if one.get("status") != "passing"]
            last = (
                f"{machine['state']}, and not passing is {', '.join(failing)}"
                if failing
                else machine["state"]
            )
            checked = bool(checks) or not checks_of(props["config"])
            current = instance in (None, machine.get("instance_id"))
            return True if current and checked and not failing and machine["state"] == "started" else None

        try:
            self.fly.until(
                f"the machine {props['name']} was not healthy", whole(props["readySeconds"]), ready
            )
        except FlyRefused as error:
            raise FlyRefused(f"{error} (it is {last}); its log: fly logs --app {props['app']}") from None


def _state(machine: Mapping[str, Any]) -> str:
    """Return the state that lasts: what a machine on its way comes to counts as reached."""
    if machine["state"] in DOWN:
        return machine["state"]
    # Not in Fly's description of its API, and shown by it.
    return CORDONED if machine.get("cordoned") else STARTED


def checks_of(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The health checks that a configuration has."""
    of_services = [check for service in config.get("services") or [] for check in service.get("checks") or []]
    return [*of_services, *(config.get("checks") or {}).values()]


def mounts_of(props: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """Volumes and where they are, in a configuration; None while that is not known."""
    config = props.get("config")
    if not isinstance(config, Mapping):
        return None
    return [(mount["volume"], mount["path"]) for mount in config.get("mounts") or []]


def same(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return whole(restricted(found, wanted)) == whole(wanted)


def restricted(found: Any, wanted: Any) -> Any:
    """Reduce what Fly shows to what we have asked for. Fly adds what we left to it; that is no difference.

    Variables are an exception: one more is one that somebody has added. And of `autostop` Fly says true or
    false.
    """
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return {
            key: (found[key] if key == "env" else restricted(found[key], value))
            for key, value in wanted.items()
            if key in found
        }
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        return [restricted(one, other) for one, other in zip(found, wanted, strict=True)]
    if isinstance(found, bool) and wanted in ("off", "stop"):
        return "stop" if found else "off"
    return found


def _configured(props: Mapping[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {"config": props["config"]}
    if props["secretsVersion"]:
        body["min_secrets_version"] = props["secretsVersion"]
    return body


class Machine(FlyResource, module="switchboard", name="FlyMachine"):
    """A machine that is always there."""

    name: pulumi.Output[str]

    def __init__(
        self,
        logical_name: str,
        *,
        app: pulumi.Input[str],
        name: str,
        region: str,
        config: pulumi.Input[Mapping[str, Any]],
        secrets_version: pulumi.Input[int],
        ready_seconds: float = READY_SECONDS,
        adopt: str | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`config` is Fly's own, and holds no secret: whoever may look at the machine can read it."""
        properties = {
            "app": app,
            "name": name,
            "region": region,
            "config": config,
            "secretsVersion": secrets_version,
            "readySeconds": ready_seconds,
            "state": STARTED,
        }
        super().__init__(MachineProvider(), logical_name, properties, adopt=adopt, opts=opts)
