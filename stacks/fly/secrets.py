"""Secrets of an app: variables that all of its machines see, and that no console and no answer shows.

What Fly says of a secret is its digest. It is kept beside the values (which are encrypted in the state), so
that a refresh finds the secrets that somebody has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi.dynamic import CheckResult, CreateResult, ReadResult, UpdateResult

from stacks.fly.api import mapping, part, rows, whole
from stacks.fly.resource import FlyResource, Kind
from stacks.shared.dynamic import plain_errors
from stacks.shared.outside import refusals_of_removal


class SecretsProvider(Kind):
    inputs = ("app", "values")
    replaced = ("app",)

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Refuse a run without a variable that the app has."""
        app, outside = news["app"], news["outside"]
        failures = refusals_of_removal(_olds.get("values"), news.get("values"), outside, f"app {app}")
        return CheckResult(news, failures)

    @plain_errors
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(f"{props['app']}/secrets", self._set(props, removed=set(), before={}))

    @plain_errors
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        removed = set(_olds["digests"]) - set(_news["values"])
        return UpdateResult(self._set(_news, removed, before=_olds))

    @plain_errors
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        path = f"apps/{part(props['app'])}/secrets"
        answer = mapping(self.fly.get(path), f"GET {path}")
        if answer is None:
            return ReadResult("", {})
        found = _digests(answer, f"GET {path}")
        digests = {name: found[name] for name in props["digests"] if name in found}
        # Without the value of one that is another now: the next up sees the difference, and sets it again.
        same = {name for name, digest in digests.items() if digest == props["digests"][name]}
        values = {name: value for name, value in props["values"].items() if name in same}
        return ReadResult(id_, {**props, "values": values, "digests": digests})

    @plain_errors
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        for name in _props["digests"]:
            self._remove(_props["app"], name)

    def _set(self, props: Mapping[str, Any], removed: set[str], before: Mapping[str, Any]) -> dict[str, Any]:
        app, values = props["app"], dict(props["values"])
        version, digests = before.get("version", 0), {}
        for name in sorted(removed):
            version = self._remove(app, name) or version
        if values:
            # Twice is once: it says what they are.
            path = f"apps/{part(app)}/secrets"
            asked = self.fly.ask("POST", path, {"values": values}, repeatable=True)
            answer = mapping(asked, f"POST {path}", "secrets") or {}
            digests = {
                name: digest for name, digest in _digests(answer, f"POST {path}").items() if name in values
            }
            version = answer.get("version") or answer.get("Version") or version
        return {**self.kept(props), "digests": digests, "version": whole(version)}

    def _remove(self, app: str, name: str) -> int | None:
        answer = self.fly.ask("DELETE", f"apps/{part(app)}/secrets/{part(name)}", absent_is_fine=True)
        return answer and (answer.get("version") or answer.get("Version"))


def _digests(answer: Mapping[str, Any], call: str) -> dict[str, str]:
    return {one["name"]: one["digest"] for one in rows(answer.get("secrets"), call, "name", "digest")}


class Secrets(FlyResource, module="switchboard", name="FlySecrets"):
    """These secrets of an app; others that it has are left alone.

    Running machines keep what they had. `version` counts the changes: a machine that is made or updated with
    it as `min_secrets_version` sees at least these.
    """

    version: pulumi.Output[int]

    def __init__(
        self,
        logical_name: str,
        *,
        app: pulumi.Input[str],
        values: Mapping[str, pulumi.Input[str]],
        outside: Mapping[str, str] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`outside`: those that come from the environment (`*` is any end), and their names there, if others.

        Such a one does not go because it is not set where an up runs.
        """
        # One by one: a value that is not known yet must not hide the others.
        given = {key: pulumi.Output.secret(value) for key, value in values.items()}
        properties = {"app": app, "values": given, "outside": dict(outside or {})}
        super().__init__(
            SecretsProvider(), logical_name, properties, outputs=("digests", "version"), opts=opts
        )
