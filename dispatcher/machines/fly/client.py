"""Fly's Machines API: the provider's calls, and the meaning of its errors for the fleet.

Fly documents two values of an error's `status` and hardly any of its status codes. The rest comes from
fly-go, Fly's own client (flaps/flaps_error.go), and from users' reports.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import httpx

from dispatcher.machines.fly.protocol import FlyTokens, fly_authorization, throttles
from dispatcher.machines.provider import (
    NoCapacity,
    ProviderError,
    QuotaReached,
    Rejected,
    Throttled,
    Unreachable,
)

RETRY_SECONDS = 1.0
"""Pause after a 429 without `Retry-After`: each action allows one call a second."""

NO_CAPACITY_CODES = ("insufficient_capacity", "volume_placement_capacity")

FULL = (
    "insufficient cpus available",
    "insufficient memory available",
    "insufficient ips available",
    "insufficient resources",
    "could not reserve resource for machine",
    "deploys to this host are temporarily disabled",
    "no capacity",
    "not enough capacity",
)

QUOTAS = (
    # 422: the organisation's machines.
    "reached its machine limit",
    # 403: the organisation's memory in one region.
    "over the allowed quota",
    # 422: an account without a credit card.
    "please add a payment method",
)


_TAKEN = re.compile(r"unique machine name violation, machine ID (\w+)")


def machine_with_name(answer: httpx.Response) -> str | None:
    """Return the machine that has the name; empty if Fly does not name it. None: it is another error."""
    if answer.status_code not in (409, 422) or "already_exists" not in answer.text:
        return None
    match = _TAKEN.search(answer.text)
    return match[1] if match else ""


def mapped(answer: httpx.Response) -> ProviderError:
    """Return Fly's error as a ProviderError."""
    status, said = answer.status_code, _body(answer)
    words = str(said.get("error") or said.get("message") or answer.text[:500]).strip()
    lower, about = words.lower(), f"Fly answered {answer.status_code}: {words}"
    if throttles(status, words):
        return Throttled(about, _retry_after(answer.headers))
    if any(sign in lower for sign in QUOTAS):
        return QuotaReached(about)
    if said.get("status") in NO_CAPACITY_CODES or any(sign in lower for sign in FULL):
        return NoCapacity(about)
    if status == 401:
        return Rejected(
            "Fly refuses the token (fly_api_token): it is wrong, revoked or expired; set another one: "
            f"{words}"
        )
    if status == 403:
        return Rejected(
            "Fly refuses access to the app: the app belongs to another organization, or the token is not "
            f"valid for it (fly_api_token); use a deploy token of this app: {words}"
        )
    if status in (400, 404, 405, 413, 422):
        return Rejected(about)
    # 408 and 5xx: it may have been done. 409 and 412: another call is changing the machine.
    return Unreachable(about)


def unanswered(error: httpx.HTTPError) -> Unreachable:
    """Return the error of a call without a readable answer.

    The exception's own text is left out: if a header could not be sent, it contains the header, with the
    token.
    """
    return Unreachable(f"Fly did not answer: {type(error).__name__}")


