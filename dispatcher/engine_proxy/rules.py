"""Rules of the engine's proxy: pure functions from a request to the call to the engine.

No part of a request is passed on. It is parsed strictly and compared with the provider's own request, and the
proxy then makes a new request to the engine. So it does not matter how the engine would read the parts that
are refused or dropped: JSON members in another case or repeated, paths with dots, headers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from dispatcher.engine_proxy.reading import (
    NUMBER,
    Refused,
    member,
    nothing_in,
    number,
    only,
    read_json,
    read_query,
    texts,
    within,
)
from dispatcher.engine_proxy.settings import ProxySettings, full_name, repository_of
from dispatcher.machines.container.capacity import LIMITS
from dispatcher.machines.container.request import (
    DEPLOYMENT_LABEL,
    DIRECTORY,
    FILE,
    IMAGE_LABEL,
    LABEL,
    MACHINE_LABEL,
    MEMORY_LABEL,
    NEW,
    OLD,
    PING,
    Facts,
    Place,
    archive,
    body,
    content_of,
    is_own,
    machine_id_of,
)
from dispatcher.machines.deadline import KILL_AFTER_SECONDS

TARGET = re.compile(
    rf"/((?P<version>{re.escape(OLD)}|{re.escape(NEW)})/)?"
    r"(?P<path>[A-Za-z0-9/._:@-]+)(\?(?P<query>[!-~]*))?"
)
"""A request's target. The path must not contain a percent sign: the engine would decode it after the
comparison."""

MACHINE = re.compile(r"m-[A-Za-z0-9_-]{1,100}")
"""A machine's id, as the dispatcher makes them: no name of the stack's own containers matches."""
VERSION = re.compile(r"(?=[:@])(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?")
"""The part of an image's name after its repository."""

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NOT_IN_OURS = re.compile(r"[\x00-\x1f\x7f]")
NOT_IN_AGENTS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Control characters, except tabs and line ends, which an agent's variable may have: keys in PEM, JSON of
many lines.

Programs on the host that read variables read them from the engine's list, in which a line end ends nothing.
"""
MAX_STOP_SECONDS = 3600
MAX_LINES = 1001
SINCE = re.compile(r"[0-9]{1,11}\.[0-9]{9}")
"""Seconds and nanoseconds since 1970."""

Keep = Callable[[Any], Any]
"""Reduces the engine's answer to the parts for the caller."""


@dataclass(frozen=True)
class Ask:
    """A call to the engine, made instead of the request."""

    method: str
    path: str
    """Path after the API's version. `{id}` stands for the id of the container that is looked up first."""
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    container: str | None = None
    """The name of a container, which must be the deployment's own."""
    keep: Keep | None = None
    """None: the answer is streamed unchanged."""
    machine: tuple[str, int] | None = None
    """The machine that is created and its MiB of memory, which must be free."""
    waits: float | None = 0.0
    """Seconds for the engine beyond the limit of any call; None for no limit."""
    is_new: bool = False
    """True if the container must never have run."""
    starts: bool = False
    """True if it starts a container, which must never have run and whose memory is counted."""
    version: str = OLD
    """Version of the engine's API, as the caller has found out."""

    def target(self, container_id: str = "") -> str:
        if self.path == PING:
            return f"/{PING}"
        query = f"?{urlencode(self.query)}" if self.query else ""
        return f"/{self.version}/{self.path.replace('{id}', container_id)}{query}"


