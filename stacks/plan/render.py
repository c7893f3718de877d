"""Formats of a plan: Markdown, JSON, and text for a terminal."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

from stacks.plan.document import NOTHING, Document, Section, Table

WIDTH = 100
"""Columns of a terminal that text fits in."""

BOLD, DIM, RED, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[0m"

NOTEWORTHY = (
    "the internet",
    "Wildcard",
    "not encrypted",
    "NOT encrypted",
    "BROKEN",
    "HOLDS DATA",
    "no reason is given",
)
"""Words that a reviewer looks at first; a terminal shows them in red."""


def markdown(document: Document) -> str:
    """Return the plan as Markdown."""
    lines = [f"# {document.title}", ""]
    for section in document.sections:
        lines += [f"## {section.title}", ""]
        if section.table is not None and section.table.rows:
            lines += [_row(section.table.columns), _row(["---"] * len(section.table.columns))]
            lines += [_row(row) for row in section.table.rows]
            lines.append("")
        elif section.table is not None:
            lines += ["None.", ""]
        lines += [f"- {note}" for note in section.notes]
        if section.notes:
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def as_json(document: Document) -> str:
    """Return the plan as JSON: section → rows, each column → text, and its notes."""
    sections = {
        section.title: {
            "rows": []
            if section.table is None
            else [dict(zip(section.table.columns, row, strict=True)) for row in section.table.rows],
            "notes": list(section.notes),
        }
        for section in document.sections
    }
    return json.dumps({"title": document.title, "sections": sections}, indent=2, ensure_ascii=False) + "\n"


def text(document: Document, *, colour: bool = False) -> str:
    """Return the plan as text of at most `WIDTH` columns: a block for each row, its first cells as a heading.

    Args:
        colour: With ANSI escapes.
    """
    paint = _painter(colour)
    lines = [paint(document.title, BOLD), ""]
    for section in document.sections:
        lines += [paint(section.title.upper(), BOLD), *_text_of(section, paint), ""]
    return "\n".join(lines).rstrip() + "\n"


FORMATS: Mapping[str, Callable[[Document], str]] = {"text": text, "markdown": markdown, "json": as_json}


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _painter(colour: bool) -> Callable[[str, str], str]:
    return (lambda words, code: f"{code}{words}{PLAIN}") if colour else (lambda words, code: words)


def _text_of(section: Section, paint: Callable[[str, str], str]) -> Iterator[str]:
    if section.table is not None:
        yield from _table(section.table, paint) if section.table.rows else ["  none"]
    for note in section.notes:
        yield from _wrapped(note, "  ", paint)


def _table(table: Table, paint: Callable[[str, str], str]) -> Iterator[str]:
    """Yield the rows: aligned columns where they fit, and the other cells after them or below."""
    if not table.grouped:
        yield from _rows(table, "  ", paint)
        return
    bare = Table(table.columns[1:], [row[1:] for row in table.rows])
    fitting = _widths(bare)
    for name, rows in groupby(table.rows, key=lambda row: row[0]):
        yield "  " + paint("no component" if name == NOTHING else name, BOLD)
        yield from _rows(Table(bare.columns, [row[1:] for row in rows]), "    ", paint, fitting)


def _rows(
    table: Table, indent: str, paint: Callable[[str, str], str], widths: Sequence[int] | None = None
) -> Iterator[str]:
    widths = _widths(table) if widths is None else widths
    for row in table.rows:
        shown_cells = ["" if cell == NOTHING else cell for cell in row]
        head = "  ".join(cell.ljust(width) for cell, width in zip(shown_cells, widths, strict=False))
        shown = len(widths)
        rest = [
            (name, cell)
            for name, cell in zip(table.columns[shown:], row[shown:], strict=True)
            if cell != NOTHING
        ]
        if rest and len(indent) + len(head) + len(rest[0][1]) + 2 <= WIDTH:
            head += f"  {rest.pop(0)[1]}"
        line = indent + head.rstrip()
        yield from [_marked(line, paint)] if len(line) <= WIDTH else _wrapped(head, indent, paint)
        for name, cell in rest:
            yield from _wrapped(f"{name}: {cell}", indent + "    ", paint)


def _widths(table: Table) -> list[int]:
    """Return the widths of the first columns, as many as fit beside each other."""
    every = [max(len(row[column]) for row in table.rows) for column in range(len(table.columns))]
    fitting = [count for count in range(1, len(every) + 1) if sum(every[:count]) + 2 * count + 4 <= WIDTH]
    return every[: max(fitting, default=1)]


def _wrapped(words: str, indent: str, paint: Callable[[str, str], str]) -> Iterator[str]:
    for line in textwrap.wrap(
        words, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False
    ):
        yield _marked(line, paint)


def _marked(line: str, paint: Callable[[str, str], str]) -> str:
    for words in NOTEWORTHY:
        line = line.replace(words, paint(words, RED))
    return line
