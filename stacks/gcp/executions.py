"""Executions of bots' jobs: which are a deployment's, for their logs, and their end with the stack.

The dispatcher runs them, and no state knows them. They are cancelled after the dispatcher is gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pulumi
from pulumi.dynamic import (
    ConfigureRequest,
    CreateResult,
    DiffResult,
    Resource,
    ResourceProvider,
)

from stacks.gcp.ending import (
    CALL_SECONDS,
    END_SECONDS,
    MOST_PAGES,
    PAUSE_SECONDS,
    GcpError,
    message_of,
    token,
)
from stacks.shared.dynamic import end_with_engine, plain_errors

INPUTS = ("project", "region", "deployment")

DEPLOYMENT_VARIABLE, MACHINE_VARIABLE = "SWITCHBOARD_DEPLOYMENT", "SWITCHBOARD_MACHINE_ID"
"""Variables of an execution, as its dispatcher sets them."""

API = "https://run.googleapis.com/v2/"
API_VARIABLE = "GOOGLE_CLOUD_RUN_V2_CUSTOM_ENDPOINT"
"""Variable with another URL of the API, as Google's provider of the engine takes it."""

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
PURPOSE = "end bots' executions"


class Executions:
    """The executions of one deployment, as the Cloud Run Admin API has them. Methods raise GcpError."""

    def __init__(
        self, client: httpx.Client, project: str, region: str, deployment: str, token: Callable[[], str]
    ) -> None:
        self._client = client
        # All jobs of the region ("Method: projects.locations.jobs.executions.list").
        self._path = f"projects/{project}/locations/{region}/jobs/-/executions"
        self._deployment = deployment
        self._headers = {"Authorization": f"Bearer {token()}"}

    def find(self) -> Iterator[tuple[str, str, bool]]:
        """Yield name, machine, and whether it runs of each execution."""
        page = ""
        for _ in range(MOST_PAGES):
            answer = self._send("GET", self._path, {"pageToken": page} if page else {})
            try:
                shown = answer.json()
                found = [(one["name"], _variables(one), one) for one in shown.get("executions", ())]
                page = shown.get("nextPageToken", "")
            except (ValueError, KeyError, TypeError, AttributeError):
                raise GcpError(f"{self._path} was answered without a list of executions; try again") from None
            for name, variables, one in found:
                if variables.get(DEPLOYMENT_VARIABLE) == self._deployment:
                    yield name, variables.get(MACHINE_VARIABLE, ""), not one.get("completionTime")
            if not page:
                return
        raise GcpError(f"{self._path} has more than {MOST_PAGES} pages; try again")

    def end_all(
        self, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Cancel every execution, and wait until none runs.

        Raises:
            GcpError: Google refuses, or some still run after `END_SECONDS`.
        """
        until = clock() + END_SECONDS
        told: set[str] = set()
        while left := [name for name, _, runs in self.find() if runs]:
            for name in left:
                if name not in told:
                    # One that has just ended cannot be cancelled: the next list shows that.
                    self._send("POST", f"{name}:cancel", {}, ended=httpx.codes.BAD_REQUEST)
                    told.add(name)
            if clock() >= until:
                raise GcpError(
                    f"{len(left)} executions of the deployment {self._deployment} did not end within "
                    f"{END_SECONDS} s: {', '.join(left[:3])}; try again, or cancel them with "
                    "`gcloud run jobs executions cancel`"
                )
            sleep(PAUSE_SECONDS)

    def _send(self, method: str, path: str, params: Mapping[str, str], ended: int = 0) -> httpx.Response:
        body: dict[str, Any] | None = {} if method == "POST" else None
        try:
            answer = self._client.request(method, path, headers=self._headers, params=params, json=body)
        except httpx.HTTPError as error:
            raise GcpError(f"Cloud Run did not answer {method} {path}: {error}") from None
        if answer.is_success or answer.status_code in (httpx.codes.NOT_FOUND, ended):
            return answer
        raise GcpError(f"Cloud Run answered {method} {path} with {answer.status_code}: {message_of(answer)}")


def _variables(execution: Mapping[str, Any]) -> dict[str, str]:
    containers = (execution.get("template") or {}).get("containers") or ()
    return {one.get("name", ""): one.get("value", "") for each in containers for one in each.get("env") or ()}


def api_client() -> httpx.Client:
    return httpx.Client(base_url=os.environ.get(API_VARIABLE) or API, timeout=CALL_SECONDS)


class ExecutionsProvider(ResourceProvider):
    """Nothing is made; at the end, what the dispatcher ran is ended."""

    serialize_as_secret_always = False

    def configure(self, req: ConfigureRequest) -> None:
        end_with_engine()

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(props["deployment"], {key: props[key] for key in INPUTS})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        replaced = [key for key in INPUTS if _olds.get(key) != _news.get(key)]
        return DiffResult(changes=bool(replaced), replaces=replaced)

    @plain_errors
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        with api_client() as client:
            project, region, deployment = (_props[key] for key in INPUTS)
            Executions(client, project, region, deployment, lambda: token(client, SCOPE, PURPOSE)).end_all()


class BotExecutions(Resource, module="switchboard", name="GcpExecutions"):
    """The bots' executions of a deployment."""

    def __init__(
        self,
        name: str,
        *,
        project: str,
        region: str,
        deployment: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        props = {"project": project, "region": region, "deployment": deployment}
        super().__init__(ExecutionsProvider(), name, props, opts)