class Rules:
    """The rules of one deployment."""

    def __init__(self, settings: ProxySettings) -> None:
        self._repositories = {full_name(one) for one in settings.repositories}
        self._settings = settings
        self._place = Place(settings.deployment, settings.network, settings.models)

    def read(self, method: str, target: str, content: bytes) -> Ask:
        """Return the call to the engine for this request.

        Raises:
            Refused: the provider makes no such request.
        """
        match = TARGET.fullmatch(target)
        if match is None:
            raise Refused(f"{target[:200]!r} is not a path of the provider's")
        path, query = match["path"], read_query(match["query"])
        if (method, path, match["version"]) == ("GET", PING, None):
            nothing_in(query, content)
            # For the health command.
            return self.ping()
        if match["version"] is None:
            raise Refused(f"{path!r} has no version; allowed: {OLD}, {NEW}")
        return replace(self._versioned(method, path, query, content), version=match["version"])

    def ping(self) -> Ask:
        """Return the call that shows that the engine answers."""
        return Ask("GET", PING)

    def network(self) -> Ask:
        """Return the call for the bots' network, which is our own."""
        return Ask("GET", f"networks/{self._settings.network}")

    def is_bot(self, name: str) -> bool:
        """Return True if a container of this name may be a bot of ours."""
        return name.startswith(f"{self._settings.deployment}-m-")

    def info(self) -> Ask:
        """Return the call for the host's memory, and for what the engine can limit."""
        names = ("MemTotal", *LIMITS)
        return Ask("GET", "info", keep=lambda found: {key: found[key] for key in names if key in found})

    def listing(self) -> Ask:
        """Return the call for all of this deployment's containers."""
        label = f"{DEPLOYMENT_LABEL}={self._settings.deployment}"
        filters = {"all": "true", "filters": json.dumps({"label": [label]})}
        return Ask("GET", "containers/json", filters, keep=self.listed)

    def listed(self, found: Any) -> list[dict[str, Any]]:
        """Return the part of a list for the caller: this deployment's machines, whatever the engine
        filtered."""
        return [
            {name: one[name] for name in ("Id", "Names", "State", "Labels")}
            for one in found
            if machine_id_of(self._place, one["Names"], one["Labels"])
        ]

    @property
    def max_containers(self) -> int:
        return self._settings.max_containers

    def is_ours(self, found: Any, name: str) -> bool:
        """Return True if the engine's answer is about this deployment's machine of that name.

        Raises:
            Refused: It is about another container, so nothing is known of the requested one.
        """
        if (shown := found["Name"].lstrip("/")) != name:
            raise Refused(f"the engine failed: it answered with container {shown} when asked for {name}", 500)
        return self._machine_of(name) == machine_id_of(self._place, [name], found["Config"]["Labels"])

    def _versioned(self, method: str, path: str, query: dict[str, str], content: bytes) -> Ask:
        if (method, path) == ("POST", "containers/create"):
            return self._create(query, content)
        if method != "PUT":
            nothing_in({}, content)
        return self._other(method, path, query, content)

    def _other(self, method: str, path: str, query: dict[str, str], content: bytes) -> Ask:
        if (method, path) == ("GET", "info"):
            nothing_in(query)
            return self.info()
        if (method, path) == ("GET", "containers/json"):
            label = f"{DEPLOYMENT_LABEL}={self._settings.deployment}"
            if query.get("all") != "true" or read_json(query.get("filters", "")) != {"label": [label]}:
                raise Refused(f"containers are listed with all=true and the label {label}")
            only(query, {"all", "filters"})
            return self.listing()
        if (method, path) == ("POST", "images/create"):
            return self._pull(query)
        if path.startswith("images/") and path.endswith("/json") and method == "GET":
            nothing_in(query)
            image = self._image(path.removeprefix("images/").removesuffix("/json"))
            return Ask("GET", f"images/{image}/json", keep=_image_seen)
        return self._of_a_container(method, path, query, content)

    def _of_a_container(self, method: str, path: str, query: dict[str, str], content: bytes) -> Ask:
        parts = path.split("/")
        if parts[0] != "containers" or len(parts) not in (2, 3):
            raise Refused(f"{method[:20]!r} of {path[:200]!r} is not a call of the provider's")
        name = parts[1]
        self._machine_of(name)
        match (method, *parts[2:]):
            case ("GET", "json"):
                nothing_in(query)
                return Ask("GET", "containers/{id}/json", container=name, keep=_inspected)
            case ("POST", "start"):
                nothing_in(query)
                return Ask("POST", "containers/{id}/start", container=name, starts=True, waits=None)
            case ("POST", "stop"):
                only(query, {"t"})
                seconds = number(query, "t", MAX_STOP_SECONDS)
                return Ask("POST", "containers/{id}/stop", {"t": seconds}, container=name, waits=int(seconds))
            case ("DELETE",):
                only(query, {"force", "v"})
                return Ask("DELETE", "containers/{id}", {"force": "true", "v": "true"}, container=name)
            case ("PUT", "archive"):
                only(query, {"path"})
                if query.get("path") != DIRECTORY:
                    raise Refused(f"path: {query.get('path', '')[:200]!r} is refused; allowed: {DIRECTORY}")
                made = archive(self._variables(content))
                path = "containers/{id}/archive"
                return Ask("PUT", path, {"path": DIRECTORY}, made, container=name, is_new=True)
            case ("GET", "logs"):
                return Ask("GET", "containers/{id}/logs", _lines(query), container=name)
        raise Refused(f"{method[:20]!r} of {path[:200]!r} is not a call of the provider's")

    def _pull(self, query: dict[str, str]) -> Ask:
        only(query, {"fromImage", "tag"})
        image = self._image(query.get("fromImage", ""))
        last = image.rpartition("/")[2]
        # A separate tag would override the name's tag or digest; without any the engine would pull all tags.
        tag = {} if ":" in last or "@" in last else {"tag": "latest"}
        if "tag" in query and query["tag"] != tag.get("tag"):
            raise Refused(f"tag: {query['tag'][:100]!r} is refused; allowed: what is in the image's name")
        return Ask("POST", "images/create", {"fromImage": image, **tag}, waits=None)

    def _image(self, image: str) -> str:
        repository = repository_of(image)
        named = full_name(repository) in self._repositories and repository != "sha256"
        known = named and VERSION.fullmatch(image, len(repository))
        if not known and image not in self._settings.images:
            some = [f"{one}:… or @sha256:…" for one in self._settings.repositories]
            allowed = ", ".join([*self._settings.images, *some])
            raise Refused(f"Image: {image[:200]!r} is refused; allowed: {allowed}")
        return image

    def _machine_of(self, name: str) -> str:
        machine = name.removeprefix(f"{self._settings.deployment}-")
        if machine == name or not MACHINE.fullmatch(machine):
            raise Refused(f"container {name[:200]!r} is refused; allowed: {self._settings.deployment}-m-…")
        return machine

    def _create(self, query: dict[str, str], content: bytes) -> Ask:
        only(query, {"name"})
        name = query.get("name", "")
        given = read_json(content)
        facts = self._facts(self._machine_of(name), given)
        wanted = body(self._place, facts)
        if (where := _difference(wanted, given)) is not None:
            raise Refused(where)
        made = json.dumps(wanted).encode()
        return Ask(
            *("POST", "containers/create", {"name": name}, made),
            keep=lambda found: {"Id": found["Id"]},
            machine=(facts.machine_id, facts.memory_mb),
            waits=None,
        )

    def _facts(self, machine_id: str, given: Any) -> Facts:
        """Return the facts that the caller may choose, within their limits."""
        settings = self._settings
        most_cpu = round(settings.max_cpu * 1e9)
        host = member(given, "HostConfig", dict)
        environment = texts(given, "Env")
        for variable in environment:
            if "=" not in variable:
                # The engine would fill it in from its own environment.
                raise Refused(f"Env: {variable[:100]!r} has no value; allowed: NAME=value")
            self._check_variable("Env", *variable.split("=", 1))
        arguments = texts(given, "Cmd")
        if any("\0" in argument for argument in arguments):
            # A NUL ends the argument.
            raise Refused("Cmd: has a NUL, which is refused; allowed: text")
        entrypoint = texts(given, "Entrypoint")
        seconds = entrypoint[2] if len(entrypoint) > 2 else ""
        labels = member(given, "Labels", dict)
        memory = labels.get(MEMORY_LABEL)
        if not isinstance(memory, str) or not NUMBER.fullmatch(memory):
            raise Refused(f"Labels.{MEMORY_LABEL}: is refused; allowed: whole MiB")
        if not NUMBER.fullmatch(seconds):
            raise Refused(
                f"Entrypoint: is refused; allowed: timeout --kill-after={KILL_AFTER_SECONDS} <s> python …"
            )
        if labels.get(MACHINE_LABEL) != machine_id:
            raise Refused(f"Labels.{MACHINE_LABEL}: is refused; allowed: {machine_id}, as in the name")
        return Facts(
            machine_id=machine_id,
            image=self._image(member(given, "Image", str)),
            nano_cpus=within(member(host, "NanoCpus", int), most_cpu, "HostConfig.NanoCpus"),
            memory_mb=within(int(memory), settings.max_memory_mb, f"Labels.{MEMORY_LABEL}"),
            seconds=within(int(seconds), settings.max_seconds, "Entrypoint"),
            arguments=tuple(arguments),
            environment=tuple(environment),
            has_file=LABEL in labels,
        )

    def _variables(self, packed: bytes) -> dict[str, str]:
        """Return the variables of a file that is handed over."""
        try:
            given = read_json(content_of(packed))
        except ValueError as error:
            raise Refused(f"the archive is refused: {error}; allowed: {FILE} alone") from None
        if not isinstance(given, dict):
            raise Refused(f"{FILE}: is refused; allowed: an object")
        for name, value in given.items():
            if not isinstance(value, str):
                raise Refused(f"{FILE}: {name[:100]!r} is refused; allowed: a text")
            self._check_variable(FILE, name, value)
        return given

    def _check_variable(self, where: str, name: str, value: str) -> None:
        allowed = self._settings.variables
        if not VARIABLE.fullmatch(name) or not (is_own(name) or name in allowed):
            words = ", ".join(allowed) or "the provider's own"
            raise Refused(f"{where}: {name[:100]!r} is refused; allowed: {words}")
        if (NOT_IN_OURS if is_own(name) else NOT_IN_AGENTS).search(value):
            raise Refused(f"{where}: {name} has a control character, which is refused; allowed: text")


