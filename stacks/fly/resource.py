"""The common part of this cloud's resources.

The engine's host of dynamic providers finds these classes by their names, so nothing here may be defined in
a program's `__main__`. A provider has no fields when it is written down: what it works on is in the
resource's properties. The token comes from the config or the environment (FLY_API_TOKEN) when it is loaded.

`adoptId`, an input of every resource, is the id of something that exists already: a create takes that over.
The engine's own import does not know dynamic resources: it reads them without saying whose they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pulumi
from pulumi.dynamic import ConfigureRequest, DiffResult, Resource, ResourceProvider

from stacks.fly.api import TRIES, Fly, NoToken, whole
from stacks.fly.config import API_URL, TOKEN_VARIABLE
from stacks.shared.dynamic import end_with_engine, plain_errors

TOKEN_KEY = "flyApiToken"  # noqa: S105 - its name

ADOPT = "adoptId"


def client(configured: str | None, url: str | None, tries: int = TRIES) -> Fly:
    """Return a client with the token of the config, else of the environment.

    A refresh or a down gets the config of the last up, whose token may have been revoked since: if Fly
    refuses that, the environment's is taken.

    Raises:
        NoToken: there is none.
        FlyError: Fly does not say whether it takes a token.
    """
    tokens = list(dict.fromkeys(filter(None, [configured, os.environ.get(TOKEN_VARIABLE)])))
    if not tokens:
        raise NoToken(
            f"{TOKEN_VARIABLE} is not set; allowed: the organization's (`fly tokens create org`), "
            f"in the environment or as the config's secret switchboard:{TOKEN_KEY}"
        )
    first = Fly(tokens[0], url or API_URL, tries=tries)
    if len(tokens) == 1 or first.accepts(tokens[0]):
        return first
    first.close()
    return Fly(tokens[1], url or API_URL, tries=tries)


class Kind(ResourceProvider):
    """One kind of resource. Methods of the subclasses talk to Fly through `self.fly`."""

    # It holds nothing but its own name.
    serialize_as_secret_always = False

    inputs: ClassVar[Sequence[str]] = ()
    """Inputs whose change means an update."""
    replaced: ClassVar[Sequence[str]] = ()
    """Those of them that Fly cannot change: what is there goes, then the new one comes."""

    @plain_errors
    def configure(self, req: ConfigureRequest) -> None:
        end_with_engine()
        given = json.loads(req.config.get("fly") or "{}")
        self.fly = client(req.config.get(TOKEN_KEY), given.get("apiUrl"))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        changed = [name for name in self.inputs if whole(_olds.get(name)) != whole(_news.get(name))]
        return DiffResult(
            changes=bool(changed),
            replaces=[name for name in changed if name in self.replaced],
            # Names and volumes are taken as long as the old one is there.
            delete_before_replace=True,
        )

    def kept(self, props: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs, as they are written into the state."""
        return {name: props[name] for name in self.inputs}


class FlyResource(Resource, module="switchboard", name="FlyResource"):
    """A resource of this cloud. Its subclasses say which."""

    def __init__(
        self,
        provider: Kind,
        name: str,
        properties: Mapping[str, Any],
        *,
        outputs: Sequence[str] = (),
        secret_outputs: Sequence[str] = (),
        adopt: str | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`outputs` are made by the provider, beside the inputs; the secret ones are kept encrypted."""
        given = {**properties, **dict.fromkeys(outputs), ADOPT: adopt}
        secret = pulumi.ResourceOptions(additional_secret_outputs=list(secret_outputs))
        super().__init__(provider, name, given, pulumi.ResourceOptions.merge(opts, secret))
