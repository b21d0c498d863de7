"""`python -m backfill set-timezone` without options, on a terminal: the dialogue."""

from typing import TYPE_CHECKING

import pytest

from tests.fixtures.account_zones import (
    Connection,
    everything,
    purge,
    switch_on_accounts,
    wrong_accounts,
    zone_of,
)

if TYPE_CHECKING:
    from tests.fixtures.terminal import StartTerminal

PROGRAM = "backfill"
LONG_SECONDS = 600
"""A settling time that no test waits for."""


@pytest.fixture(autouse=True)
def accounts(conn: Connection) -> None:
    """Every test has those of `switch_on_accounts`."""
    switch_on_accounts(conn)


def test_the_dialogue_finds_a_zone_by_its_offset(conn: Connection, start_terminal: "StartTerminal") -> None:
    conn.execute("UPDATE rollup_control SET settle_seconds = 1")
    terminal = start_terminal(PROGRAM, "set-timezone")
    terminal.answer("Account id [1]", "2")
    terminal.expect("Account 2 is in Europe/Berlin: UTC+0")
    terminal.answer("UTC offset", "+05:30")
    listed = terminal.answer("narrow the list [1]", "2")
    assert "3 time zones at UTC+05:30" in listed
    numbers = [line.split()[:2] for line in listed.splitlines() if "Asia/" in line]
    assert numbers == [["1", "Asia/Colombo"], ["2", "Asia/Kolkata"], ["3", "Asia/Calcutta"]]
    terminal.answer("Change account 2 from Europe/Berlin to Asia/Kolkata (UTC+05:30 now) (y/n) [n]", "y")
    terminal.expect("days are stale until they are rebuilt")
    terminal.expect("s from now, when the change has settled")
    terminal.answer("after a wait of 1 s (y/n) [y]", "")
    code, shown = terminal.end()
    assert code == 0
    assert "waiting 1 s" in shown
    assert "account 2: no day waits for a rebuild, its reports are complete" in shown
    assert zone_of(conn, 2) == "Asia/Kolkata"
    assert 2 not in wrong_accounts(conn)


def test_wrong_answers_are_explained_as_often_as_they_come(conn: Connection, start_terminal: "StartTerminal") -> None:
    terminal = start_terminal(PROGRAM, "set-timezone")
    for wrong in ("one", "-5", "99999999999", "1.5"):
        terminal.answer("Account id [1]", wrong)
        terminal.expect("is not an account id: enter a whole number from 1 to 2147483647")
    terminal.answer("Account id [1]", "")
    offset = "UTC offset, as +05:30 or -3, or the name of a time zone [UTC-0"  # of New York, whatever the season
    for wrong, said in [
        ("++", "'++' is not a UTC offset: write it as"),
        ("+99", "they lie between -12:00 and +14:00"),
        ("+05:15", "the nearest that exist are UTC+05:00 and UTC+05:30"),
        ("Berlim", "neither a UTC offset nor a time zone. Did you mean Europe/Berlin"),
        ("\xe9\xe9\xe9", "is neither a UTC offset nor a time zone"),
    ]:
        terminal.answer(offset, wrong)
        terminal.expect(said)
    terminal.answer(offset, "+8")
    for wrong, said in [
        ("0", "there is no number 0 here: enter one from 1 to"),
        ("10000", "there is no number 10000 here"),
        ("Kolkatta", "has 'Kolkatta' in its name. Did you mean Asia/Kolkata"),
    ]:
        terminal.answer("narrow the list [1]", wrong)
        terminal.expect(said)
    terminal.answer("narrow the list [1]", "sing")
    narrowed = terminal.answer("narrow the list [1]", "all")
    assert "Asia/Singapore" in narrowed
    assert "Asia/Manila" not in narrowed
    assert "Asia/Manila" in terminal.answer("narrow the list [1]", "sing")
    terminal.answer("narrow the list [1]", "")
    question = "Change account 1 from America/New_York to Asia/Singapore (UTC+08:00 now) (y/n) [n]"
    for wrong in ("maybe", "1", "yess", "si"):
        terminal.answer(question, wrong)
        terminal.expect("is neither yes nor no: enter y or n")
    before = everything(conn)
    terminal.answer(question, "")
    code, shown = terminal.end()
    assert code == 0
    assert shown.endswith("\nNothing was changed.\n")
    assert everything(conn) == before


