"""The end of bots' VMs: the dispatcher makes them, no state knows them, and the stack's end is theirs.

The resource is made before the dispatcher and deleted after it, when nobody starts bots any more. Google does
not delete a subnet that has VMs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx
import pulumi
from pulumi.dynamic import (
    ConfigureRequest,
    CreateResult,
    DiffResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from stacks.errors import StackError
from stacks.shared.dynamic import end_with_engine, plain_errors

INPUTS = ("project", "zones", "deployment")

LABEL = "switchboard-deployment"
"""Label of a deployment's VMs, as its dispatcher sets it."""

END_SECONDS = 300
"""Limit on the wait for VMs to be gone: one has 90 s to shut down, and then its disk goes."""

PAUSE_SECONDS = 5.0
MOST_PAGES = 1000
"""Limit on the pages of one list, of 500 VMs each."""

AGAIN = frozenset({403, 408, 429, 500, 502, 503, 504})
"""Statuses of a deletion that Google may take a moment later: rate limits are 403 or 429. A permission that
is missing is 403 too, and still is after `END_SECONDS`."""

CALL_SECONDS = 30.0
SCOPE = "https://www.googleapis.com/auth/compute"
API = "https://compute.googleapis.com/compute/v1/"
API_VARIABLE = "GOOGLE_COMPUTE_CUSTOM_ENDPOINT"
"""Variable with another URL of the API, as Google's provider of the engine takes it."""


class GcpError(StackError):
    """Google Cloud did not do what it was asked."""


class MachinesProvider(ResourceProvider):
    """Nothing is made; at the end, what the dispatcher made is ended."""

    serialize_as_secret_always = False

    def configure(self, req: ConfigureRequest) -> None:
        end_with_engine()

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(props["deployment"], {key: props[key] for key in INPUTS})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        # Another project or deployment: what runs in the old one ends. A zone that is given up keeps its
        # calls.
        replaced = [key for key in ("project", "deployment") if _olds.get(key) != _news.get(key)]
        more = not set(_news["zones"]) <= set(_olds.get("zones", ()))
        return DiffResult(changes=bool(replaced) or more, replaces=replaced)

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        every = sorted({*_olds["zones"], *_news["zones"]})
        return UpdateResult({**{key: _news[key] for key in INPUTS}, "zones": every})

    @plain_errors
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        url = os.environ.get(API_VARIABLE) or API
        with httpx.Client(base_url=url, timeout=CALL_SECONDS) as client:
            machines = Machines(client, _props["project"], _props["zones"], _props["deployment"])
            machines.end_all(lambda: token(client))


class BotMachines(Resource, module="switchboard", name="GcpMachines"):
    """The bots' VMs of a deployment."""

    def __init__(
        self,
        name: str,
        *,
        project: str,
        zones: Sequence[str],
        deployment: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        props = {"project": project, "zones": list(zones), "deployment": deployment}
        super().__init__(MachinesProvider(), name, props, opts)


def token(client: httpx.Client, scope: str = SCOPE, purpose: str = "end bots' VMs") -> str:
    """Return an access token of whoever runs this. Raises GcpError if there are no credentials."""
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport import Request, Response

    class Answer(Response):
        def __init__(self, answer: httpx.Response) -> None:
            self._answer = answer

        @property
        def status(self) -> int:
            return self._answer.status_code

        @property
        def headers(self) -> Mapping[str, str]:
            return self._answer.headers

        @property
        def data(self) -> bytes:
            return self._answer.content

    class Requests(Request):
        def __call__(
            self,
            url: str,
            method: str = "GET",
            body: bytes | None = None,
            headers: Mapping[str, str] | None = None,
            timeout: float | None = None,
            **_others: Any,
        ) -> Answer:
            return Answer(client.request(method, url, content=body, headers=headers, timeout=timeout))

    try:
        credentials, _ = google.auth.default(scopes=[scope])
        credentials.refresh(Requests())
    except (GoogleAuthError, httpx.HTTPError) as error:
        raise GcpError(
            f"there are no credentials for Google Cloud to {purpose} with: {error}; "
            "allowed: `gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS"
        ) from None
    return credentials.token


class Machines:
    """The VMs of one deployment, as the Compute Engine API has them."""

    def __init__(self, client: httpx.Client, project: str, zones: Sequence[str], deployment: str) -> None:
        self._client = client
        self._deployment = deployment
        self._paths = {zone: f"projects/{project}/zones/{zone}/instances" for zone in zones}

    def end_all(
        self,
        token: Callable[[], str],
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Delete every VM of the deployment, and wait until none is left.

        Raises:
            GcpError: Google refuses, or some are still there after `END_SECONDS`.
        """
        until = clock() + END_SECONDS
        headers = {"Authorization": f"Bearer {token()}"}
        told: set[tuple[str, str]] = set()
        refusal = ""
        while left := list(self._list(headers)):
            for zone, name in left:
                if (zone, name) not in told:
                    answer = self._send("DELETE", f"{self._paths[zone]}/{name}", headers)
                    if answer.is_success or answer.status_code == httpx.codes.NOT_FOUND:
                        told.add((zone, name))
                    elif answer.status_code in AGAIN:
                        refusal = f"; {name}: {answer.status_code}: {message_of(answer)}"
                    else:
                        raise self._refused(answer)
            if clock() >= until:
                shown = ", ".join(name for _, name in left[:5])
                raise GcpError(
                    f"{len(left)} VMs of the deployment {self._deployment} did not go within {END_SECONDS} "
                    f"s: {shown}{refusal}; try again, or delete them with `gcloud compute instances delete`"
                )
            sleep(PAUSE_SECONDS)

    def _list(self, headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Yield the zone and the name of each VM that is there."""
        for zone, path in self._paths.items():
            page = ""
            for _ in range(MOST_PAGES):
                params = {"filter": f'labels.{LABEL}="{self._deployment}"', "pageToken": page}
                params["fields"] = "items(name,labels),nextPageToken"
                answer = self._send("GET", path, headers, params)
                if not answer.is_success:
                    raise self._refused(answer)
                try:
                    shown = answer.json()
                    # A filter that was ignored would give the project's other VMs: they are not ours to end.
                    found = [one["name"] for one in shown.get("items", ()) if self._is_ours(one)]
                    page = shown.get("nextPageToken", "")
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise GcpError(f"{path} was answered without a list of VMs; try again") from None
                yield from ((zone, name) for name in found)
                if not page:
                    break
            else:
                raise GcpError(f"the list of VMs in {zone} has more than {MOST_PAGES} pages; try again")

    def _is_ours(self, instance: Mapping[str, Any]) -> bool:
        label = instance.get("labels", {}).get(LABEL)
        return label == self._deployment and instance["name"].startswith(f"{self._deployment}-")

    def _send(
        self, method: str, path: str, headers: Mapping[str, str], params: Mapping[str, str] | None = None
    ) -> httpx.Response:
        given = {name: value for name, value in (params or {}).items() if value}
        try:
            return self._client.request(method, path, headers=headers, params=given)
        except httpx.HTTPError as error:
            raise GcpError(
                f"the VMs of the deployment {self._deployment} could not be ended: {error}"
            ) from None

    def _refused(self, answer: httpx.Response) -> GcpError:
        request = answer.request
        return GcpError(
            f"the VMs of the deployment {self._deployment} could not be ended: {request.method} "
            f"{request.url.path} was answered {answer.status_code}: {message_of(answer)}"
        )


def message_of(answer: httpx.Response) -> str:
    """Return the words of an answer in which Google refuses."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
