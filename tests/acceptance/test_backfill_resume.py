"""A backfill that is killed, stopped, or loses its database half-way, and goes on later: every day once, and exact.

A test holds one day back, so that the backfill stands still there, in the midst of the dates, for as long as it takes.
"""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from local.migrate import migrate
from local.postgres import Postgres
from tests.fixtures.events import rollup_of_model, rollup_of_table
from tests.fixtures.processes import Program, RunProgram, wait_for
from tests.fixtures.services import POSTGRES_SETTINGS
from tests.model import day_of

Connection = psycopg.Connection[Any]
Start = Callable[..., Program]

DAY = timedelta(days=1)
FIRST = date(2023, 1, 5)
"""Long ago, whenever this runs."""
LAST = FIRST + 19 * DAY
HELD = FIRST + 10 * DAY
"""The day of account 2 that a test holds back."""
RANGE = ("--all-accounts", "--date", f"{FIRST}..{LAST}")
ZONES = {1: "America/New_York", 2: "Europe/Paris", 3: "Asia/Kolkata"}
DATES = (FIRST, FIRST + DAY, FIRST + 2 * DAY)
DAYS = {(account, FIRST + n * DAY) for account in ZONES for n in range(20)}
NOTHING_LEFT = (0, "every run has ended: nothing to resume\n", "")


def prepare(conn: Connection) -> None:
    """Three accounts that have been switched on long ago, each with five raw events an hour."""
    conn.execute(
        "INSERT INTO account_settings (account_id, reporting_timezone) SELECT * FROM unnest(%s::int[], %s::text[])",
        (list(ZONES), list(ZONES.values())),
    )
    conn.execute("DELETE FROM rollup_days")
    conn.execute("UPDATE account_settings SET rollup_since = '2020-01-01'")
    conn.execute(
        "INSERT INTO reporting_events (id, name, value, account_id, user_id, conversation_id, created_at, updated_at)"
        " SELECT n, (ARRAY['reply_time', 'conversation_bot_handoff'])[1 + n %% 2], n / 7.0, 1 + n %% 3, n %% 4, n %% 9,"
        " %s::date + n * interval '4 minutes', now() FROM generate_series(0, 7199) AS n",
        (FIRST,),
    )


@pytest.fixture
def start(database_url: str, tmp_path: Path) -> Iterator[Start]:
    """`start("--all-accounts", ...)`: a backfill that goes on beside the test."""
    started: list[Program] = []

    def run(*words: str, **variables: str) -> Program:
        environment = {**os.environ, "DATABASE_URL": database_url, **variables}
        started.append(Program(tmp_path / f"backfill-{len(started)}", ["backfill", *words], environment))
        return started[-1]

    yield run
    for program in started:
        program.kill()


@contextmanager
def held_back(url: str, account: int = 2, day: date = HELD) -> Iterator[None]:
    """Nobody can rebuild this day while the block runs, whether it has been seen before or not."""
    with closing(psycopg.connect(url)) as keeper:
        keeper.execute(
            "INSERT INTO rollup_days (account_id, date, timezone) VALUES (%s, %s, 'UTC')"
            " ON CONFLICT (account_id, date) DO UPDATE SET updated_at = now()",
            (account, day),
        )
        yield


def rebuilt(conn: Connection) -> dict[tuple[int, date], datetime]:
    """The days that are rebuilt, and when they were."""
    found = conn.execute("SELECT account_id, date, rebuilt_at FROM rollup_days WHERE rebuilt_at IS NOT NULL")
    return {(account, day): when for account, day, when in found}


