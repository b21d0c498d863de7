"""Raw rows whose created_at no message may have: they hold up no command, and belong to no day."""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.fixtures.events import rollup_of_table
from tests.fixtures.processes import RunProgram
from tests.fixtures.terminal import StartTerminal

Connection = psycopg.Connection[Any]

ODD = [
    "-infinity",
    "0044-03-15 BC",
    "0001-01-01",
    "1999-12-31 23:59:59",
    "9999-12-31 23:00",
    "250000-01-01",
    "infinity",
]
DAY = timedelta(days=1)


@pytest.fixture(params=["timestamp", "timestamptz"])
def first(conn: Connection, request: pytest.FixtureRequest) -> date:
    """Three accounts, each with an event at noon of four days ago, which is returned; the second has every odd row
    as well, and the third all of them but for the one of noon."""
    conn.execute("SET TimeZone = 'UTC'")
    if request.param == "timestamptz":
        conn.execute("ALTER TABLE reporting_events ALTER created_at TYPE timestamptz")
    conn.execute("INSERT INTO account_settings VALUES (1, 'UTC'), (2, 'Asia/Tokyo'), (3, 'America/Los_Angeles')")
    conn.execute("DELETE FROM rollup_days")
    conn.execute("UPDATE account_settings SET rollup_since = '2020-01-01'")
    noon = datetime.now(UTC).replace(hour=12, minute=0) - 4 * DAY
    rows = [(1, 1, str(noon)), (2, 2, str(noon)), (999, 3, str(datetime.now(UTC) + 2 * DAY))]
    rows += [(100 * account + n, account, each) for account in (2, 3) for n, each in enumerate(ODD)]
    for event_id, account, created_at in rows:
        conn.execute(
            "INSERT INTO reporting_events (id, name, value, account_id, created_at, updated_at)"
            " VALUES (%s, 'reply_time', 1, %s, %s, now())",
            (event_id, account, created_at),
        )
    return noon.date()


def test_ranges_that_are_discovered_begin_with_what_can_be_an_event(
    conn: Connection, run_program: RunProgram, first: date
) -> None:
    everything = ("--all-accounts", "--all-dates", "--json")
    code, out, err = run_program("backfill", *everything, "--dry-run")
    assert (code, err) == (0, "")
    plan = json.loads(out)
    assert (plan["accounts"], plan["first"], plan["raw_events"]) == (2, str(first), 2)
    code, out, err = run_program("backfill", *everything)
    assert (code, err) == (0, "")
    done = [json.loads(line) for line in out.splitlines()]
    assert {line["account_id"] for line in done} == {1, 2}
    assert min(line["date"] for line in done) == str(first)
    assert sum(line["events"] for line in done) == 2
    assert {(key.account_id, key.date) for key in rollup_of_table(conn)} == {(1, first), (2, first)}
    code, out, err = run_program("backfill", "verify", *everything)
    assert (code, err) == (0, "")
    assert {json.loads(line)["verdict"] for line in out.splitlines()} == {"exact"}


def test_explain_says_what_is_wrong_with_such_a_row(run_program: RunProgram, first: date) -> None:
    assert run_program("backfill", "--account", "2", "--date", str(first), "--quiet")[0] == 0
    for n, instant in enumerate(ODD):
        code, out, err = run_program("backfill", "explain", "--event", str(200 + n))
        assert (code, err) == (1, "")
        assert "fate        out of range" in out
        assert instant.split()[0] in out
        assert "no message may lie before 2000 or more than a day ahead" in out
    code, out, err = run_program("backfill", "explain", "--event", "200", "--json")
    assert (code, err) == (1, "")
    found = json.loads(out)
    assert (found["fate"], found["raw"]["created_at"], found["raw"]["out_of_range"]) == (
        "out of range",
        None,
        "-infinity",
    )
    assert json.loads(run_program("backfill", "explain", "--event", "999", "--json")[1])["fate"] == "out of range"
    assert json.loads(run_program("backfill", "explain", "--event", "2", "--json")[1])["raw"]["out_of_range"] is None
    code, out, err = run_program("backfill", "explain", "--account", "2", "--date", str(first))
    assert (code, err) == (0, "")


def test_the_dialogue_proposes_what_can_be_an_event(start_terminal: StartTerminal, first: date) -> None:
    terminal = start_terminal("backfill")
    terminal.answer("Account id", "3")
    terminal.expect("account 3 has no raw events")
    terminal.answer("Account id", "2")
    terminal.expect(f"It has 1 raw events, from {first} to {first}")
    terminal.answer("First date", "")
    terminal.leave()
    assert terminal.end()[0] == 1