def _lines(query: dict[str, str]) -> dict[str, str]:
    """Return the engine's parameters for a look at a container's lines."""
    only(query, {"stdout", "stderr", "follow", "tail", "timestamps", "since"})
    if query.get("follow") != "0":
        raise Refused("follow: is refused; allowed: 0")
    wanted = {"stdout": "true", "stderr": "true", "tail": number(query, "tail", MAX_LINES)}
    if "timestamps" in query:
        wanted["timestamps"] = "true"
    if "since" in query:
        if not SINCE.fullmatch(query["since"]):
            raise Refused(f"since: {query['since'][:100]!r} is refused; allowed: seconds with nine decimals")
        wanted["since"] = query["since"]
    return wanted


def _difference(wanted: Any, given: Any, where: str = "") -> str | None:
    """Return the path of the first difference between a body and the expected one; None if they are equal."""
    if isinstance(wanted, dict) and isinstance(given, dict):
        for name in sorted({*wanted, *given}):
            path = f"{where}.{name}" if where else name
            if name not in wanted:
                return f"{path[:200]!r}: is not allowed"
            if name not in given:
                return f"{path}: is missing"
            if (found := _difference(wanted[name], given[name], path)) is not None:
                return found
        return None
    if type(wanted) is not type(given) or wanted != given:
        return f"{where}: {str(given)[:100]!r} is refused; allowed: {str(wanted)[:100]!r}"
    return None


def _image_seen(found: Any) -> dict[str, Any]:
    labels = (found.get("Config") or {}).get("Labels") or {}
    return {
        "Id": found["Id"],
        "Config": {"Labels": {name: labels[name] for name in {IMAGE_LABEL} & labels.keys()}},
    }


def _inspected(found: Any) -> dict[str, Any]:
    """Return the answer without the environment, which contains the machine's token, and without the host's
    paths."""
    state, config = found["State"], found["Config"]
    return {
        "Id": found["Id"],
        "Name": found["Name"],
        "State": {name: state[name] for name in ("Status", "ExitCode", "OOMKilled") if name in state},
        "Config": {"Labels": config["Labels"], "Tty": config["Tty"]},
        "HostConfig": {"Memory": found["HostConfig"]["Memory"]},
    }
