"""Refusals of config values: one line for each fault, which names the key, the value and what is allowed.

A key is written as `pulumi config set --path` takes it: `switchboard:agents.echo.env[0]`. A value is shown
only where it can hardly be a secret: a refusal ends up in terminals and in logs of CI.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from dispatcher.fields import allowed_at, model_at
from dispatcher.keys import NAME_WORDS
from dispatcher.settings import Settings
from stacks.daily_config import API_KEY

SECRET_WORDS = ("key", "secret", "token", "password", "url", "iceservers")
"""A key with one of these in its name is shown without its value."""

LONGEST_SHOWN = 60
TOKEN = re.compile(
    # Prefixes that services put before their keys, and then runs that nobody would choose as a name.
    r"\b(sk|pk|rk|pul|xox[a-z]|glpat|ghp|github_pat|gsk|fo1|fm[12]|hf)[-_][^\s\"']+|\bAKIA\w+|\beyJ[^\s\"']+"
    r"|FlyV1\s*[^\s\"']*|(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9+]{20,}"
)
IN_LISTS = ("keys", "iceServers")
"""Keys that are lists of mappings."""


def masked(text: str) -> str:
    """Return `text` without what may be secret: a URL's userinfo and query, what follows `=`, API keys."""
    text = re.sub(r"^([a-zA-Z][a-zA-Z0-9+.-]*:(?://)?)?.*@", r"\1…@", text, flags=re.DOTALL)
    text = re.sub(r"([=?#]).*", r"\1…", text, flags=re.DOTALL)
    return TOKEN.sub("…", text)


def explain(error: ValidationError, model: type[BaseModel], project: str, within: str = "") -> str:
    """A line for each value that is refused.

    Args:
        model: The class of which `error` is: the stack config's, or that of a part of it.
        within: The key of that part.
    """
    lines = []
    for fault in _faults(error):
        path = ".".join(filter(None, [within, path_of(fault["loc"])]))
        if fault["type"] == "value_error":
            # A check of our own, whose words say what is allowed.
            lines.append(_line(project, path, _message(fault)))
            continue
        value = _shown(fault, model)
        lines.append(f"{project}:{path}:{value} {_wrong(fault)}; allowed: {_allowed(fault, model)}")
    return "\n".join(lines)


def explain_settings(error: ValidationError, project: str, origins: Mapping[str, str]) -> str:
    """Like `explain`, of the dispatcher's settings that were made from a config.

    Args:
        origins: Setting → the key of the config that it comes from, or the variable.
    """
    lines = []
    for fault in error.errors(include_url=False, include_input=False):
        setting, *rest = fault["loc"] or ("",)
        path = path_of([origins.get(str(setting), to_camel(str(setting))), *rest])
        if fault["type"] == "value_error":
            lines.append(_line(project, path, _with_keys(_without_prefix(fault["msg"]), project, origins)))
        else:
            allowed = f"{API_KEY}, of at least 8 characters" if setting == "daily_api_key" else ""
            lines.append(f"{project}:{path}: is refused; allowed: {allowed or fault['msg']}")
    return "\n".join(lines)


def path_of(location: Sequence[int | str]) -> str:
    """`agents.echo.env[0]`; a faulty name of a mapping is pydantic's `name`, `[key]`."""
    parts = [part for part in location if part != "[key]"]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{masked(part)}" for part in parts)
    return text.removeprefix(".")


def _faults(error: ValidationError) -> Iterator[ErrorDetails]:
    """The faults, without those that only follow from another one."""
    # If a list is too short, name the list, not the place that is not there.
    faults = [
        {**fault, "loc": fault["loc"][:-1]}
        if fault["type"] == "missing" and isinstance(fault["loc"][-1], int)
        else fault
        for fault in error.errors(include_url=False)
    ]
    wrong_names = {fault["loc"][:-1] for fault in faults if fault["loc"] and fault["loc"][-1] == "[key]"}
    unknown_beside = {fault["loc"][:-1] for fault in faults if fault["type"] == "extra_forbidden"}
    told = set()
    for fault in faults:
        location = fault["loc"]
        inside = any(
            len(one["loc"]) > len(location) and one["loc"][: len(location)] == location for one in faults
        )
        follows = (
            (fault["type"] in ("too_short", "missing") and inside)
            # A key with a wrong name is missing under its right one.
            or (fault["type"] == "missing" and location[:-1] in unknown_beside)
            or any(location != (*name, "[key]") and location[: len(name)] == name for name in wrong_names)
            or (location, fault["type"]) in told
        )
        if not follows:
            told.add((location, fault["type"]))
            yield fault  # type: ignore[misc]


