"""Describe fields of settings models: the description and the allowed values, for docs and refusals.

The field is the only source: its docstring, type and constraints, and `Allowed` where these do not say in
words which values are allowed.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

ENVIRONMENT_PREFIX = "SWITCHBOARD_"
"""Prefix of the variables that set the dispatcher's settings."""


class ConfigModel(BaseModel):
    """Base of models that a stack's config is read with: keys in camelCase, and no others."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


@dataclass(frozen=True)
class Allowed:
    """Allowed values of a field in words, as metadata of its type: `Annotated[str, Allowed("…")]`."""

    words: str


def description(field: FieldInfo) -> str:
    """Return the field's description on one line."""
    return " ".join((field.description or "").split())


def allowed(field: FieldInfo) -> str:
    """Return the allowed values in words; empty if the type and its constraints have no short words."""
    return _words(field.annotation, field.metadata)


def allowed_at(model: type[BaseModel], location: Sequence[int | str]) -> str:
    """Return the allowed values at a place below a model; of the nearest place above if it has no words."""
    found = ""
    annotation: Any = model
    for part in location:
        within = unwrapped(annotation)[0]
        annotation, metadata = _inside(annotation, part)
        if annotation is None:
            break
        # For an item or a value only its own words: the list's words say more than the item's type.
        of_field = isinstance(within, type) and issubclass(within, BaseModel)
        found = (_words(annotation, metadata) if of_field else _said(metadata)) or found
    return found


def field_of(model: type[BaseModel], name: str) -> FieldInfo | None:
    """Return the field with this name or alias."""
    for field_name, field in model.model_fields.items():
        if name in (field_name, field.alias):
            return field
    return None


def model_at(model: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel]:
    """Return the model of the mapping at a place below a model."""
    annotation: Any = model
    for part in location:
        annotation, _ = _inside(annotation, part)
    found = unwrapped(annotation)[0]
    return found if isinstance(found, type) and issubclass(found, BaseModel) else model


def unwrapped(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without `Annotated` and `| None`, and the metadata that was around it."""
    metadata: tuple[Any, ...] = ()
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata += tuple(more)
        elif get_origin(annotation) in (Union, types.UnionType):
            members = [one for one in get_args(annotation) if one is not type(None)]
            if len(members) != 1:
                return annotation, metadata
            annotation = members[0]
        else:
            return annotation, metadata


def _inside(annotation: Any, part: int | str) -> tuple[Any, tuple[Any, ...]]:
    """Return the type and the metadata of a field, an item or a value of this type."""
    annotation, _ = unwrapped(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = field_of(annotation, str(part))
        return (field.annotation, tuple(field.metadata)) if field else (None, ())
    arguments = get_args(annotation)
    if get_origin(annotation) is tuple and isinstance(part, int):
        return unwrapped(arguments[0])
    if get_origin(annotation) in (dict, Mapping) and arguments:
        return unwrapped(arguments[1])
    return None, ()


def _words(annotation: Any, metadata: Sequence[Any]) -> str:
    annotation, more = unwrapped(annotation)
    metadata = (*metadata, *more)
    if said := _said(metadata):
        return said
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, get_args(annotation)))
    if get_origin(annotation) is tuple:
        choices = unwrapped(get_args(annotation)[0])[0]
        if get_origin(choices) is Literal:
            least = any(getattr(one, "min_length", 0) for one in metadata)
            return f"a list of {'at least one' if least else 'any'} of {_words(choices, ())}"
    if annotation is bool:
        return "true, false"
    if annotation in (int, float):
        return _range(annotation, metadata)
    if annotation is Path:
        return "a path"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (
            f"a mapping with {', '.join(one.alias or name for name, one in annotation.model_fields.items())}"
        )
    return ""


def _said(metadata: Sequence[Any]) -> str:
    return next((one.words for one in metadata if isinstance(one, Allowed)), "")


def _range(kind: type, metadata: Sequence[Any]) -> str:
    """`a whole number, 1 to 65535`, from the constraints that the field itself has."""
    noun = "a whole number" if kind is int else "a number"
    lowest = next((f"{_number(one.ge)} to" for one in metadata if hasattr(one, "ge")), None)
    above = next((f"above {_number(one.gt)} and up to" for one in metadata if hasattr(one, "gt")), None)
    highest = next((one.le for one in metadata if hasattr(one, "le")), None)
    if highest is None or not (lowest or above):
        return noun
    return f"{noun}, {lowest or above} {_number(highest)}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)
