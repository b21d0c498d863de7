"""`python -m backfill` as a command: what it does, what it says, and its exit codes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from local.events import Sample, write_raw, write_settings
from local.proof import differences
from tests.fixtures.events import assert_exact, load
from tests.fixtures.processes import RunProgram

Connection = psycopg.Connection[Any]


@pytest.fixture
def sample(conn: Connection) -> Iterator[Sample]:
    """Raw events of accounts that have just been switched on; nothing has been counted."""
    events = load(1_000)
    with conn.transaction():
        write_settings(conn, events.workload)
        write_raw(conn, events)
    yield events


def days_of(conn: Connection, account: int) -> list[date]:
    """The local dates on which an account has events."""
    found = conn.execute(
        "SELECT DISTINCT (created_at AT TIME ZONE 'UTC' AT TIME ZONE reporting_timezone)::date AS day"
        " FROM reporting_events JOIN account_settings USING (account_id) WHERE account_id = %s ORDER BY day",
        (account,),
    )
    return [day for (day,) in found]


def rows_of(conn: Connection, account: int) -> int:
    """How many rollup rows an account has."""
    row = conn.execute("SELECT count(*) FROM reporting_events_rollups WHERE account_id = %s", (account,)).fetchone()
    return int(row[0]) if row else 0


def test_named_days_of_named_accounts_and_then_all_stale_ones(
    conn: Connection, run_program: RunProgram, sample: Sample
) -> None:
    first, *_, last = days_of(conn, 1)
    code, out, err = run_program(
        "backfill", "--account", "1", "--account", "2", "--date", str(first), "--date", str(last)
    )
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[4].startswith("4 days rebuilt in ")
    assert len(lines) == 6
    assert lines[5].startswith("4 days stay stale: a change of time zone settles at ")
    assert lines[0].startswith(f"account 1, {first} (America/New_York): rebuilt")
    assert "raw events" in lines[0]
    assert "rows changed" in lines[0]
    assert rows_of(conn, 1) > 0
    assert rows_of(conn, 2) > 0
    assert rows_of(conn, 3) == 0

    code, out, err = run_program("backfill", "--stale")
    assert (code, err) == (0, "")
    assert " days wait: a change of time zone settles at " in out
    conn.execute("UPDATE rollup_days SET settles_at = now() WHERE settles_at IS NOT NULL")
    code, out, err = run_program("backfill", "--stale")
    assert (code, err) == (0, "")
    assert "account 12," in out
    assert "settle" not in out
    assert_exact(conn)
    assert run_program("backfill", "--stale") == (0, "", "")


def test_events_that_raw_lacks_are_kept_until_forced(conn: Connection, run_program: RunProgram, sample: Sample) -> None:
    conn.execute("UPDATE rollup_days SET settles_at = now()")
    assert run_program("backfill", "--stale")[0] == 0
    day = days_of(conn, 1)[-1]
    before = rows_of(conn, 1)
    conn.execute("DELETE FROM reporting_events WHERE account_id = 1")
    words = ("--account", "1", "--date", str(day))
    code, out, err = run_program("backfill", *words)
    assert (code, out) == (1, "")
    assert "left as it is" in err
    assert "events were counted that reporting_events does not have" in err
    assert "--force" in err
    assert rows_of(conn, 1) == before
    code, out, _ = run_program("backfill", *words, "--force")
    assert code == 0
    assert "rebuilt" in out
    assert rows_of(conn, 1) < before
    assert {each.date for each in differences(conn, limit=1_000)} == set(days_of_rollup(conn, 1)) - {day}


def days_of_rollup(conn: Connection, account: int) -> list[date]:
    """The dates of an account's rollup rows."""
    found = conn.execute("SELECT DISTINCT date FROM reporting_events_rollups WHERE account_id = %s", (account,))
    return [day for (day,) in found]


def test_forced_it_forgets_late_events_that_raw_does_not_have(
    conn: Connection, run_program: RunProgram, sample: Sample
) -> None:
    conn.execute("UPDATE rollup_days SET settles_at = now()")
    assert run_program("backfill", "--stale")[0] == 0
    day, other = days_of(conn, 1)[-1], days_of(conn, 2)[-1]
    conn.execute("INSERT INTO late_events VALUES (1, %s, 999999), (2, %s, 999998)", (day, other))
    conn.execute(
        "UPDATE rollup_days SET stale_since = now() WHERE (account_id, date) IN ((1, %s), (2, %s))", (day, other)
    )
    words = ("--account", "1", "--date", str(day))
    code, out, _ = run_program("backfill", *words)
    assert code == 0
    assert "stays stale until its late events are in reporting_events" in out
    code, out, _ = run_program("backfill", *words, "--force")
    assert code == 0
    assert "rebuilt;" in out
    assert "stale" not in out
    assert conn.execute("SELECT account_id, event_id FROM late_events").fetchall() == [(2, 999998)]  # not named
    assert stale_days(conn) == [(2, other)]


def stale_days(conn: Connection) -> list[tuple[int, date]]:
    """The days that wait for a rebuild."""
    return conn.execute(
        "SELECT account_id, date FROM rollup_days WHERE stale_since IS NOT NULL ORDER BY account_id, date"
    ).fetchall()