def _line(project: str, path: str, message: str) -> str:
    """A check of a whole mapping begins its message with the key in it that is wrong: `turnPorts: …`."""
    if message.startswith(f"{project}:"):
        return message
    named = re.match(r"([a-z][A-Za-z0-9.]*): ", message)
    if named:
        return f"{project}:{path}.{message}" if path else f"{project}:{message}"
    return f"{project}:{path}: {message}" if path else f"{project}: {message}"


def _with_keys(message: str, project: str, origins: Mapping[str, str]) -> str:
    """A message of the dispatcher's with the config's keys in the place of its settings."""
    # It quotes values, too.
    message = re.sub(r"'([^']*)'", lambda quoted: f"'{masked(quoted[1])}'", message)
    message = re.sub(r"^agent '([a-z0-9-]+)'(?=[: ])", rf"{project}:agents.\1", message)
    message = re.sub(r"^(\S+:agents\.[a-z0-9-]+) (?=offers|at)", r"\1: ", message)
    for setting in Settings.model_fields:
        if "_" in setting:
            key = f"{project}:{origins.get(setting, to_camel(setting))}"
            message = re.sub(rf"(?<![\w.:]){setting}(?!\w)", key, message)
    return message


def _shown(fault: ErrorDetails, model: type[BaseModel]) -> str:
    """The value with a space before it; nothing where it may be a secret, or says nothing."""
    kind, location, value = fault["type"], fault["loc"], fault["input"]
    names = [str(part).lower() for part in location if not isinstance(part, int)]
    if kind in ("extra_forbidden", "missing") or any(word in names[0] for word in SECRET_WORDS):
        return ""
    if isinstance(value, str):
        if len(names) == 1 and names[0] in ("agents", *sections(model)):
            return ""  # a mapping that is not JSON: anything may be in it
        if "env" in names and not re.match(r"[A-Za-z_][A-Za-z0-9_]*=", value):
            return ""  # perhaps a value where its name was asked for
        text = masked(value)
        short = text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"
        return f" {json.dumps(short, ensure_ascii=False)}"
    if isinstance(value, (dict, list)) and any(not isinstance(one, (int, float)) for one in value):
        return " a mapping" if isinstance(value, dict) else " a list"
    return f" {json.dumps(value, default=lambda _: '…')}"


def _wrong(fault: ErrorDetails) -> str:
    kind = fault["type"]
    if kind == "extra_forbidden":
        return "is not a key"
    if kind == "missing":
        return "is missing"
    if kind.endswith(("_type", "_parsing", "_from_float")):
        return "has the wrong type"
    return "is refused"


def _message(fault: ErrorDetails) -> str:
    """The words of a check of our own. They may repeat the value."""
    text, value = _without_prefix(fault["msg"]), fault["input"]
    if isinstance(value, str) and value:
        text = text.replace(repr(value), repr(masked(value))).replace(value, masked(value))
    return text


def _without_prefix(message: str) -> str:
    return message.removeprefix("Value error, ")


def _allowed(fault: ErrorDetails, model: type[BaseModel]) -> str:
    location = fault["loc"]
    if fault["type"] != "extra_forbidden":
        return _description(location, model) or _without_prefix(fault["msg"])
    if len(location) == 1:
        return _path_hint(str(location[0]), model) or _names(model)
    return _names(model_at(model, location[:-1]))


def sections(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the keys of a model that are mappings of further keys → their models."""
    return {
        field.alias or name: field.annotation
        for name, field in model.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }


def _names(model: type[BaseModel]) -> str:
    return ", ".join(field.alias or name for name, field in model.model_fields.items())


def _path_hint(key: str, model: type[BaseModel]) -> str:
    """Return the command that sets `fly.org`, which `pulumi config set` without --path takes for one name."""
    if re.split(r"[.\[]", key)[0] not in ("agents", *sections(model), *IN_LISTS) or not re.search(
        r"[.\[]", key
    ):
        return ""
    return (
        f"`pulumi config set --path 'switchboard:{masked(key)}'` for a key of a mapping; take this one out "
        f"by `pulumi config rm 'switchboard:{masked(key)}'`"
    )


def _description(location: Sequence[int | str], model: type[BaseModel]) -> str:
    """Return the allowed values of the field at this place."""
    if "[key]" in location:
        return NAME_WORDS
    return allowed_at(model, location)
