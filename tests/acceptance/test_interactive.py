"""The dialogue of `python -m backfill` without arguments, on a terminal: what it asks, proposes, refuses, agrees on."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from local.proof import differences
from tests.fixtures.processes import RunProgram

if TYPE_CHECKING:
    from tests.fixtures.terminal import StartTerminal, Terminal

Connection = psycopg.Connection[Any]
PROGRAM = "backfill"
ACCOUNT, WITHOUT_ZONE, WITHOUT_EVENTS = 42, 43, 44


@pytest.fixture
def zone() -> ZoneInfo:
    """The accounts' time zone: one where it is about noon, so that no midnight comes while a test runs."""
    return ZoneInfo(f"Etc/GMT{datetime.now(UTC).hour - 12:+}")


@pytest.fixture
def today(conn: Connection, zone: ZoneInfo) -> Iterator[date]:
    """The local date of an account with a raw event at noon of 10 days ago, one of 3 days ago, and one that no metric
    reads of 20 days ago."""
    today = datetime.now(zone).date()
    for identity, name, days_ago in [(1, "reply_time", 10), (2, "first_response", 3), (3, "csat_survey_sent", 20)]:
        noon = datetime.combine(today - timedelta(days=days_ago), datetime.min.time(), zone) + timedelta(hours=12)
        add_event(conn, identity, name, noon)
    conn.execute(
        "INSERT INTO account_settings (account_id, reporting_timezone) VALUES (%s, %s), (%s, NULL), (%s, %s)",
        (ACCOUNT, zone.key, WITHOUT_ZONE, WITHOUT_EVENTS, zone.key),
    )
    yield today


def add_event(conn: Connection, identity: int, name: str, created_at: datetime) -> None:
    conn.execute(
        "INSERT INTO reporting_events (id, name, account_id, created_at, updated_at)"
        " VALUES (%(id)s, %(name)s, %(account)s, %(at)s AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC')",
        {"id": identity, "name": name, "account": ACCOUNT, "at": created_at},
    )


def rebuilt_days(conn: Connection) -> list[date]:
    """The dates that were rebuilt."""
    return [day for (day,) in conn.execute("SELECT date FROM rollup_days WHERE rebuilt_at IS NOT NULL ORDER BY date")]


def answer_all(terminal: "Terminal", *lines: str) -> None:
    """Answer the questions up to the dry run, or the first few of them."""
    questions = (f"Account id [{ACCOUNT}]", "First date [", "Last date [", "Try a dry run first")
    for question, line in zip(questions, lines, strict=False):
        terminal.answer(question, line)


def assert_ends(terminal: "Terminal", shown: str) -> None:
    """It ends well, and `shown` is the last that it shows."""
    code, rest = terminal.end()
    assert code == 0
    assert rest.endswith(shown)


def test_with_nothing_but_enter_all_dates_up_to_yesterday_dry_first(
    conn: Connection, start_terminal: "StartTerminal", today: date, zone: ZoneInfo
) -> None:
    first, last = today - timedelta(days=10), today - timedelta(days=1)
    terminal = start_terminal(PROGRAM)
    terminal.answer(f"Account id [{ACCOUNT}]", "")
    newest = today - timedelta(days=3)
    terminal.expect(f"Account {ACCOUNT} is in {zone.key}. It has 2 raw events, from {first} to {newest} (local dates).")
    terminal.answer(f"First date [{first}]", "")
    terminal.answer(f"Last date [{last}]", "")
    terminal.answer("Try a dry run first, which writes nothing (y/n) [y]", "")
    terminal.expect(f"1 accounts, 10 account-days ({first} to {last}), 2 raw events: about 1 s\n")
    terminal.expect("Rebuild these 10 days now (y/n) [y]: ")
    assert rebuilt_days(conn) == []
    terminal.type("\n")
    code, summary = terminal.end()
    assert code == 0
    assert "10" in summary
    assert rebuilt_days(conn) == [first + timedelta(days=n) for n in range(10)]
    assert differences(conn) == []


def test_without_a_dry_run_the_plan_is_shown_before_the_last_question(
    conn: Connection, start_terminal: "StartTerminal", today: date
) -> None:
    terminal = start_terminal(PROGRAM)
    answer_all(terminal, "", str(today - timedelta(days=3)), str(today - timedelta(days=3)), "n")
    day = today - timedelta(days=3)
    terminal.expect(f"1 accounts, 1 account-days ({day}), 1 raw events: about 1 s\n")
    terminal.answer("Rebuild this day now (y/n) [y]", "n")
    assert_ends(terminal, "\nNothing was changed.\n")
    assert rebuilt_days(conn) == []


def test_today_may_be_chosen_and_is_provisional(conn: Connection, start_terminal: "StartTerminal", today: date) -> None:
    terminal = start_terminal(PROGRAM)
    answer_all(terminal, "", "yesterday", "today")
    terminal.expect(f"{today} is not over there: its totals are provisional.")
    terminal.answer("Try a dry run first", "n")
    terminal.answer("Rebuild these 2 days now", "y")
    assert terminal.end()[0] == 0
    assert rebuilt_days(conn) == [today - timedelta(days=1), today]


