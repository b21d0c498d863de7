"""What the demo prints: a line a step, a progress bar, and the tables at the end. Plain lines where no terminal is."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

PLAIN_WIDTH = 120
"""Columns where nobody says how wide the output is."""

Cell = object
Advance = Callable[[int], None]


class Screen:
    """Where the demo speaks. Steps are numbered as they come."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, width=PLAIN_WIDTH)
        self._step = 0

    def step(self, text: str, *more: str) -> None:
        """Begin a step: what happens now, and why."""
        self._step += 1
        self._console.print()
        self._paragraph(f"[bold cyan]{self._step:>2}[/]", escape(" ".join((text, *more))))

    def say(self, *sentences: str) -> None:
        """A finding of the step, one paragraph."""
        self._paragraph("", escape(" ".join(sentences)))

    def good(self, text: str) -> None:
        """A finding that is what it should be."""
        self._paragraph("", f"[bold green]{escape(text)}[/]")

    def bad(self, text: str) -> None:
        """A finding that is not."""
        self._paragraph("", f"[bold red]{escape(text)}[/]")

    def copy(self, lines: Sequence[str]) -> None:
        """Lines to read or to copy, unwrapped."""
        for line in lines:
            self._console.print(f"   {line}", markup=False, soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A table; numbers stand to the right."""
        table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
        for at, name in enumerate(columns):
            number = any(isinstance(row[at], int | float) for row in rows)
            table.add_column(name, justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_text(cell) for cell in row))
        self._console.print()
        self._console.print(table)

    def _paragraph(self, margin: str, markup: str) -> None:
        """Text that wraps beside its margin of three columns."""
        grid = Table.grid(padding=0)
        grid.add_column(width=3)
        grid.add_column()
        grid.add_row(margin, markup)
        self._console.print(grid)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Advance]:
        """A bar on a terminal, a line every quarter elsewhere. Yields a function that is told how many are done."""
        if not self._console.is_terminal:
            yield self._quarters(what, total)
            return
        columns = (TextColumn("   {task.description}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)

    def _quarters(self, what: str, total: int) -> Advance:
        told = 0

        def advance(done: int) -> None:
            nonlocal told
            quarter = 4 * done // total
            if quarter > told:
                told = quarter
                self.say(f"{what}: {done:,} of {total:,}")

        return advance


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:,.1f}"
    return f"{cell:,}" if isinstance(cell, int) else escape(str(cell))
