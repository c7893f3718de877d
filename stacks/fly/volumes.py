"""Volumes: a disk on one of Fly's hosts, for one machine. It grows; it never shrinks."""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi.dynamic import CheckFailure, CheckResult, CreateResult, ReadResult, UpdateResult

from stacks.fly.api import FlyMisread, FlyRefused, mapping, part, rows, whole
from stacks.fly.resource import ADOPT, FlyResource, Kind
from stacks.shared.dynamic import plain_errors
from stacks.stateful import STORE

NEEDED = ("id", "size_gb")
"""Fields of each volume that Fly shows."""

GONE = ("pending_destroy", "destroying", "destroyed")


class VolumeProvider(Kind):
    inputs = ("app", "name", "region", "sizeGb", "snapshotDays")
    replaced = ("app", "name", "region")

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Refuse another region and less space. Another app is refused by the app's own check."""
        failures = []
        if _olds.get("region") not in (None, news["region"]):
            failures.append(
                CheckFailure(
                    "",
                    f"switchboard:fly.regions: {news['region']!r} is refused as the first; allowed: "
                    f"{_olds['region']!r}, since the store is a volume there, and would be deleted (to do "
                    f"so: make down CONFIRM={STORE}, then make up; with databaseUrl there is none)",
                )
            )
        old, new = _olds.get("sizeGb"), news.get("sizeGb")
        if isinstance(old, (int, float)) and isinstance(new, (int, float)) and new < old:
            allowed = f"{whole(old)} or more, since a volume does not shrink"
            failures.append(
                CheckFailure("", f"switchboard:fly.volumeGb: {whole(new)} is refused; allowed: {allowed}")
            )
        return CheckResult(news, failures)

    @plain_errors
    def create(self, props: dict[str, Any]) -> CreateResult:
        wanted = props.get(ADOPT)
        volume = self.fly.once_known(lambda: self._find(props, wanted), lambda: self._make(props, wanted))
        return CreateResult(volume["id"], self._as_wanted(volume, props))

    @plain_errors
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        volume = self._get(props, id_)
        if volume is None or volume.get("state") in GONE:
            return ReadResult("", {})
        return ReadResult(id_, {**props, **_seen(volume)})

    @plain_errors
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        volume = self._get(_news, _id)
        if volume is None:
            raise FlyRefused(f"the volume {_id} is not there any more; `make refresh` tells the state so")
        return UpdateResult(self._as_wanted(volume, _news))

    @plain_errors
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        self.fly.delete(f"{_path(_props)}/{part(_id)}")

    def _as_wanted(self, volume: dict[str, Any], props: dict[str, Any]) -> dict[str, Any]:
        path = f"{_path(props)}/{part(volume['id'])}"
        if volume["size_gb"] < props["sizeGb"]:
            self.fly.ask("PUT", f"{path}/extend", {"size_gb": props["sizeGb"]})
        if volume.get("snapshot_retention") != props["snapshotDays"]:
            self.fly.ask("PUT", path, {"snapshot_retention": props["snapshotDays"]})
        return self.kept(props)

    def _find(self, props: dict[str, Any], wanted: str | None) -> dict[str, Any] | None:
        """The one that is to be taken over; else what a create made whose answer was lost: it is unused."""
        listed = [one for one in self._rows(props) if one.get("state") not in GONE]
        if wanted is not None:
            return next((one for one in listed if one["id"] == wanted), None)
        same = (
            one for one in listed if (one.get("name"), one.get("region")) == (props["name"], props["region"])
        )
        return next((one for one in same if not one.get("attached_machine_id")), None)

    def _make(self, props: dict[str, Any], wanted: str | None) -> dict[str, Any]:
        if wanted is not None:
            raise FlyRefused(
                f"switchboard:fly.adopt: {wanted!r} is refused; allowed: the id of a volume of the app "
                f"{props['app']}"
            )
        body = {
            "name": props["name"],
            "region": props["region"],
            "size_gb": props["sizeGb"],
            "snapshot_retention": props["snapshotDays"],
            "encrypted": True,
        }
        return mapping(self.fly.ask("POST", _path(props), body), f"POST {_path(props)}", *NEEDED) or {}

    def _rows(self, props: dict[str, Any]) -> list[dict[str, Any]]:
        return rows(self.fly.get(_path(props)), f"GET {_path(props)}", *NEEDED)

    def _get(self, props: dict[str, Any], id_: str) -> dict[str, Any] | None:
        path = f"{_path(props)}/{part(id_)}"
        found = mapping(self.fly.get(path), f"GET {path}", *NEEDED)
        if found is not None and found["id"] != id_:
            raise FlyMisread(f"Fly's answer to GET {path} is about another volume, {found['id']}")
        return found


def _path(props: dict[str, Any]) -> str:
    return f"apps/{part(props['app'])}/volumes"


def _seen(volume: dict[str, Any]) -> dict[str, Any]:
    found = {"region": "region", "size_gb": "sizeGb", "snapshot_retention": "snapshotDays"}
    return {ours: volume[theirs] for theirs, ours in found.items() if volume.get(theirs) is not None}


class Volume(FlyResource, module="switchboard", name="FlyVolume"):
    """A volume, encrypted, with a snapshot each day."""

    def __init__(
        self,
        logical_name: str,
        *,
        app: pulumi.Input[str],
        name: str,
        region: str,
        size_gb: int,
        snapshot_days: int = 5,
        adopt: str | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`snapshot_days`: how long snapshots are kept; 5 is Fly's default."""
        properties = {
            "app": app,
            "name": name,
            "region": region,
            "sizeGb": size_gb,
            "snapshotDays": snapshot_days,
        }
        super().__init__(VolumeProvider(), logical_name, properties, adopt=adopt, opts=opts)