def test_events_of_today_only_are_proposed(
    conn: Connection, start_terminal: "StartTerminal", today: date, zone: ZoneInfo
) -> None:
    conn.execute("DELETE FROM reporting_events")
    add_event(conn, 4, "reply_time", datetime.combine(today, datetime.min.time(), zone))
    terminal = start_terminal(PROGRAM)
    terminal.answer(f"Account id [{ACCOUNT}]", "")
    terminal.answer(f"First date [{today}]", "")
    terminal.answer(f"Last date [{today}]", "")
    terminal.answer("Try a dry run first", "n")
    terminal.answer("Rebuild this day now", "n")
    assert terminal.end()[0] == 0


def test_more_than_two_years_are_asked_about_once_more(start_terminal: "StartTerminal", today: date) -> None:
    terminal = start_terminal(PROGRAM)
    answer_all(terminal, "", str(today - timedelta(days=730)), str(today - timedelta(days=1)))
    terminal.answer("Try a dry run first", "n")
    assert "Careful" not in terminal.shown
    terminal.answer("Rebuild these 730 days now (y/n) [y]", "n")
    assert terminal.end()[0] == 0
    terminal = start_terminal(PROGRAM)
    answer_all(terminal, "", str(today - timedelta(days=731)), str(today - timedelta(days=1)))
    terminal.expect("Careful: these are 731 days, more than two years.")
    terminal.answer("Try a dry run first", "y")
    terminal.answer("Rebuild these 731 days now (y/n) [n]", "")
    assert_ends(terminal, "\nNothing was changed.\n")


def test_wrong_answers_are_explained_as_often_as_they_come(start_terminal: "StartTerminal", today: date) -> None:
    terminal = start_terminal(PROGRAM)
    for wrong, said in [
        ("all", "'all' is not an account id: enter a whole number from 1 to"),
        ("0", "'0' is not an account id"),
        (str(WITHOUT_ZONE), f"account {WITHOUT_ZONE} has no time zone, so its days have no bounds: enter another"),
        ("99", "python -m backfill set-timezone --account 99 --timezone Europe/Paris"),
        (str(WITHOUT_EVENTS), f"account {WITHOUT_EVENTS} has no raw events in reporting_events"),
    ]:
        terminal.answer(f"Account id [{ACCOUNT}]", wrong)
        terminal.expect(said)
    terminal.answer(f"Account id [{ACCOUNT}]", str(ACCOUNT))
    for wrong, said in [
        ("11.2.2026", "'11.2.2026' is no date: enter one as 2026-02-11, or today, or yesterday"),
        ("2026-02-30", "'2026-02-30' is no date"),
        ("1999-12-30", "1999-12-30 cannot have events: enter a date from 1999-12-31 to"),
        ("9999-12-31", "9999-12-31 cannot have events"),
    ]:
        terminal.answer("First date [", wrong)
        terminal.expect(said)
    terminal.answer("First date [", str(today - timedelta(days=4)))
    for early in (today - timedelta(days=5), date(2001, 1, 1)):
        terminal.answer("Last date [", str(early))
        terminal.expect(f"{early} is before the first date: enter {today - timedelta(days=4)} or a later one")
    terminal.answer("Last date [", "yesterday")
    for wrong in ("dry", "0", "yy", "no!"):
        terminal.answer("Try a dry run first", wrong)
        terminal.expect("is neither yes nor no: enter y or n")
    terminal.answer("Try a dry run first", "NO")
    terminal.answer("Rebuild these 4 days now", "n")
    assert terminal.end()[0] == 0


def test_without_any_account_there_is_nothing_to_propose(start_terminal: "StartTerminal") -> None:
    terminal = start_terminal(PROGRAM)
    terminal.answer("Account id", "")
    terminal.expect("Please enter something, or press Ctrl-D to leave.")
    terminal.expect("Account id: ")
    terminal.leave()
    assert terminal.end()[0] == 1


@pytest.mark.parametrize("answers", [0, 2, 4])
@pytest.mark.parametrize("key", ["Ctrl-C", "Ctrl-D"])
def test_leaving_at_any_question_runs_nothing(
    conn: Connection, start_terminal: "StartTerminal", today: date, answers: int, key: str
) -> None:
    terminal = start_terminal(PROGRAM)
    answer_all(terminal, *["", "", "", "n"][:answers])
    terminal.expect({0: "Account id", 2: "Last date", 4: "Rebuild these 10 days now"}[answers])
    terminal.expect(": ")
    if key == "Ctrl-C":
        terminal.interrupt()
    else:
        terminal.leave()
    code, shown = terminal.end()
    assert code == (130 if key == "Ctrl-C" else 1)
    assert shown.endswith("Left; nothing was changed.\n")
    assert rebuilt_days(conn) == []
    assert "Traceback" not in terminal.shown


def test_without_a_terminal_it_is_wrong_use_and_no_hang(run_program: RunProgram) -> None:
    code, out, err = run_program(PROGRAM)
    assert (code, out) == (2, "")
    assert err.startswith("name the days: --account A or --all-accounts, with --date D")
    assert len(err.splitlines()) == 1
