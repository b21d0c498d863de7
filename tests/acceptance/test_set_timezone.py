"""`python -m backfill set-timezone` as a command: what it changes, says, refuses and rebuilds."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.account_zones import (
    Connection,
    everything,
    purge,
    stale_days,
    switch_on_accounts,
    wrong_accounts,
    zone_of,
)
from tests.fixtures.processes import Program, RunProgram, wait_for

StartProgram = Callable[..., Program]
PROGRAM = "backfill"
SHARED_SETTINGS = "SELECT pg_advisory_xact_lock_shared(hashtextextended('reporting-rollup settings', 0))"
LONG_SECONDS = 600
"""A settling time that no test waits for."""


@pytest.fixture(autouse=True)
def accounts(conn: Connection) -> None:
    """Every test has those of `switch_on_accounts`."""
    switch_on_accounts(conn)


def set_zone(run_program: RunProgram, *words: str, **variables: int) -> tuple[int, str, str]:
    return run_program(PROGRAM, "set-timezone", *words, **variables)


# -- the command


def test_a_change_says_what_to_run_and_that_makes_it_exact(conn: Connection, run_program: RunProgram) -> None:
    conn.execute("UPDATE account_settings SET reporting_events_rollup = true WHERE account_id = 1")
    code, out, err = set_zone(run_program, "--account", "1", "--timezone", "Asia/Tokyo")
    assert (code, err) == (0, "")
    assert out.startswith("account 1: time zone changed from America/New_York to Asia/Tokyo (UTC+09:00 now)\n")
    days = stale_days(conn, 1)
    assert f"{len(days)} days are stale until they are rebuilt: {days[0]} to {days[-1]}\n" in out
    assert "Reports are complete as soon as they are rebuilt\n" in out
    next_words = out.partition("Next: python -m backfill set-timezone ")[2].split("\n")[0].split()
    assert conn.execute("SELECT * FROM reporting_events_rollups").fetchall() == []

    code, out, err = set_zone(run_program, *next_words)
    assert code == 0
    assert "its time zone is Asia/Tokyo already; nothing changed" in out
    rebuilt = [line.split(" ")[2] for line in out.splitlines() if line.startswith("account 1, ")]
    assert rebuilt == [str(day) for day in reversed(days)]
    assert err == "account 1: no day waits for a rebuild, its reports are complete\n"
    assert 1 not in wrong_accounts(conn)
    assert 2 in wrong_accounts(conn)  # nobody asked for it
    flag = conn.execute("SELECT reporting_events_rollup FROM account_settings WHERE account_id = 1").fetchone()
    assert flag == (True,)

    code, out, err = set_zone(run_program, "--account", "1", "--timezone", "Asia/Tokyo", "--rebuild")
    assert (code, out, err) == (0, "account 1: its time zone is Asia/Tokyo already; nothing changed\n", "")


def test_for_scripts(conn: Connection, run_program: RunProgram) -> None:
    conn.execute("UPDATE rollup_control SET settle_seconds = 1")
    code, out, err = set_zone(run_program, "--account", "2", "--timezone", "Asia/Kathmandu", "--rebuild", "--json")
    assert code == 0
    assert err.startswith("waiting 1 s for the change of time zone to settle\n")
    change, *days = [json.loads(line) for line in out.splitlines()]
    now = datetime.now(UTC)
    assert now - timedelta(seconds=60) < datetime.fromisoformat(change.pop("complete_from")) < now
    assert 0 < change.pop("settle_seconds") <= 1
    assert date.fromisoformat(change.pop("raw_from")) < now.date() + timedelta(days=1)
    assert change == {
        "account_id": 2,
        "before": "Europe/Berlin",
        "timezone": "Asia/Kathmandu",
        "changed": True,
        "stale_days": len(days),
        "first_date": days[-1]["date"],
        "last_date": days[0]["date"],
        "lost_days": 0,
        "next": "python -m backfill set-timezone --account 2 --timezone Asia/Kathmandu --rebuild",
    }
    assert set(days[0]) > {"account_id", "date", "timezone", "result", "events", "invalid", "missing", "changed"}
    assert {(day["account_id"], day["timezone"], day["result"]) for day in days} == {(2, "Asia/Kathmandu", "rebuilt")}
    (raw,) = conn.execute("SELECT count(*) FROM reporting_events WHERE account_id = 2").fetchone() or (0,)
    assert sum(day["events"] for day in days) == raw > 0
    assert 2 not in wrong_accounts(conn)


def test_a_new_account_gets_a_row_and_old_events_are_pointed_out(conn: Connection, run_program: RunProgram) -> None:
    conn.execute("UPDATE rollup_control SET settle_seconds = %s", (LONG_SECONDS,))
    long_ago = datetime.now(UTC) - timedelta(days=100)
    conn.execute(
        "INSERT INTO reporting_events (id, name, account_id, created_at, updated_at)"
        " VALUES (0, 'reply_time', 42, %(at)s, %(at)s)",
        {"at": long_ago.replace(tzinfo=None)},
    )
    code, out, err = set_zone(run_program, "--account", "42", "--timezone", "UTC")
    assert (code, err) == (0, "")
    assert out.startswith("account 42: time zone set to UTC (UTC+00:00 now); it had none\n")
    assert " s from now, when the change has settled\n" in out
    assert f"Raw events go back to {long_ago.date()}, before these days." in out
    assert "python -m backfill --account 42 --all-dates" in out
    assert zone_of(conn, 42) == "UTC"


def test_cleared_its_rows_stay_and_are_not_covered(conn: Connection, run_program: RunProgram) -> None:
    assert set_zone(run_program, "--account", "2", "--timezone", "Asia/Kolkata", "--rebuild")[0] == 0
    before = conn.execute("SELECT count(*) FROM reporting_events_rollups").fetchone()
    assert before
    assert before > (0,)
    code, out, err = set_zone(run_program, "--account", "2", "--clear")
    assert (code, err) == (0, "")
    assert out.startswith("account 2: time zone cleared; it was Asia/Kolkata\n")
    assert "'not covered'" in out
    assert "stay as they are" in out
    assert "Setting a zone again makes its days" in out
    assert zone_of(conn, 2) is None
    assert conn.execute("SELECT count(*) FROM reporting_events_rollups").fetchone() == before
    states = conn.execute("SELECT DISTINCT state FROM rollup_coverage WHERE account_id = 2").fetchall()
    assert states == [("not covered",)]

    code, out, err = set_zone(run_program, "--account", "2", "--clear", "--json")
    assert (code, err) == (0, "")
    cleared = json.loads(out)
    assert (cleared["before"], cleared["timezone"], cleared["changed"], cleared["next"]) == (None, None, False, None)
    code, out, _ = set_zone(run_program, "--account", "99", "--clear")
    assert (code, out) == (0, "account 99: it has no time zone; nothing changed\n")
    assert conn.execute("SELECT FROM account_settings WHERE account_id = 99").fetchall() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--account", "1", "--timezone", "Berlin"], "did you mean Europe/Berlin"),
        (["--account", "1", "--timezone", "europe/paris"], "did you mean Europe/Paris"),
        (["--account", "1", "--timezone", "+02:00"], "'+02:00' is not an IANA time zone"),
        (["--account", "0", "--timezone", "UTC"], "--account: 0 is not an account id"),
        (["--account", "3000000000", "--timezone", "UTC"], "is not an account id"),
        ([], "without a terminal nothing can be asked"),
        (["--account", "1"], "--account A --timezone Z"),
        (["--timezone", "UTC"], "--account A --timezone Z"),
        (["--account", "1", "--timezone", ""], "'' is not an IANA time zone"),
        (["--account", "1", "--timezone", "UTC", "--clear"], "--clear and --timezone: one or the other"),
        (["--account", "1", "--clear", "--rebuild"], "--clear and --rebuild: one or the other"),
        (["--clear", "--force"], "--clear and --force: one or the other"),
        (["--json"], "--account A --timezone Z"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_one_line(run_program: RunProgram, words: list[str], said: str) -> None:
    code, out, err = set_zone(run_program, *words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_totals_whose_raw_events_are_gone_are_not_given_up_unasked(conn: Connection, run_program: RunProgram) -> None:
    first, last = purge(conn, 1, 30)
    before = everything(conn)
    code, out, err = set_zone(run_program, "--account", "1", "--timezone", "Asia/Tokyo")
    assert (code, out) == (1, "")
    assert f"account 1: 30 days ({first} to {last}) were counted from raw events of which some are no longer" in err
    assert "nothing was changed" in err
    assert "--force" in err
    assert len(err.splitlines()) == 1
    assert everything(conn) == before
    # Off and on again in the same zone, its days keep their counts.
    for words in (["--clear"], ["--timezone", "America/New_York"]):
        assert set_zone(run_program, "--account", "1", *words)[0] == 0
    assert set_zone(run_program, "--account", "1", "--clear")[0] == 0
    assert set_zone(run_program, "--account", "1", "--timezone", "Asia/Tokyo")[0] == 1
    code, out, _ = set_zone(run_program, "--account", "1", "--timezone", "Asia/Tokyo", "--force")
    assert code == 0
    assert f"Given up by --force: 30 days ({first} to {last})\n" in out


def test_without_any_raw_event_every_counted_day_would_be_lost(conn: Connection, run_program: RunProgram) -> None:
    first, last = purge(conn, 2, 2)
    conn.execute("DELETE FROM reporting_events WHERE account_id = 2")
    code, _, err = set_zone(run_program, "--account", "2", "--timezone", "Asia/Tokyo")
    assert code == 1
    assert f"2 days ({first} to {last})" in err


@pytest.mark.parametrize("gone", ["created_at >= %(day)s AND created_at < %(day)s + 1", "id = %(one)s"])
def test_a_gap_in_the_raw_events_is_found_wherever_it_is(conn: Connection, run_program: RunProgram, gone: str) -> None:
    """As retention leaves one that cuts in the middle of a day, or whoever deleted a row."""
    day = date(2026, 1, 10)
    conn.execute("INSERT INTO account_settings (account_id, reporting_timezone) VALUES (50, 'UTC')")
    conn.execute(
        "INSERT INTO reporting_events (id, name, value, account_id, created_at, updated_at)"
        " SELECT 5000000 + n, 'reply_time', 1, 50, %s::date + n * interval '1 hour', now()"
        " FROM generate_series(-24, 71) AS n",
        (day,),
    )
    assert (
        run_program("backfill", "--account", "50", "--date", f"{day - timedelta(1)}..{day + timedelta(2)}", "--quiet")[
            0
        ]
        == 0
    )
    conn.execute(f"DELETE FROM reporting_events WHERE {gone}", {"day": day, "one": 5_000_005})
    code, _, err = set_zone(run_program, "--account", "50", "--timezone", "Europe/Paris")
    assert code == 1
    assert f"account 50: 1 days ({day} to {day})" in err


# -- locks, and a table with rules of its own


@pytest.fixture
def start_program(database_url: str, tmp_path: Path) -> Iterator[StartProgram]:
    """`start_program("--account", ...)`: the command, running."""
    started: list[Program] = []

    def start(*words: str) -> Program:
        folder = tmp_path / f"set-timezone-{len(started)}"
        variables = {**os.environ, "DATABASE_URL": database_url}
        started.append(Program(folder, [PROGRAM, "set-timezone", *words], variables))
        return started[-1]

    yield start
    for program in started:
        program.kill()


def wait_for_waiter(conn: Connection) -> None:
    """Wait until the program waits for a lock."""
    waiters = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND application_name LIKE 'reporting-rollup%'"
    )
    wait_for(lambda: conn.execute(waiters).fetchall(), "program that waits for a lock")


def test_consumers_in_a_transaction_are_waited_for(
    conn: Connection, database_url: str, start_program: StartProgram
) -> None:
    with psycopg.connect(database_url) as consumer:
        consumer.execute(SHARED_SETTINGS)
        program = start_program("--account", "1", "--timezone", "Asia/Tokyo")
        wait_for_waiter(conn)
        assert zone_of(conn, 1) == "America/New_York"
    assert program.wait() == 0
    assert zone_of(conn, 1) == "Asia/Tokyo"


def test_a_lock_that_is_not_granted_changes_nothing(
    conn: Connection, database_url: str, run_program: RunProgram
) -> None:
    # Once instead of 15 times: two seconds are as good as thirty.
    row = conn.execute("SELECT pg_get_functiondef('rollup_lock_settings'::regproc)").fetchone()
    assert row
    assert "1..15" in row[0]
    conn.execute(row[0].replace("1..15", "1..1"))
    before = everything(conn)
    with psycopg.connect(database_url) as consumer:
        consumer.execute(SHARED_SETTINGS)
        code, out, err = set_zone(run_program, "--account", "1", "--timezone", "Asia/Tokyo")
    assert (code, out) == (1, "")
    assert err.startswith("account 1: consumers or rebuilds kept the accounts' settings locked for 30 s; nothing was ")
    assert "Try again" in err
    assert len(err.splitlines()) == 1
    assert everything(conn) == before


def test_a_table_that_wants_more_than_we_know_refuses_in_one_line(conn: Connection, run_program: RunProgram) -> None:
    conn.execute("ALTER TABLE account_settings ADD COLUMN plan text")
    conn.execute("UPDATE account_settings SET plan = 'basic'")
    conn.execute("ALTER TABLE account_settings ALTER COLUMN plan SET NOT NULL")
    code, out, err = set_zone(run_program, "--account", "9", "--timezone", "UTC")
    assert (code, out) == (1, "")
    assert err.startswith("account 9: account_settings refused: ")
    assert '"plan"' in err
    assert len(err.splitlines()) == 1
    assert set_zone(run_program, "--account", "1", "--timezone", "UTC")[0] == 0  # an update needs no plan


# -- a rebuild that is stopped


def test_stopped_while_it_settles_it_says_how_to_go_on(conn: Connection, start_program: StartProgram) -> None:
    conn.execute("UPDATE rollup_control SET settle_seconds = %s", (LONG_SECONDS,))
    program = start_program("--account", "1", "--timezone", "Asia/Tokyo", "--rebuild")
    wait_for(lambda: "waiting" in program.err.read_text(), "wait", program)
    program.send(signal.SIGINT)
    assert program.wait() == 1
    *_, said = program.err.read_text().splitlines()
    days = stale_days(conn, 1)
    assert said.startswith(f"account 1: {len(days)} days wait for a rebuild ({days[0]} to {days[-1]}); ")
    assert said.endswith("python -m backfill set-timezone --account 1 --timezone Asia/Tokyo --rebuild")


def test_cleared_while_it_settles_it_is_not_done(conn: Connection, start_program: StartProgram) -> None:
    conn.execute("UPDATE rollup_control SET settle_seconds = 3")
    program = start_program("--account", "1", "--timezone", "Asia/Tokyo", "--rebuild")
    wait_for(lambda: "waiting" in program.err.read_text(), "wait", program)
    conn.execute("UPDATE account_settings SET reporting_timezone = NULL WHERE account_id = 1")
    assert program.wait() == 1
    assert "account 1: its time zone was cleared meanwhile" in program.err.read_text()
    assert conn.execute("SELECT FROM rollup_days WHERE rebuilt_at IS NOT NULL").fetchall() == []


def test_stopped_it_finishes_the_day_in_hand(
    conn: Connection, database_url: str, start_program: StartProgram, run_program: RunProgram
) -> None:
    words = ("--account", "1", "--timezone", "Asia/Tokyo")
    assert set_zone(run_program, *words)[0] == 0
    days = stale_days(conn, 1)
    held = days[-3]
    with psycopg.connect(database_url) as keeper:
        keeper.execute("SELECT FROM rollup_days WHERE account_id = 1 AND date = %s FOR UPDATE", (held,))
        program = start_program(*words, "--rebuild")
        wait_for_waiter(conn)
        program.send(signal.SIGTERM)
        assert stale_days(conn, 1) == days[:-2]
    assert program.wait() == 1
    assert stale_days(conn, 1) == days[:-3]
    assert f"account 1: {len(days) - 3} days wait for a rebuild" in program.err.read_text()
    assert set_zone(run_program, *words, "--rebuild")[0] == 0
    assert stale_days(conn, 1) == []
    assert 1 not in wrong_accounts(conn)


def test_a_day_that_somebody_keeps_does_not_hold_up_the_others(
    conn: Connection, database_url: str, run_program: RunProgram
) -> None:
    words = ("--account", "1", "--timezone", "Asia/Tokyo")
    assert set_zone(run_program, *words)[0] == 0
    held = stale_days(conn, 1)[-2]
    with psycopg.connect(database_url) as keeper:
        keeper.execute("SELECT FROM rollup_days WHERE account_id = 1 AND date = %s FOR UPDATE", (held,))
        code, _, err = set_zone(run_program, *words, "--rebuild", DB_STATEMENT_TIMEOUT_SECONDS=1)
    assert code == 1
    assert err.startswith(f"account 1, {held}: ")
    assert "lock timeout" in err or "statement timeout" in err
    assert err.splitlines()[-1].startswith(f"account 1: 1 days wait for a rebuild ({held} to {held}); go on with: ")
    assert stale_days(conn, 1) == [held]
