"""Apps: what has a name, machines, secrets and addresses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi.dynamic import CheckFailure, CheckResult, CreateResult, ReadResult

from stacks.fly.api import FlyMisread, FlyRefused, mapping, part
from stacks.fly.ending import GRACE_SECONDS, sweep
from stacks.fly.resource import ADOPT, FlyResource, Kind
from stacks.shared.dynamic import plain_errors
from stacks.stateful import STORE

NAME_TAKEN = (409, 422)
"""Fly's statuses for a name that another app has, in whatever organization."""

PERSONAL = "personal"
"""Fly's name for the organization of the token's owner, which has a slug of its own."""


class AppProvider(Kind):
    inputs = ("name", "org", "network")
    replaced = inputs

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Refuse another name, organization or network: it would be another app, and this one would go.

        What is in an app goes before it, so a check of a volume in it comes too late: the engine asks that
        one as if there had never been a volume.
        """
        # Only what the config said before counts. Fly may call an organization by another name (`personal`
        # has a slug), and an app that was taken over is in whatever network it was in. Of a network that
        # follows the name, the name alone is told.
        changed = [name for name in self.inputs if name in _olds and _olds[name] != news[name]]
        moved = [name for name in changed if name != "network" or "name" not in changed]
        return CheckResult(news, [CheckFailure("", _refusal(name, _olds, news)) for name in moved])

    @plain_errors
    def create(self, props: dict[str, Any]) -> CreateResult:
        name = props["name"]
        if props.get(ADOPT):
            if self._get(props[ADOPT]) is None or props[ADOPT] != name:
                raise FlyRefused(
                    f"switchboard:fly.adopt: {props[ADOPT]!r} is refused; allowed: {name!r}, if it is there"
                )
            return CreateResult(name, self.kept(props))
        self.fly.once_known(lambda: self._left_behind(props), lambda: self._make(props))
        return CreateResult(name, self.kept(props))

    @plain_errors
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        return ReadResult("", {}) if self._get(id_) is None else ReadResult(id_, props)

    @plain_errors
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        # What a create under way has made since its machines were ended.
        sweep(self.fly, _id, GRACE_SECONDS)
        self.fly.delete(f"apps/{part(_id)}")

    def _get(self, name: str) -> dict[str, Any] | None:
        found = mapping(self.fly.get(f"apps/{part(name)}"), f"GET apps/{name}")
        if found is not None and found.get("name", name) != name:
            raise FlyMisread(f"Fly's answer to GET apps/{name} is about another app, {found['name']}")
        return found

    def _left_behind(self, props: dict[str, Any]) -> dict[str, Any] | None:
        """The app, if a create whose answer was lost has made it.

        Such a one is empty and in our network. Anything else is somebody's, and would be deleted at our end.
        """
        name = props["name"]
        app = self._get(name)
        if app is None:
            return None
        org = organization_of(app)
        in_org = org is not None and props["org"] in (org, PERSONAL)
        ours = in_org and app.get("network") in (None, props["network"])
        if ours and not app.get("machine_count") and not app.get("volume_count"):
            return app
        raise FlyRefused(
            f"there is an app {name} already, with machines, or in the network {app.get('network')!r} of "
            f"{org!r}; choose another switchboard:fly.prefix, or name it in switchboard:fly.adopt to take it "
            "over"
        )

    def _make(self, props: dict[str, Any]) -> dict[str, Any]:
        name = props["name"]
        body = {"name": name, "org_slug": props["org"], "network": props["network"]}
        try:
            self.fly.ask("POST", "apps", body)
        except FlyRefused as error:
            if error.status in NAME_TAKEN:
                raise FlyRefused(
                    f"{error}; if the name is taken, choose another switchboard:fly.prefix"
                ) from None
            raise
        return self.fly.until(f"the app {name} was made, and is not there", 30, lambda: self._get(name))


def _refusal(name: str, olds: dict[str, Any], news: dict[str, Any]) -> str:
    if name == "name":
        # The config has what apps' names begin with, and no app knows how much of its own that is.
        fault = f"prefix: the app {olds[name]} would be {news[name]}, another one; allowed: what it was"
    else:
        fault = f"{name}: {news[name]!r} is refused for the app {olds['name']}; allowed: {olds[name]!r}"
    return (
        f"switchboard:fly.{fault}, since an app does not move: it would be deleted, with what is in it "
        f"(to do so: make down CONFIRM={STORE}, then make up)"
    )


def organization_of(app: Mapping[str, Any]) -> str | None:
    """Return the slug of an app's organization, which Fly tells in a mapping; None if it tells none."""
    organization = app.get("organization")
    slug = organization.get("slug") if isinstance(organization, Mapping) else organization
    return slug if isinstance(slug, str) and slug else None


class App(FlyResource, module="switchboard", name="FlyApp"):
    """An app. Its id is its name.

    Resources in the app take its `name`, an output: whatever replaces the app replaces them too. A plan knows
    the name: it comes from the input, since outputs of the provider are unknown in each plan of a change.
    """

    name: pulumi.Output[str]

    def __init__(
        self,
        logical_name: str,
        *,
        name: str,
        org: str,
        network: str,
        adopt: str | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        properties = {"name": name, "org": org, "network": network}
        super().__init__(AppProvider(), logical_name, properties, adopt=adopt, opts=opts)
        self.name = self.urn.apply(lambda _urn: name)
