"""Tables and JSON lines: aligned, complete, and harmless whatever is in them."""

import io
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from backfill import zone_dialogue
from backfill.zones import zones_at_offset
from consumer.tables import print_json, print_table

NOON = datetime(2026, 3, 11, 12, tzinfo=UTC)


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def plain(columns: tuple[str, ...], rows: list[tuple[object, ...]], title: str = "") -> list[str]:
    """The lines of a table that is not on a terminal."""
    out = io.StringIO()
    print_table(columns, rows, title=title, out=out)
    return out.getvalue().splitlines()


def test_numbers_are_aligned_right_and_nothing_is_a_dash() -> None:
    rows: list[tuple[object, ...]] = [("one", 1, None, NOON), ("eleven", 1100, Decimal("1E-6"), None)]
    assert plain(("name", "n", "seconds", "at"), rows, "All") == [
        "All",
        "name       n   seconds  at",
        "one        1         -  2026-03-11 12:00:00Z",
        "eleven  1100  0.000001  -",
    ]


def test_facts_have_no_heading() -> None:
    assert plain((), [("accounts", "12"), ("dead letters", "none")]) == ["accounts      12", "dead letters  none"]
    assert plain(("name", "n"), []) == ["name  n"]
    assert plain((), []) == []


def test_text_cannot_move_the_cursor_or_be_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows: list[tuple[object, ...]] = [("\x1b[2J\r\n[red]gone[/red]",)]
    assert plain(("name",), rows)[1] == "\ufffd[2J\ufffd\ufffd[red]gone[/red]"
    out = Terminal()
    print_table(("name",), rows, out=out)
    assert "[red]gone[/red]" in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()


def test_a_narrow_terminal_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    out = Terminal()
    print_table(("metric", "seconds", "count"), [("x" * 20, Decimal("1234567890.123456"), 987654321)], out=out)
    text = out.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert text.count("x") == 20
    assert sum(c.isdigit() for c in text) >= 25


def test_on_a_very_narrow_terminal_each_cell_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    out = Terminal()
    name = "America/Argentina/ComodRivadavia"
    print_table(("zone", "state", "days"), [(name, "open", 12), ("UTC", "closed", 3)], title="Days", out=out)
    lines = out.getvalue().splitlines()
    assert lines == [
        "Days",
        f"zone: {name}",
        "state: open",
        "days: 12",
        "",
        "zone: UTC",
        "state: closed",
        "days: 3",
        "",
    ]
    out = Terminal()
    print_table((), [("the time zone", name)], out=out)
    assert out.getvalue().splitlines() == ["the time zone", name, ""]


@pytest.mark.parametrize("columns", [20, 40, 79])
def test_the_list_of_zones_has_whole_names_on_any_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    zone_dialogue._show(zones_at_offset(timedelta(hours=-3), NOON), NOON)
    shown = capsys.readouterr().out
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert "America/Argentina/ComodRivadavia" in "".join(shown.split())
    assert ("keeps this offset" in shown) == (columns == 79)


def test_json_is_one_line_with_every_digit() -> None:
    @dataclass(frozen=True, slots=True)
    class Row:
        at: datetime
        on: date
        seconds: Decimal
        ids: tuple[int, ...]

    out = io.StringIO()
    print_json({"row": Row(NOON, NOON.date(), Decimal("1E-6"), (1, 2)), "none": None}, out)
    assert out.getvalue().count("\n") == 1
    assert json.loads(out.getvalue()) == {
        "row": {"at": "2026-03-11T12:00:00+00:00", "on": "2026-03-11", "seconds": "0.000001", "ids": [1, 2]},
        "none": None,
    }
    with pytest.raises(TypeError):
        print_json({"what": object()}, out)
