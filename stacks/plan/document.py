"""A rendered plan as data: sections of tables, which every format shows alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

NOTHING = "–"
"""Text of an empty cell."""


@dataclass(frozen=True)
class Table:
    """Rows under named columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    grouped: bool = False
    """Rows are in order of their first cell, which a terminal shows once, above those that have it."""


@dataclass(frozen=True)
class Section:
    """A heading, a table, and lines that the table cannot say."""

    title: str
    table: Table | None = None
    notes: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class Document:
    """A plan for one stack."""

    title: str
    sections: Sequence[Section]
