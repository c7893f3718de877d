"""Deploy tokens: each may do what concerns one app, until it expires.

The API makes tokens, and neither lists nor revokes them: an old one is good until its own end, so whoever
holds it goes on until it has the new one. `fly tokens revoke` takes one back at once.
"""

from __future__ import annotations

import datetime
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, UpdateResult

from stacks.fly.api import FlyMisread, part, whole
from stacks.fly.resource import FlyResource, Kind
from stacks.shared.dynamic import plain_errors

SCHEME = "FlyV1 "
"""Fly's prefix of a token."""


class DeployTokenProvider(Kind):
    inputs = ("app", "days", "period")
    replaced = ("app",)

    @plain_errors
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(f"{props['app']}/deploy-token", self._new(props))

    @plain_errors
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(self._new(_news))

    @plain_errors
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        if self.fly.get(f"apps/{part(props['app'])}") is None:
            return ReadResult("", {})
        # One that does not work any more is none: the next up makes another.
        return ReadResult(id_, props) if self.fly.accepts(props["token"]) else ReadResult("", {})

    def _new(self, props: dict[str, Any]) -> dict[str, Any]:
        body = {"expiry": f"{whole(props['days']) * 24}h"}
        path = f"apps/{part(props['app'])}/deploy_token"
        # One whose answer was lost nobody knows, and it expires like the others.
        answer = self.fly.ask("POST", path, body, repeatable=True)
        token = answer.get("token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not token:
            # Not quoted: there may be a token in it.
            raise FlyMisread(f"Fly's answer to POST {path} has no token")
        return {**self.kept(props), "token": token}


class DeployToken(FlyResource, module="switchboard", name="FlyDeployToken"):
    """A token that is good for one app."""

    token: pulumi.Output[str]

    def __init__(
        self,
        logical_name: str,
        *,
        app: pulumi.Input[str],
        days: int,
        period: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Good for `days`. Another `period` is another token, as `period_of` says."""
        properties = {"app": app, "days": days, "period": period}
        super().__init__(
            DeployTokenProvider(),
            logical_name,
            properties,
            outputs=("token",),
            secret_outputs=("token",),
            opts=opts,
        )
        # Secret in a plan as well, where it is not known yet: else an up that follows the plan violates it.
        self.token = pulumi.Output.secret(self.token)


def period_of(today: datetime.date, days: int) -> str:
    """The first day of the period that `today` is in: half as long as tokens are good.

    A token that was made at any time of one period is good all through the next. So an up in each renews it.
    """
    length = max(days // 2, 1)
    number = today.toordinal()
    return datetime.date.fromordinal(max(number - number % length, 1)).isoformat()


def bare(token: str) -> str:
    """The token without what Fly writes before it."""
    return token.removeprefix(SCHEME)
