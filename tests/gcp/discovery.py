"""A discovery document: which method a call is, and whether it and its answer are well-formed."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ALT = "$alt"
"""A parameter of every API that documents do not name: "System parameters" of Google's Cloud APIs."""


@dataclass(frozen=True)
class Method:
    id: str
    http: str
    path: re.Pattern[str]
    described: Mapping[str, Any]


class Document:
    """One API's document. Objects are closed: what it does not name is an error."""

    def __init__(self, file: str) -> None:
        self._given = json.loads((HERE / file).read_text())
        self.methods = tuple(
            Method(one["id"], one["httpMethod"], _pattern(self._given["servicePath"], one), one)
            for one in self._given["methods"].values()
        )

    def find(self, http: str, path: str) -> tuple[Method, dict[str, str]] | None:
        """Return the method of a call, and the parameters in its path."""
        for method in self.methods:
            if method.http == http and (match := method.path.fullmatch(path)):
                return method, match.groupdict()
        return None

    def request_problems(
        self, method: Method, params: Mapping[str, str], query: Mapping[str, list[str]], body: Any
    ) -> list[str]:
        """Return what is wrong with a request."""
        found = []
        known = {**self._given["parameters"], **method.described.get("parameters", {})}
        for name, values in {**query, **{name: [value] for name, value in params.items()}}.items():
            if name == ALT:
                continue
            if name not in known:
                found.append(f"there is no parameter {name}")
            elif name in query and known[name].get("location") != "query":
                found.append(f"{name} is no parameter of the query")
            else:
                for value in values:
                    found += self._of_parameter(name, known[name], value)
        wanted = method.described.get("request")
        if wanted is None:
            found += ["it takes no body"] if body is not None else []
        elif body is None:
            found.append("the body is missing")
        else:
            found += self._problems(wanted, body, "body", sent=True)
        return [f"{method.id}: {one}" for one in found]

    def answer_problems(self, method: Method, body: Any) -> list[str]:
        """Return what is wrong with an answer that is no error."""
        found = self._problems(method.described["response"], body, "answer", sent=False)
        return [f"{method.id}: {one}" for one in found]

    def schema_problems(self, name: str, value: Any) -> list[str]:
        """Return what is wrong with a value that somebody sends as this schema."""
        return list(self._problems({"$ref": name}, value, name, sent=True))

    def _of_parameter(self, name: str, schema: Mapping[str, Any], value: str) -> Iterator[str]:
        pattern = schema.get("pattern")
        if pattern is not None and not re.fullmatch(pattern, value):
            yield f"{name}: {value!r} is not of the form {pattern}"
        typed: Any = value
        if schema["type"] == "integer":
            typed = int(value) if re.fullmatch(r"-?[0-9]+", value) else value
        elif schema["type"] == "boolean":
            typed = {"true": True, "false": False}.get(value, value)
        yield from self._problems({**schema, "readOnly": False}, typed, name, sent=True)

    def _problems(self, schema: Mapping[str, Any], value: Any, where: str, *, sent: bool) -> Iterator[str]:
        if sent and schema.get("readOnly"):
            yield f"{where}: it is for answers only"
        if (name := schema.get("$ref")) is not None:
            yield from self._problems(self._given["schemas"][name], value, where, sent=sent)
            return
        kind = schema.get("type", "any")
        if kind == "object":
            yield from self._of_object(schema, value, where, sent=sent)
        elif kind == "array":
            if not isinstance(value, list):
                yield f"{where}: {value!r} is no list"
                return
            for number, one in enumerate(value):
                yield from self._problems(schema["items"], one, f"{where}[{number}]", sent=sent)
        elif not _is_of(kind, schema.get("format", ""), value):
            yield f"{where}: {value!r} is no {schema.get('format', '')} {kind}"
        elif "enum" in schema and value not in schema["enum"]:
            yield f"{where}: {value!r} is none of {schema['enum']}"
        elif kind == "string" and "pattern" in schema and not re.fullmatch(schema["pattern"], value):
            yield f"{where}: {value!r} is not of the form {schema['pattern']}"

    def _of_object(self, schema: Mapping[str, Any], value: Any, where: str, *, sent: bool) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no object"
            return
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        for name, one in value.items():
            if name in known:
                yield from self._problems(known[name], one, f"{where}.{name}", sent=sent)
            elif others is not None:
                yield from self._problems(others, one, f"{where}.{name}", sent=sent)
            else:
                yield f"{where}: there is no member {name}"


@functools.cache
def document(file: str) -> Document:
    """Return a document, which is read once."""
    return Document(file)


def _pattern(service: str, method: Mapping[str, Any]) -> re.Pattern[str]:
    """Return a method's path. `{+name}` stands for several segments, in the form of the parameter."""
    made, at = "/" + re.escape(service), 0
    path = method["path"]
    for match in re.finditer(r"\{(\+?)(\w+)\}", path):
        made += re.escape(path[at : match.start()])
        form = method["parameters"][match[2]].get("pattern", "").strip("^$") if match[1] else "[^/:]+"
        made += f"(?P<{match[2]}>{form})"
        at = match.end()
    return re.compile(made + re.escape(path[at:]))


def _is_of(kind: str, format: str, value: Any) -> bool:
    match kind:
        case "any":
            return True
        case "boolean":
            return isinstance(value, bool)
        case "integer" | "number":
            return isinstance(value, (int, float) if kind == "number" else int) and not isinstance(
                value, bool
            )
    if not isinstance(value, str):
        return False
    if format in ("int64", "uint64"):
        return re.fullmatch(r"-?[0-9]+", value) is not None
    if format == "google-duration":
        return re.fullmatch(r"-?[0-9]+(\.[0-9]{1,9})?s", value) is not None
    return True