def somebody_waits(conn: Connection) -> bool:
    """Whether somebody waits for a lock, as for the day that is held back."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
    return conn.execute(waiting, (conn.info.dbname,)).fetchone() != (0,)


def stands_still(conn: Connection, at: date = HELD) -> bool:
    """Whether somebody waits for the day that is held back, and every date before it is done."""
    return somebody_waits(conn) and {day for day in DAYS if day[1] < at} <= rebuilt(conn).keys()


def taken_up(words: str, left: int, days: int) -> str:
    """A pattern of what says which run goes on."""
    instant = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ"
    return rf"going on with the run of {instant}, {re.escape(words)}: {left} of {days} days are left\n"


def assert_exact(conn: Connection) -> None:
    """Every day is rebuilt, and right."""
    assert rebuilt(conn).keys() >= DAYS
    built = {key: n for key, n in rollup_of_model(conn).items() if FIRST <= key.date <= LAST}
    assert built
    assert rollup_of_table(conn) == built


def test_after_sigkill_it_does_only_what_is_left(
    conn: Connection, database_url: str, run_program: RunProgram, start: Start
) -> None:
    prepare(conn)
    with held_back(database_url):
        killed = start(*RANGE)
        wait_for(lambda: stands_still(conn), "half of the days", killed)
        killed.kill()
        before = rebuilt(conn)
    assert 30 <= len(before) <= 32  # account 1 or 3 may have been done on that date
    assert conn.execute("SELECT finished_at FROM backfill_runs").fetchall() == [(None,)]

    code, out, err = run_program("backfill", "--resume", "--json")
    assert code == 0
    assert re.fullmatch(taken_up(" ".join(RANGE), len(DAYS - before.keys()), len(DAYS)), err)
    done = {(line["account_id"], date.fromisoformat(line["date"])) for line in map(json.loads, out.splitlines())}
    assert done == DAYS - before.keys()
    after = rebuilt(conn)
    assert {day: after[day] for day in before} == before
    assert_exact(conn)
    assert run_program("backfill", "--resume") == NOTHING_LEFT


def test_killed_twice_it_goes_on_with_several_jobs(
    conn: Connection, database_url: str, run_program: RunProgram, start: Start
) -> None:
    prepare(conn)
    with held_back(database_url):
        killed = start(*RANGE)
        wait_for(lambda: stands_still(conn), "half of the days", killed)
        killed.kill()
    with held_back(database_url, day=LAST):
        killed = start("--resume", "--jobs", "3")
        wait_for(lambda: stands_still(conn, LAST), "nearly all days", killed)
        killed.kill()
        before = rebuilt(conn)
    code, out, err = run_program("backfill", "--resume")
    assert (code, len(err.splitlines())) == (0, 1)
    assert all(str(LAST) in line for line in out.splitlines() if line.startswith("account "))
    assert {day: when for day, when in rebuilt(conn).items() if day in before} == before
    assert_exact(conn)
    assert run_program("backfill", "--resume") == NOTHING_LEFT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_days_in_hand(
    conn: Connection, database_url: str, run_program: RunProgram, start: Start, number: signal.Signals
) -> None:
    prepare(conn)
    with held_back(database_url):
        stopped = start(*RANGE)
        wait_for(lambda: stands_still(conn), "half of the days", stopped)
        stopped.send(number)
        wait_for(lambda: "stopping after the days in hand" in stopped.err.read_text(), "an answer", stopped)
    assert stopped.wait() == 1
    done = rebuilt(conn)
    assert (2, HELD) in done
    left = len(DAYS) - len(done)
    assert 27 <= left <= 29
    assert f"stopped: {left} days are left; go on with: python -m backfill --resume" in stopped.err.read_text()
    assert len([line for line in stopped.out.read_text().splitlines() if line.startswith("account ")]) == len(done)
    assert f"{len(done)} days rebuilt in" in stopped.out.read_text()
    code, out, _ = run_program("backfill", "--resume")
    assert (code, len(out.splitlines())) == (0, left + 1)
    assert_exact(conn)


def test_a_second_signal_ends_it_at_once(conn: Connection, database_url: str, start: Start) -> None:
    prepare(conn)
    with held_back(database_url):
        stopped = start(*RANGE)
        wait_for(lambda: stands_still(conn), "half of the days", stopped)
        stopped.send(signal.SIGTERM)
        wait_for(lambda: "stopping after the days in hand" in stopped.err.read_text(), "an answer", stopped)
        stopped.send(signal.SIGTERM)
        assert stopped.wait() == -signal.SIGTERM


def test_resume_keeps_what_was_asked_for(
    conn: Connection, database_url: str, run_program: RunProgram, start: Start
) -> None:
    prepare(conn)
    counted = HELD - DAY
    assert run_program("backfill", "--account", "2", "--date", str(counted), "--quiet") == (0, "", "")
    conn.execute(
        "DELETE FROM reporting_events WHERE account_id = 2 AND created_at >= %s AND created_at < %s",
        (counted, counted + DAY),
    )
    words = ("--account", "2", "--account", "1", "--date", f"{counted}..{HELD}", "--date", str(LAST), "--force")
    with held_back(database_url, day=counted):
        killed = start(*words)
        wait_for(lambda: somebody_waits(conn), "a wait for the first date", killed)
        killed.kill()
    code, _, err = run_program("backfill", "--resume")
    assert code == 0
    assert re.fullmatch(taken_up(" ".join([*words[:-1], "--force"]), 5, 6), err)  # account 1 was done
    assert rebuilt(conn).keys() == {(account, day) for account in (1, 2) for day in (counted, HELD, LAST)}
    (events,) = conn.execute(
        "SELECT events FROM rollup_days WHERE account_id = 2 AND date = %s", (counted,)
    ).fetchone() or (None,)
    assert events is not None
    assert events < 120  # forced: raw is the truth


def test_days_that_were_left_as_they_are_are_tried_again(
    conn: Connection, database_url: str, run_program: RunProgram, start: Start
) -> None:
    prepare(conn)
    kept = (1, FIRST + 2 * DAY)
    assert run_program("backfill", "--account", "1", "--date", str(kept[1]), "--quiet") == (0, "", "")
    conn.execute("UPDATE rollup_days SET events = events + 1")
    with held_back(database_url):
        stopped = start(*RANGE)
        wait_for(lambda: "left as it is" in stopped.err.read_text(), "a day that is kept", stopped)
        stopped.kill()
    conn.execute("UPDATE rollup_days SET events = events - 1 WHERE account_id = %s AND date = %s", kept)
    code, out, err = run_program("backfill", "--resume")
    assert (code, len(err.splitlines())) == (0, 1)
    assert f"account 1, {kept[1]} (America/New_York): rebuilt" in out
    assert_exact(conn)


def test_yesterday_stays_what_it_was(conn: Connection, run_program: RunProgram) -> None:
    prepare(conn)
    began = datetime.now(UTC) - 3 * DAY
    conn.execute(
        "INSERT INTO backfill_runs (selection, started_at) VALUES (%s, %s)",
        ('{"accounts": [1, 3], "dates": ["yesterday"], "force": false}', began),
    )
    code, out, err = run_program("backfill", "--resume", "--json", "--quiet")
    assert (code, err) == (0, "")
    done = {(line["account_id"], line["date"]) for line in map(json.loads, out.splitlines())}
    assert done == {(account, str(day_of(began, ZONES[account]) - DAY)) for account in (1, 3)}


def test_the_newest_run_that_did_not_end_is_taken_up(conn: Connection, run_program: RunProgram) -> None:
    prepare(conn)
    assert run_program("backfill", "--resume") == NOTHING_LEFT
    assert run_program("backfill", "--resume", "--json") == (0, "", "")
    for account in (1, 2):
        conn.execute(
            "INSERT INTO backfill_runs (selection) VALUES (%s)",
            (json.dumps({"accounts": [account, 77], "dates": [str(FIRST)], "force": False}),),
        )
    assert run_program("backfill", "--account", "3", "--date", str(FIRST), "--quiet") == (0, "", "")
    code, _, err = run_program("backfill", "--resume")
    assert code == 1
    assert err.splitlines()[1].startswith("account 77 has no reporting_timezone")
    assert rebuilt(conn).keys() == {(2, FIRST), (3, FIRST)}
    run_program("backfill", "--resume")
    assert rebuilt(conn).keys() == {(1, FIRST), (2, FIRST), (3, FIRST)}
    assert run_program("backfill", "--resume") == NOTHING_LEFT


def test_days_that_became_stale_again_are_done_again(
    conn: Connection, database_url: str, run_program: RunProgram, start: Start
) -> None:
    prepare(conn)
    with held_back(database_url):
        killed = start(*RANGE)
        wait_for(lambda: stands_still(conn), "half of the days", killed)
        killed.kill()
        before = rebuilt(conn)
    again = {(1, FIRST), (2, FIRST + DAY), (3, FIRST + 2 * DAY)}
    conn.execute("UPDATE rollup_days SET stale_since = now() WHERE (account_id, date) IN ((1, %s), (2, %s))", DATES[:2])
    conn.execute("UPDATE rollup_days SET timezone = 'UTC' WHERE account_id = 3 AND date = %s", DATES[2:])
    code, out, err = run_program("backfill", "--resume", "--json")
    assert code == 0
    left = (DAYS - before.keys()) | again
    assert re.fullmatch(taken_up(" ".join(RANGE), len(left), len(DAYS)), err)
    assert {
        (line["account_id"], date.fromisoformat(line["date"])) for line in map(json.loads, out.splitlines())
    } == left
    assert conn.execute("SELECT count(*) FROM rollup_days WHERE stale_since IS NOT NULL").fetchone() == (0,)
    assert_exact(conn)


@pytest.mark.parametrize(("dates", "overtaken"), [([f"{FIRST}..yesterday"], True), (["yesterday"], False)])
def test_a_run_that_was_asked_for_again_and_ended_is_not_taken_up(
    conn: Connection, run_program: RunProgram, dates: list[str], overtaken: bool
) -> None:
    prepare(conn)
    asked = json.dumps({"accounts": [1], "dates": dates, "force": False})
    conn.execute(
        "INSERT INTO backfill_runs (selection, started_at, finished_at)"
        " VALUES (%s, now() - interval '3 days', NULL), (%s, now() - interval '1 day', now())",
        (asked, asked),
    )
    if overtaken:
        assert run_program("backfill", "--resume") == NOTHING_LEFT
    else:
        code, _, err = run_program("backfill", "--resume")
        assert code == 0
        assert re.fullmatch(taken_up("--account 1 --date yesterday", 1, 1), err)


def test_a_run_of_which_all_is_done_just_ends(conn: Connection, run_program: RunProgram) -> None:
    prepare(conn)
    assert run_program("backfill", *RANGE, "--quiet") == (0, "", "")
    conn.execute("UPDATE backfill_runs SET finished_at = NULL")  # killed before it could say so
    before = rebuilt(conn)
    code, out, err = run_program("backfill", "--resume")
    assert (code, out) == (0, "there are no days to rebuild\n")
    assert re.fullmatch(taken_up(" ".join(RANGE), 0, len(DAYS)), err)
    assert rebuilt(conn) == before
    assert run_program("backfill", "--resume") == NOTHING_LEFT


def test_the_database_goes_away_and_comes_back(service_folder: Path, start: Start) -> None:
    with Postgres(service_folder / "postgres", settings=POSTGRES_SETTINGS) as server:
        url = server.url("rollup")
        migrate(url)
        with psycopg.connect(url, autocommit=True) as conn:
            prepare(conn)
            with held_back(url):
                program = start(*RANGE, "--jobs", "2", DATABASE_URL=url)
                wait_for(lambda: stands_still(conn), "half of the days", program)
                server.stop("immediate")
        server.start()
        assert program.wait() == 0
        assert program.err.read_text() == ""
        with psycopg.connect(url, autocommit=True) as conn:
            assert_exact(conn)
            assert conn.execute("SELECT count(*) FROM backfill_runs WHERE finished_at IS NULL").fetchone() == (0,)

            # It stays away for too long: what is left is for another time.
            conn.execute("UPDATE rollup_days SET rebuilt_at = NULL")
            with held_back(url):
                program = start(*RANGE, "--jobs", "2", DATABASE_URL=url)
                wait_for(lambda: stands_still(conn), "half of the days", program)
                server.stop("immediate")
        assert program.wait() == 1
        (said,) = program.err.read_text().splitlines()
        assert said.startswith("the database went away (")
        assert said.endswith(" days are left; go on with: python -m backfill --resume")
        server.start()
        with psycopg.connect(url, autocommit=True) as conn:
            before = rebuilt(conn)
            left = len(DAYS) - len(before)
            # A day whose commit was not answered is done all the same.
            assert f"): {left} days are left" in said or f"): {left + 1} days are left" in said
            program = start("--resume", DATABASE_URL=url)
            assert program.wait() == 0
            after = rebuilt(conn)
            assert {day: after[day] for day in before} == before
            assert_exact(conn)


# -- fewer connections than jobs


@pytest.fixture
def few_connections(conn: Connection, database_url: str) -> Iterator[str]:
    """The URL of a user who may have two connections, and do everything else."""
    user = f"few_{conn.info.dbname}"
    conn.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'few' CONNECTION LIMIT 2")
    conn.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}")
    conn.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {user}")
    yield make_conninfo(database_url, user=user, password="few")
    conn.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")


def test_workers_without_a_connection_end_alone(
    conn: Connection, database_url: str, few_connections: str, start: Start
) -> None:
    prepare(conn)
    with held_back(database_url):
        program = start(*RANGE, "--jobs", "6", DATABASE_URL=few_connections)
        wait_for(lambda: "fewer connections" in program.err.read_text(), "a worker that gives up", program)
        assert rebuilt(conn).keys() == DAYS - {(2, HELD)}  # the others went on
    assert program.wait() == 0
    (said,) = program.err.read_text().splitlines()
    assert said.startswith("fewer connections than --jobs asks for, the others go on: ")
    assert "too many connections" in said
    assert_exact(conn)


def test_a_connection_that_is_lost_for_good_costs_one_worker(
    conn: Connection, database_url: str, few_connections: str, start: Start
) -> None:
    prepare(conn)
    with held_back(database_url):
        program = start(*RANGE, "--jobs", "2", DATABASE_URL=few_connections)
        wait_for(lambda: rebuilt(conn).keys() == DAYS - {(2, HELD)}, "all days but one", program)
        user = f"few_{conn.info.dbname}"
        # Whoever has the day in hand loses its connection, and may not have another.
        conn.execute(f"ALTER ROLE {user} CONNECTION LIMIT 1")
        ended = conn.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE usename = %s AND wait_event_type = 'Lock'",
            (user,),
        ).fetchone()
        assert ended == (1,)
        wait_for(lambda: "fewer connections" in program.err.read_text(), "a worker that gives up", program)
    assert program.wait() == 0
    assert len(program.err.read_text().splitlines()) == 1
    assert_exact(conn)