def test_a_name_is_taken_at_once_and_the_rebuild_can_wait(conn: Connection, start_terminal: "StartTerminal") -> None:
    conn.execute("UPDATE rollup_control SET settle_seconds = %s", (LONG_SECONDS,))
    terminal = start_terminal(PROGRAM, "set-timezone")
    terminal.answer("Account id", "77")
    terminal.expect("Account 77 has no time zone, and so no rollup.")
    terminal.answer("[UTC+00:00]", "america/new york")
    terminal.answer("Change account 77 from no time zone to America/New_York", "yes")
    terminal.expect("Next: python -m backfill set-timezone --account 77 --timezone America/New_York --rebuild")
    terminal.expect("(y/n) [y]: ")
    terminal.interrupt()
    code, shown = terminal.end()
    assert code == 130
    assert "Left without a rebuild." in shown
    assert zone_of(conn, 77) == "America/New_York"
    # Asked for the zone that it has, it changes nothing and offers the rebuild that waits. Ctrl-C stops that, too.
    terminal = start_terminal(PROGRAM, "set-timezone")
    terminal.answer("Account id", "77")
    terminal.answer("UTC offset", "America/New_York")
    terminal.expect("Account 77 has this time zone already; nothing was changed.")
    terminal.answer("Rebuild these", "y")
    terminal.expect("for the change of time zone to settle")
    terminal.interrupt()
    code, shown = terminal.end()
    assert code == 1
    assert "account 77: " in shown
    assert "--account 77 --timezone America/New_York --rebuild" in shown


def test_the_dialogue_warns_of_totals_that_would_be_lost(conn: Connection, start_terminal: "StartTerminal") -> None:
    first, last = purge(conn, 1, 5)
    terminal = start_terminal(PROGRAM, "set-timezone")
    terminal.answer("Account id", "1")
    terminal.answer("UTC offset", "Asia/Tokyo")
    terminal.expect(f"Careful: 5 days ({first} to {last}) were counted from raw events of which some are no longer")
    terminal.answer("Change account 1", "y")
    terminal.answer("Rebuild these", "n")
    assert terminal.end()[0] == 0
    assert zone_of(conn, 1) == "Asia/Tokyo"


@pytest.mark.parametrize("answers", [0, 1, 2, 3])
@pytest.mark.parametrize("key", ["Ctrl-C", "Ctrl-D"])
def test_leaving_at_any_question_changes_nothing(
    conn: Connection, start_terminal: "StartTerminal", answers: int, key: str
) -> None:
    before = everything(conn)
    terminal = start_terminal(PROGRAM, "set-timezone")
    dialogue = [("Account id", "1"), ("UTC offset", "+9"), ("narrow the list", "1"), ("Change account 1", "")]
    for question, line in dialogue[:answers]:
        terminal.answer(question, line)
    terminal.expect(dialogue[answers][0])
    terminal.expect(": ")
    if key == "Ctrl-C":
        terminal.interrupt()
    else:
        terminal.leave()
    code, shown = terminal.end()
    assert code == (130 if key == "Ctrl-C" else 1)
    assert shown.endswith("Left; nothing was changed.\n")
    assert "Traceback" not in shown
    assert everything(conn) == before


def test_bytes_that_are_no_text_are_a_wrong_answer(conn: Connection, start_terminal: "StartTerminal") -> None:
    terminal = start_terminal(PROGRAM, "set-timezone", PYTHONIOENCODING="utf-8:strict")
    terminal.answer("Account id", "\udcff")
    terminal.expect("That is not text in this terminal's encoding; please type it again.")
    terminal.answer("Account id", "1")
    terminal.expect("Account 1 is in America/New_York")
    terminal.leave()
    assert terminal.end()[0] == 1
