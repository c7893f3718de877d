"""A service's variables, one input each: one that is not known yet does not hide the others in a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import pulumi

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Known = TypeVar("Known", bound="DataclassInstance")
"""A cloud's dataclass of what is not in the config, but made by the stack."""


def variables(
    make: Callable[[Known], Mapping[str, str]],
    known: Known,
    made: Mapping[str, Mapping[str, pulumi.Input[object]]],
) -> dict[str, pulumi.Input[str]]:
    """Return each variable, as text if it is known now and else as an output.

    Args:
        make: Gives the variables.
        known: What is known now, with stand-ins for the rest.
        made: Variable → the fields of `known` that it depends on and that the stack makes.
    """

    def later(name: str, fields: Mapping[str, pulumi.Input[object]]) -> pulumi.Output[str]:
        return pulumi.Output.all(**fields).apply(lambda found: make(replace(known, **found))[name])

    return {**make(known), **{name: later(name, fields) for name, fields in made.items()}}