def test_a_day_that_somebody_keeps_does_not_hold_up_the_others(
    conn: Connection, database_url: str, run_program: RunProgram, sample: Sample
) -> None:
    conn.execute("UPDATE rollup_days SET settles_at = now()")
    kept = (1, days_of(conn, 1)[0])
    assert kept in stale_days(conn)
    with psycopg.connect(database_url) as keeper:
        keeper.execute("SELECT FROM rollup_days WHERE account_id = %s AND date = %s FOR UPDATE", kept)
        code, out, err = run_program("backfill", "--stale", DB_STATEMENT_TIMEOUT_SECONDS=1)
    assert code == 1
    assert err.startswith(f"account {kept[0]}, {kept[1]}: ")
    assert "canceling statement due to statement timeout" in err
    assert len(err.splitlines()) == 1
    assert "account 12," in out
    assert stale_days(conn) == [kept]
    assert run_program("backfill", "--stale", DB_STATEMENT_TIMEOUT_SECONDS=5)[0] == 0
    assert_exact(conn)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--account", "1", "--date", "1999-12-30"], "--date: 1999-12-30 cannot have events"),
        (["--account", "1", "--date", "2026-02-11", "--date", "9999-12-31"], "--date: 9999-12-31 cannot have events"),
        (["--account", "1", "--date", "0001-01-01"], "--date: 0001-01-01 cannot have events"),
        *((["--stale", "--watch", seconds], "--watch takes a number") for seconds in ("0", "-1", "nan", "inf", "1e9")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_dates_and_seconds_out_of_range_are_one_line(run_program: RunProgram, words: list[str], said: str) -> None:
    code, out, err = run_program("backfill", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "name the days"),
        (["--account", "1"], 2, "name the days"),
        (["--stale", "--account", "1", "--date", "2026-02-11"], 2, "--stale finds its days itself"),
        (["--account", "1", "--date", "11.2.2026"], 2, "is no date; write 2026-02-11"),
        (["--account", "one", "--date", "2026-02-11"], 2, "one"),
        (["--stale", "--force"], 2, "--force goes with --account and --date"),
        (["--watch", "5", "--account", "1", "--date", "2026-02-11"], 2, "--watch"),
        (["--account", "99", "--date", "2026-02-11"], 1, "account 99 has no reporting_timezone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_and_accounts_without_a_time_zone(
    run_program: RunProgram, words: list[str], code: int, said: str
) -> None:
    found, out, err = run_program("backfill", *words)
    assert found == code
    assert said in err
    assert "Traceback" not in err
    assert out == ""


def test_a_wrong_setting_is_one_line(run_program: RunProgram) -> None:
    code, out, err = run_program("backfill", "--stale", OPEN_DAYS="many")
    assert (code, out) == (2, "")
    assert err.startswith("OPEN_DAYS is wrong: found 'many'")
    assert len(err.splitlines()) == 1


def test_a_reader_that_goes_away_ends_it_quietly(conn: Connection, database_url: str, sample: Sample) -> None:
    days = ("--all-accounts", "--date", "2023-01-01..2024-12-31")
    program = subprocess.Popen(
        [sys.executable, "-m", "backfill", "verify", *days, "--json"],
        env={**os.environ, "DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout
    assert json.loads(program.stdout.readline())["verdict"] == "exact"
    program.stdout.close()
    assert program.stderr
    assert program.stderr.read() == b""
    program.stderr.close()
    assert program.wait(60) == 1


@pytest.mark.parametrize(("date_style", "interval_style"), [("German, DMY", "sql_standard"), ("SQL, DMY", "iso_8601")])
def test_how_the_database_writes_dates_does_not_matter(
    conn: Connection, run_program: RunProgram, sample: Sample, date_style: str, interval_style: str
) -> None:
    conn.execute(
        f"ALTER DATABASE {conn.info.dbname} SET datestyle = {date_style};"
        f"ALTER DATABASE {conn.info.dbname} SET intervalstyle = {interval_style}"
    )
    conn.execute("UPDATE rollup_days SET settles_at = now() WHERE settles_at IS NOT NULL")
    conn.execute("UPDATE rollup_control SET settle_seconds = 0")
    everything = ("--all-accounts", "--all-dates", "--quiet")
    assert run_program("backfill", *everything) == (0, "", "")
    assert run_program("backfill", "--resume")[0] == 0
    assert run_program("backfill", "verify", *everything)[0] == 0
    assert run_program("backfill", "explain", "--account", "1", "--date", "yesterday")[2] == ""
    code, _, err = run_program("backfill", "status")
    assert (code, err) == (0, "")


def test_a_database_that_does_not_let_it_in(run_program: RunProgram, database_url: str) -> None:
    """Waiting would not help: an exit code of its own, and what to look at."""
    stranger = make_conninfo(database_url, user="nobody_of_that_name")
    code, _, said = run_program("backfill", "--account", "1", "--date", "2026-02-11", DATABASE_URL=stranger)
    assert code == 8
    assert "PostgreSQL refuses us" in said
    assert "check the user, password, sslmode and certificates in DATABASE_URL" in said


@pytest.mark.parametrize("command", [[], ["verify"], ["explain"]], ids=" ".join)
def test_its_help_knows_all_words_for_dates(run_program: RunProgram, command: list[str]) -> None:
    code, out, err = run_program("backfill", *command, "--help")
    assert (code, err) == (0, "")
    assert "today or yesterday" in " ".join(out.replace("│", " ").split())


def test_its_help_knows_all_exit_codes(run_program: RunProgram) -> None:
    code, out, err = run_program("backfill", "--help")
    assert (code, err) == (0, "")
    codes = " ".join(out.partition("Exit codes: ")[2].partition("For example")[0].split())
    assert re.findall(r"\b\d\b", codes) == ["0", "1", "2", "3", "8"]