def _body(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        body = answer.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return body if isinstance(body, dict) else {}


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return `Retry-After` in seconds. Fly documents no such header; a date in it counts as none."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return RETRY_SECONDS
    return seconds if math.isfinite(seconds) and seconds >= 0 else RETRY_SECONDS


CONNECT_SECONDS = 5.0
CALL_SECONDS = 8.0
"""Limit on a call. The fleet gives up after 10."""

CREATE_SECONDS = 15.0
"""Limit on a create: Fly allocates a host for the machine, "maybe low double digit seconds"."""

LONGEST_WAIT = 60
"""Fly's limit on one call of `wait`, in seconds."""

CONNECTIONS = 1000
"""Limit on concurrent connections. Every machine that is starting holds one, which waits for its start."""

NONCE = "fly-machine-lease-nonce"

Machine = dict[str, Any]
"""A machine as Fly shows it."""


class NameTaken(Exception):
    """A machine of this name exists. `id` is its id; empty if Fly does not name it."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id


class FlyApi:
    """One client for all apps of a placement. Every method raises `ProviderError`."""

    def __init__(
        self, url: str, tokens: FlyTokens, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._url = url.rstrip("/") + "/v1"
        self._tokens = tokens
        self._transport = transport
        self._made: httpx.AsyncClient | None = None

    async def close(self) -> None:
        if self._made is not None:
            await self._made.aclose()
            self._made = None

    async def create(self, app: str, body: dict[str, Any]) -> Machine:
        """Create a machine.

        Raises:
            NameTaken: besides.
        """
        answer = await self._call("POST", app, json=body, seconds=CREATE_SECONDS)
        if (taken := machine_with_name(answer)) is not None:
            raise NameTaken(taken)
        return _read(answer)

    async def show(self, app: str, machine: str) -> Machine | None:
        """Return the machine with this id; None if there is none.

        Raises:
            Unreachable: Fly answered with another machine, besides the usual causes.
        """
        shown = _read_if_there(await self._call("GET", app, machine))
        if shown is not None and shown.get("id") != machine:
            raise Unreachable(f"Fly answered with machine {shown.get('id')} when asked for machine {machine}")
        return shown

    async def machines(self, app: str, params: Sequence[tuple[str, str]]) -> list[Machine]:
        return _read(await self._call("GET", app, params=params))

    async def wait(self, app: str, machine: Machine, states: Collection[str], seconds: float) -> str | None:
        """Return the state that the machine reached; None if it reached none of these in time. Empty: not
        told."""
        seconds = max(1, min(int(seconds), LONGEST_WAIT))
        params = [("state", state) for state in states]
        # `stopped` refers to one version of a machine, the others to any.
        params += [("timeout", str(seconds)), ("instance_id", machine["instance_id"])]
        path = f"{machine['id']}/wait"
        answer = await self._call("GET", app, path, params=params, seconds=seconds + CALL_SECONDS)
        if answer.status_code == 408:
            return None
        if answer.status_code == 404:
            return ""
        return _read(answer).get("state", "")

    async def lease(self, app: str, machine: str, seconds: int, nonce: str | None) -> str | None:
        """Take or extend the machine's lease; return None if another holder has it."""
        body = {"ttl": seconds, "description": "switchboard: stop"}
        answer = await self._call("POST", app, f"{machine}/lease", json=body, nonce=nonce)
        if answer.status_code == 409:
            return None
        said = _read(answer)
        # With an envelope by the documentation; without one by the API's description.
        return said.get("data", said)["nonce"]

    async def stop(self, app: str, machine: str, signal: str, seconds: int, nonce: str) -> bool:
        """Ask the machine to stop; return False if Fly refuses: it may not run, or be gone."""
        body = {"signal": signal, "timeout": f"{seconds}s"}
        return _done(await self._call("POST", app, f"{machine}/stop", json=body, nonce=nonce))

    async def delete(self, app: str, machine: str, nonce: str | None = None) -> None:
        """Destroy the machine in any state. Does nothing if it is gone."""
        params = [("force", "true")]
        _done(await self._call("DELETE", app, machine, params=params, nonce=nonce))

    async def suspend(self, app: str, machine: str) -> None:
        _read(await self._call("POST", app, f"{machine}/suspend"))

    async def start(self, app: str, machine: str) -> None:
        _read(await self._call("POST", app, f"{machine}/start"))

    async def _call(
        self,
        method: str,
        app: str,
        path: str = "",
        *,
        params: Sequence[tuple[str, str]] = (),
        json: Any = None,
        nonce: str | None = None,
        seconds: float = CALL_SECONDS,
    ) -> httpx.Response:
        """Call the API of an app's machines."""
        headers = {"Authorization": fly_authorization(self._tokens.of(app))}
        if nonce is not None:
            headers[NONCE] = nonce
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        url = f"/apps/{app}/machines/{path}".rstrip("/")
        try:
            return await self._client.request(
                method, url, params=tuple(params), json=json, headers=headers, timeout=timeout
            )
        except httpx.HTTPError as error:
            raise unanswered(error) from None

    @property
    def _client(self) -> httpx.AsyncClient:
        if self._made is None:
            self._made = httpx.AsyncClient(
                base_url=self._url,
                limits=httpx.Limits(max_connections=CONNECTIONS),
                transport=self._transport,
            )
        return self._made


def _read(answer: httpx.Response) -> Any:
    if not answer.is_success:
        raise mapped(answer)
    try:
        return answer.json()
    except ValueError as error:
        raise Unreachable(f"Fly answered {answer.status_code} without JSON") from error


def _read_if_there(answer: httpx.Response) -> Machine | None:
    return None if answer.status_code == 404 else _read(answer)


def _done(answer: httpx.Response) -> bool:
    if answer.is_success:
        return True
    if answer.status_code in (404, 412):
        return False
    raise mapped(answer)
