"""Apps: what has a name, machines, secrets and addresses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi.dynamic import CheckFailure, CheckResult, CreateResult, ReadResult

from stacks.fly.api import FlyRefused, mapping, part
from stacks.fly.ending import GRACE_SECONDS, sweep
from stacks.fly.resource import ADOPT, FlyResource, Kind
from stacks.local.host import plain_errors

NAME_TAKEN = (409, 422)
"""How Fly answers a name that another app has, in whatever organization."""

PERSONAL = "personal"
"""Fly's name for the organization of the token's owner, which has a slug of its own."""


class AppProvider(Kind):
    inputs = ("name", "org", "network")
    replaced = inputs

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """An app stays where it was made. In another place it would be another app, and this one would go."""
        # Only what the config said before counts. Fly may call an organization by another name (`personal`
        # has a slug), and an app that was taken over is in whatever network it was in.
        if _olds.get("name") != news["name"]:
            return CheckResult(news, [])
        moved = [name for name in ("org", "network") if name in _olds and _olds[name] != news[name]]
        return CheckResult(
            news,
            [
                CheckFailure(
                    "",
                    f"switchboard:fly.{name}: {news[name]!r} is refused for the app {news['name']}; allowed: "
                    f"{_olds[name]!r}, since an app does not move (make down, then make up, makes it anew)",
                )
                for name in moved
            ],
        )

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
        return mapping(self.fly.get(f"apps/{part(name)}"), f"GET apps/{name}")

    def _left_behind(self, props: dict[str, Any]) -> dict[str, Any] | None:
        """The app, if a create whose answer was lost has made it.

        Such a one is empty and in our network. Anything else is somebody's, and would be deleted at our end.
        """
        name = props["name"]
        app = self._get(name)
        if app is None:
            return None
        org = organization_of(app)
        ours = (props["org"] in (org, PERSONAL) or org is None) and app.get("network") in (
            None,
            props["network"],
        )
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
