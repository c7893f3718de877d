"""Calls of the Compute Engine API that the provider makes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from dispatcher.machines.compute_engine.request import EXIT_CODE
from dispatcher.machines.google.api import CALL_SECONDS, GoogleApi, Kind
from dispatcher.machines.google.shapes import (
    GUEST_ATTRIBUTES,
    INSTANCE,
    INSTANCES,
    OPERATION,
    TEMPLATE,
    shaped,
)
from dispatcher.machines.provider import Unreachable
from dispatcher.rate_limit import Rate

RATES: Mapping[Kind, Rate] = {
    "read": Rate(25, burst=100),
    "write": Rate(25, burst=100),
    "operation": Rate(25, burst=100),
}
"""Turns of a dispatcher's calls: "Compute Engine rate quotas" gives 1,500 a minute to most groups of methods
in a region. The quota is the project's, so others may use some of it."""

PAGE = 500
"""Most instances of a page; the API's limit."""

MOST_PAGES = 100
"""Limit on the pages of one list: fifty thousand VMs in a zone."""

LONGEST_WAIT = 120.0
"""The API's limit on one wait for an operation, in seconds. It may answer sooner."""

MOST_TEMPLATES = 1000
"""Limit on the templates that are remembered. They never change."""

Operation = Mapping[str, Any]
Instance = Mapping[str, Any]


class ComputeApi:
    """One project's API. Every method raises `ProviderError`."""

    def __init__(self, api: GoogleApi, project: str) -> None:
        self._api = api
        self._project = project
        self._templates: OrderedDict[str, Sequence[Mapping[str, str]]] = OrderedDict()

    async def close(self) -> None:
        await self._api.close()

    async def template_items(self, path: str) -> Sequence[Mapping[str, str]]:
        """Return the metadata of an instance template."""
        if (known := self._templates.get(path)) is not None:
            return known
        shown = shaped(TEMPLATE, (await self._api.call("read", "GET", path)).body, path)
        if shown.get("name") != path.rpartition("/")[2]:
            raise Unreachable(f"Compute Engine showed {shown.get('name')} when asked for {path}")
        items = shown.get("properties", {}).get("metadata", {}).get("items", [])
        self._templates[path] = items
        if len(self._templates) > MOST_TEMPLATES:
            self._templates.popitem(last=False)
        return items

    async def insert(
        self, zone: str, body: Mapping[str, Any], template: str, request_id: str
    ) -> Operation | None:
        """Create an instance; return the operation, or None if one of this name exists in the zone."""
        params = (("requestId", request_id), ("sourceInstanceTemplate", template))
        path = self._instances(zone)
        answer = await self._api.call("write", "POST", path, params=params, json=body, expected=(409,))
        if answer.ok:
            return shaped(OPERATION, answer.body, f"the operation of {body['name']}")
        if "alreadyexists" in answer.reasons or "already exists" in answer.message:
            return None
        raise self._api.error(answer)

    async def wait(self, zone: str, operation: Operation) -> Operation:
        """Return an operation when it is done, or unfinished after a while."""
        name = operation["name"]
        path = f"projects/{self._project}/zones/{zone}/operations/{name}/wait"
        seconds = LONGEST_WAIT + CALL_SECONDS
        answer = await self._api.call("operation", "POST", path, seconds=seconds)
        return shaped(OPERATION, answer.body, f"operation {name}")

    async def show(self, zone: str, name: str) -> Instance | None:
        """Return an instance; None if the zone has none of this name."""
        answer = await self._api.call("read", "GET", self._instances(zone, name), expected=(404,))
        return shaped(INSTANCE, answer.body, f"instance {name} in {zone}") if answer.ok else None

    async def pages(self, zone: str, wanted: Mapping[str, str]) -> AsyncGenerator[list[Instance], None]:
        """Yield a zone's instances with these labels, a page at a time. The filter may be ignored."""
        words = " AND ".join(f'labels.{key}="{value}"' for key, value in wanted.items())
        token = ""
        for _ in range(MOST_PAGES):
            params = [("filter", words), ("maxResults", str(PAGE))]
            params += [("pageToken", token)] if token else []
            answer = await self._api.call("read", "GET", self._instances(zone), params=params)
            page = shaped(INSTANCES, answer.body, f"the list of instances in {zone}")
            yield page.get("items", [])
            if not (token := page.get("nextPageToken", "")):
                return
        raise Unreachable(f"{zone} has more instances than {MOST_PAGES} pages show")

    async def delete(self, zone: str, name: str) -> None:
        """Delete an instance, in any state: its system shuts down first. Does nothing if it is gone."""
        await self._api.call("write", "DELETE", self._instances(zone, name), expected=(404,))

    async def exit_code(self, zone: str, name: str) -> int | None:
        """Return the exit code that a VM left in its guest attributes; None if there is none."""
        namespace, key = EXIT_CODE
        path = f"{self._instances(zone, name)}/getGuestAttributes"
        params = (("queryPath", f"{namespace}/{key}"),)
        answer = await self._api.call("read", "GET", path, params=params, expected=(400, 404))
        shown = shaped(GUEST_ATTRIBUTES, answer.body if answer.ok else {}, f"the attributes of {name}")
        items = shown.get("queryValue", {}).get("items", [])
        text = next((one.get("value", "") for one in items if one.get("key") == key), "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else None

    async def suspend(self, zone: str, name: str) -> Operation:
        return await self._step(zone, name, "suspend")

    async def resume(self, zone: str, name: str) -> Operation:
        return await self._step(zone, name, "resume")

    async def _step(self, zone: str, name: str, verb: str) -> Operation:
        answer = await self._api.call("write", "POST", f"{self._instances(zone, name)}/{verb}")
        return shaped(OPERATION, answer.body, f"the operation of {name}")

    def _instances(self, zone: str, name: str = "") -> str:
        return f"projects/{self._project}/zones/{zone}/instances/{name}".rstrip("/")
