"""What the commands print: tables for people, one JSON object a line for programs.

On a terminal tables are drawn by rich; anywhere else they are aligned plain text without control characters, so that
they read well in a log and in a mail. Text from messages and raw rows is shown harmless: characters that move a cursor
are replaced, and nothing is taken for markup.
"""

import sys
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TextIO

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

EMPTY = "-"
"""What stands in a cell for nothing."""


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "", out: TextIO | None = None
) -> None:
    """Print a table; numbers are aligned right. Nothing but the title is printed for no rows and no columns.

    Args:
        columns: their headings; none for a list of facts without a heading line.
        rows: cells, as many in each row; `cell_text` says how each is shown.
        title: a line above, followed by nothing.
        out: standard output unless given.
    """
    out = out or sys.stdout
    cells = [[cell_text(cell) for cell in row] for row in rows]
    width = len(columns) or (len(cells[0]) if cells else 0)
    right = [bool(rows) and all(_is_number(row[at]) for row in rows) for at in range(width)]
    if out.isatty():
        _draw(columns, cells, right, title, out)
        return
    if title:
        out.write(f"{title}\n")
    lines = [list(columns), *cells] if columns else cells
    widths = [max((len(line[at]) for line in lines), default=0) for at in range(width)]
    for line in lines:
        padded = [
            text.rjust(size) if at_right else text.ljust(size)
            for text, size, at_right in zip(line, widths, right, strict=True)
        ]
        out.write("  ".join(padded).rstrip() + "\n")


def print_json(record: Mapping[str, Any] | object, out: TextIO | None = None) -> None:
    """Print a record (a mapping or a dataclass) as one line of JSON.

    Dates and instants are ISO 8601, instants with their offset; `Decimal`s are strings with every digit.
    """
    (out or sys.stdout).write(orjson.dumps(record, default=_plain).decode() + "\n")


def cell_text(cell: object) -> str:
    """How a value is shown: `-` for None, instants in UTC to the second, decimals with every digit."""
    if cell is None or cell == "":
        return EMPTY
    if isinstance(cell, datetime):
        return cell.strftime("%Y-%m-%d %H:%M:%S") + ("Z" if cell.tzinfo else "")
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, Decimal):
        return f"{cell:f}"
    if isinstance(cell, int | date):
        return str(cell)
    return harmless(str(cell))


def harmless(text: str) -> str:
    """The text with every character that is not printable replaced."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


NARROW = 10
"""A terminal that has not so many columns for each column of a table (or all that it needs) gets a line for each cell:
folded further, nothing could be recognised."""


def _draw(
    columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool], title: str, out: TextIO
) -> None:
    console = Console(file=out)
    widths = [max(len(line[at]) for line in (columns, *cells) if line) for at in range(len(right))]
    if console.width < sum(min(width, NARROW) + 3 for width in widths):
        for line in [title] if title else []:
            console.print(Text(line), soft_wrap=True)
        for row in cells:
            for at, cell in enumerate(row):
                console.print(Text(f"{columns[at]}: {cell}" if columns else cell), soft_wrap=True)
            console.print()
        return
    table = Table(
        title=Text(title) if title else None, title_justify="left", show_header=bool(columns), box=SIMPLE_HEAD
    )
    for at, at_right in enumerate(right):
        # Folded, never cut: the last digits count.
        heading = Text(columns[at]) if columns else ""
        table.add_column(heading, justify="right" if at_right else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def _is_number(cell: object) -> bool:
    return cell is None or (isinstance(cell, int | float | Decimal) and not isinstance(cell, bool))


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(f"no JSON for {type(value).__name__}")
