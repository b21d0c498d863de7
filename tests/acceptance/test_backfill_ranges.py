"""`python -m backfill` over ranges of days and many accounts: which days it takes, what it says, what it leaves."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from consumer.rollup.days import day_number, day_start_us, instant
from tests.fixtures.events import rollup_of_model, rollup_of_table
from tests.fixtures.processes import RunProgram
from tests.fixtures.terminal import StartTerminal
from tests.model import day_of

Connection = psycopg.Connection[Any]

DAY = timedelta(days=1)
ZONES = {1: "Pacific/Kiritimati", 2: "Pacific/Pago_Pago", 3: "Europe/Paris", 4: "Europe/Paris"}
FIRST = date(2023, 1, 5)
"""Long ago, whenever this runs. Each account has its first events half a day into its FIRST plus its id."""
TABLES = ["reporting_events", "account_settings", "reporting_events_rollups", "rollup_days", "counted_events"]
TABLES += ["rollup_members", "late_events", "backfill_runs", "rollup_control"]
KEYS = {
    "account_id",
    "date",
    "timezone",
    "result",
    "events",
    "invalid",
    "missing",
    "changed",
    "closing",
    "drift",
}


def put(conn: Connection, first_id: int, account: int, day: date, count: int = 3, name: str = "reply_time") -> None:
    """Raw events of an account, in the midst of a local date of its."""
    noon = instant(day_start_us(ZONES.get(account, "UTC"), day_number(day))) + DAY / 2
    conn.execute(
        "INSERT INTO reporting_events (id, name, value, account_id, user_id, created_at, updated_at)"
        " SELECT %s + n, %s, 1.25, %s, n, %s, %s FROM generate_series(0, %s) AS n",
        (first_id, name, account, noon, noon, count - 1),
    )


@pytest.fixture
def accounts(conn: Connection) -> Iterator[None]:
    """Four accounts, switched on long ago, with three events on each of three dates: FIRST + id, and + 1, and + 3."""
    conn.execute("SET TimeZone = 'UTC'")
    conn.execute(
        "INSERT INTO account_settings (account_id, reporting_timezone) SELECT * FROM unnest(%s::int[], %s::text[])",
        (list(ZONES), list(ZONES.values())),
    )
    conn.execute("DELETE FROM rollup_days")
    conn.execute("UPDATE account_settings SET rollup_since = '2020-01-01'")
    for account in ZONES:
        for n in (0, 1, 3):
            put(conn, account * 1000 + n * 10, account, FIRST + (account + n) * DAY)
    put(conn, 9000, 99, FIRST)  # an account that has no settings
    yield


def built(conn: Connection) -> set[tuple[int, date]]:
    """The days that have been rebuilt."""
    return set(conn.execute("SELECT account_id, date FROM rollup_days WHERE rebuilt_at IS NOT NULL").fetchall())


def contents(conn: Connection) -> dict[str, list[Any]]:
    """Every row of every table."""
    return {table: conn.execute(f"SELECT t::text FROM {table} AS t ORDER BY 1").fetchall() for table in TABLES}


def dates(first: date, last: date) -> list[date]:
    """Both included."""
    return [first + n * DAY for n in range((last - first).days + 1)]


def told(out: str) -> list[dict[str, Any]]:
    """JSON lines."""
    return [json.loads(line) for line in out.splitlines()]


pytestmark = pytest.mark.usefixtures("accounts")


# -- which days


def test_ranges_and_single_dates_of_named_accounts_each_once(conn: Connection, run_program: RunProgram) -> None:
    code, out, err = run_program(
        *("backfill", "--account", "3", "--account", "1", "--account", "3"),
        *("--date", f"{FIRST}..{FIRST + 4 * DAY}", "--date", f"{FIRST + 2 * DAY}", "--date", f"{FIRST + 9 * DAY}"),
    )
    assert (code, err) == (0, "")
    wanted = [*dates(FIRST, FIRST + 4 * DAY), FIRST + 9 * DAY]
    assert built(conn) == {(account, day) for account in (1, 3) for day in wanted}
    *lines, summary = out.splitlines()
    days = [
        re.match(r"account (\d+), (\S+) \((\S+)\): rebuilt; (\d+) raw events, (\d+) rows changed$", x) for x in lines
    ]
    assert all(days)
    assert [d[2] for d in days if d] == [str(day) for day in wanted for _ in (1, 3)]  # oldest first
    assert {d[3] for d in days if d} == {"Pacific/Kiritimati", "Europe/Paris"}
    # Account 1 has 9 events there, account 3 has 6.
    assert re.fullmatch(r"12 days rebuilt in \d+\.\d s; 15 raw events; \d+ rows changed", summary)
    changed = conn.execute("SELECT count(*) FROM reporting_events_rollups").fetchone()
    assert changed == (sum(int(d[5]) for d in days if d),)


def test_yesterday_is_each_accounts_own(conn: Connection, run_program: RunProgram) -> None:
    def yesterdays() -> set[tuple[int, date]]:
        now = datetime.now(UTC)
        return {(account, day_of(now, name) - DAY) for account, name in ZONES.items()}

    before = yesterdays()
    code, _, err = run_program("backfill", "--all-accounts", "--date", "yesterday")
    assert (code, err) == (0, "")
    found = built(conn)
    assert found in (before, yesterdays())
    assert len({day for _, day in found}) >= 2  # Kiritimati is 25 hours ahead of Pago Pago

    first = min(day for _, day in found) - DAY
    assert run_program("backfill", "--account", "2", "--date", f"{first}..yesterday", "--quiet") == (0, "", "")
    assert {day for account, day in built(conn) if account == 2} >= {first, first + DAY}


def test_all_dates_begin_with_the_first_raw_event_and_end_yesterday(conn: Connection, run_program: RunProgram) -> None:
    begin = datetime.now(UTC)
    last = {account: day_of(begin, name) - DAY for account, name in ZONES.items()}
    recent = {1: 6, 2: 1, 3: 3}
    for account, days in recent.items():
        conn.execute("DELETE FROM reporting_events WHERE account_id = %s", (account,))
        put(conn, account * 1000, account, last[account] - days * DAY)
        put(conn, account * 1000 + 10, account, last[account] - 40 * DAY, name="conversation_opened")  # feeds nothing
        put(conn, account * 1000 + 20, account, last[account] + DAY)  # today
    conn.execute("DELETE FROM reporting_events WHERE account_id = 4")
    code, out, err = run_program("backfill", "--all-accounts", "--all-dates", "--json")
    assert (code, err) == (0, "")
    if day_of(datetime.now(UTC), ZONES[1]) == day_of(begin, ZONES[1]):  # or else it is the next day by now
        wanted = {(a, day) for a, days in recent.items() for day in dates(last[a] - days * DAY, last[a])}
        assert {(line["account_id"], date.fromisoformat(line["date"])) for line in told(out)} == wanted
    assert sum(line["events"] for line in told(out)) == 9
    assert {line["timezone"] for line in told(out)} == {ZONES[a] for a in recent}


def test_everything_with_several_jobs_is_as_the_model_says(conn: Connection, run_program: RunProgram) -> None:
    conn.execute(
        "INSERT INTO account_settings (account_id, reporting_timezone)"
        " SELECT 100 + n, (ARRAY['UTC', 'Asia/Kolkata'])[1 + n % 2] FROM generate_series(0, 79) AS n"
    )
    conn.execute("UPDATE account_settings SET rollup_since = '2020-01-01'")
    conn.execute("DELETE FROM rollup_days")
    for n in range(80):
        put(conn, 10_000 + 10 * n, 100 + n, FIRST + (n % 6) * DAY)
    words = ("backfill", "--all-accounts", "--date", f"{FIRST - DAY}..{FIRST + 9 * DAY}", "--jobs", "4")
    code, out, err = run_program(*words)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("924 days rebuilt in ")
    assert len(out.splitlines()) < 100  # of so many days, only progress is told
    assert len(built(conn)) == 84 * 11
    assert rollup_of_table(conn) == rollup_of_model(conn)
    again = contents(conn)["reporting_events_rollups"]
    code, out, _ = run_program(*words)
    assert (code, out.splitlines()[-1].endswith("; 0 rows changed")) == (0, True)
    assert contents(conn)["reporting_events_rollups"] == again


# -- the plan


def test_a_dry_run_writes_nothing_and_its_numbers_are_right(conn: Connection, run_program: RunProgram) -> None:
    put(conn, 8000, 3, FIRST, count=40, name="conversation_opened")  # nothing would read these
    before = contents(conn)
    words = ("--all-accounts", "--date", f"{FIRST}..{FIRST + 4 * DAY}", "--date", f"{FIRST + 6 * DAY}")
    code, out, err = run_program("backfill", *words, "--dry-run", "--json")
    assert (code, err) == (0, "")
    (plan,) = told(out)
    seconds = plan.pop("seconds")
    assert 0 < seconds < 60
    code, out, _ = run_program("backfill", *words, "--dry-run", "--jobs", "2", "--json")
    assert told(out)[0]["seconds"] == pytest.approx(seconds / 2)
    code, text, err = run_program("backfill", *words, "--dry-run", "--jobs", "2")
    assert (code, err) == (0, "")
    assert text == (
        f"4 accounts, 24 account-days ({FIRST} to {FIRST + 6 * DAY}), {plan['raw_events']} raw events: "
        "about 1 s with 2 connections\n"
    )
    assert contents(conn) == before
    code, out, _ = run_program("backfill", *words, "--json")
    done = told(out)
    assert plan == {
        "accounts": 4,
        "days": len(done),
        "first": str(FIRST),
        "last": str(FIRST + 6 * DAY),
        "raw_events": sum(line["events"] for line in done),
        "without_timezone": [],
        "unknown_timezone": [],
    }
    assert plan["raw_events"] > 0


def test_a_dry_run_of_nothing_and_of_accounts_without_a_zone(conn: Connection, run_program: RunProgram) -> None:
    before = contents(conn)
    code, out, err = run_program("backfill", "--account", "99", "--account", "3", "--all-dates", "--dry-run")
    assert code == 1
    assert out.startswith("1 accounts, ")
    assert err == "account 99 has no reporting_timezone, and would fail\n"
    code, out, err = run_program("backfill", "--account", "99", "--date", "yesterday", "--dry-run")
    assert (code, out) == (1, "nothing to rebuild: no raw events, or no account with a time zone\n")
    code, out, _ = run_program("backfill", "--account", "99", "--date", "yesterday", "--dry-run", "--json")
    assert (code, told(out)[0]["days"], told(out)[0]["without_timezone"]) == (1, 0, [99])
    assert contents(conn) == before


def test_a_dry_run_needs_no_right_to_write(conn: Connection, database_url: str, run_program: RunProgram) -> None:
    user = f"looks_{conn.info.dbname}"
    conn.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'looks'")
    conn.execute(f"REVOKE TEMPORARY ON DATABASE {conn.info.dbname} FROM PUBLIC")
    conn.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}")
    url = make_conninfo(database_url, user=user, password="looks")
    words = ("backfill", "--all-accounts", "--all-dates", "--dry-run")
    try:
        wanted = run_program(*words)
        assert (wanted[0], wanted[2]) == (0, "")
        assert run_program(*words, DATABASE_URL=url) == wanted
        read_only = make_conninfo(database_url, options="-c default_transaction_read_only=on")
        assert run_program(*words, DATABASE_URL=read_only) == wanted
    finally:
        conn.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")


def test_accounts_in_zones_that_this_program_does_not_know_are_named(conn: Connection, run_program: RunProgram) -> None:
    conn.execute("INSERT INTO iana_timezones VALUES ('Mars/Olympus')")  # a newer program's migration
    conn.execute("UPDATE account_settings SET reporting_timezone = 'Mars/Olympus' WHERE account_id = 3")
    both = ("--account", "3", "--account", "4", "--date", str(FIRST + 4 * DAY))
    code, out, err = run_program("backfill", *both, "--dry-run")
    assert code == 1
    assert out.startswith("1 accounts, 1 account-days")
    assert re.fullmatch(
        r"account 3 is in Mars/Olympus, which this program's tzdata \([\d.]+\) does not know, and would fail\n", err
    )
    code, out, err = run_program("backfill", *both, "--dry-run", "--json")
    assert (code, told(out)[0]["unknown_timezone"]) == (1, [3])
    code, out, err = run_program("backfill", *both, "--json")
    assert code == 1
    assert [line["result"] for line in told(out)] == ["unknown timezone", "rebuilt"]
    for words in (("--account", "3", "--date", "yesterday"), ("--event", "3000")):
        code, out, err = run_program("backfill", "explain", *words)
        assert (code, out) == (1, "")
        assert err.startswith("account 3 is in Mars/Olympus, which this program's tzdata (")
        assert len(err.splitlines()) == 1


# -- what it says


def test_json_has_an_object_for_every_day_and_nothing_else(conn: Connection, run_program: RunProgram) -> None:
    bad = instant(day_start_us(ZONES[3], day_number(FIRST + 3 * DAY))) + DAY / 3
    conn.execute(
        "INSERT INTO reporting_events (id, name, value, account_id, created_at, updated_at)"
        " VALUES (7001, 'reply_time', 'NaN', 3, %s, %s)",
        (bad, bad),
    )
    code, out, err = run_program(
        *("backfill", "--account", "3", "--account", "99", "--json"),
        *("--date", f"{FIRST + 2 * DAY}..{FIRST + 3 * DAY}"),
    )
    assert code == 1
    without, empty, full = told(out)
    assert without == {"account_id": 99, "result": "no timezone"}
    assert set(empty) == set(full) == KEYS
    assert empty | {"changed": 0} == {
        "account_id": 3,
        "date": str(FIRST + 2 * DAY),
        "timezone": "Europe/Paris",
        "result": "rebuilt",
        "events": 0,
        "invalid": 0,
        "missing": 0,
        "changed": 0,
        "closing": False,
        "drift": 0,
    }
    assert (full["events"], full["invalid"], full["changed"]) == (3, 1, 4)  # the account's row, and three agents'
    assert err.count("account 99 has no reporting_timezone") == 1


def test_quiet_says_problems_only(conn: Connection, run_program: RunProgram) -> None:
    day = f"{FIRST + 3 * DAY}"
    assert run_program("backfill", "--all-accounts", "--date", day, "--quiet") == (0, "", "")
    assert rollup_of_table(conn) != {}
    conn.execute("DELETE FROM reporting_events WHERE account_id = 3")
    code, out, err = run_program("backfill", "--all-accounts", "--date", day, "--quiet")
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith(f"account 3, {day} (Europe/Paris): left as it is: 3 events were counted")


def test_accounts_and_days_that_fail_do_not_stop_the_others(conn: Connection, run_program: RunProgram) -> None:
    day, next_day = FIRST + 4 * DAY, FIRST + 5 * DAY
    assert run_program("backfill", "--account", "1", "--date", str(day), "--quiet")[0] == 0
    conn.execute("DELETE FROM reporting_events WHERE account_id = 1")  # day is kept
    conn.execute(
        "ALTER TABLE reporting_events_rollups ADD CONSTRAINT no"
        f" CHECK (NOT (account_id = 4 AND date = '{day}')) NOT VALID"
    )
    words = ("backfill", "--all-accounts", "--account", "99")
    assert run_program(*words, "--date", str(day))[0] == 2  # either these or those
    code, out, err = run_program(
        *("backfill", *(word for account in (1, 2, 3, 4, 99) for word in ("--account", str(account)))),
        *("--date", f"{day}..{next_day}", "--jobs", "2"),
    )
    assert code == 1
    problems = err.splitlines()
    assert len(problems) == 3
    assert problems[0].startswith("account 99 has no reporting_timezone, so its days have no bounds")
    assert any(x.startswith(f"account 1, {day} (Pacific/Kiritimati): left as it is: 3 events") for x in problems)
    assert any(x.startswith(f"account 4, {day}: ") and 'check constraint "no"' in x for x in problems)
    assert re.search(r"^6 days rebuilt in .*; 1 left as they are; 1 failed$", out, re.MULTILINE)
    assert built(conn) == {(a, d) for a in ZONES for d in (day, next_day)} - {(4, day)}
    # It has been tried: there is nothing to resume.
    assert run_program("backfill", "--resume") == (0, "every run has ended: nothing to resume\n", "")

    code, out, err = run_program("backfill", "--account", "4", "--date", str(day), "--json")
    (failed,) = told(out)
    assert (code, failed["account_id"], failed["date"], failed["result"]) == (1, 4, str(day), "failed")
    assert 'check constraint "no"' in failed["problem"]


def test_failures_are_listed_again_where_they_may_have_scrolled_away(conn: Connection, run_program: RunProgram) -> None:
    conn.execute("ALTER TABLE rollup_days ADD CONSTRAINT no CHECK (date <> '2023-01-20' OR account_id > 2)")
    code, out, err = run_program("backfill", "--all-accounts", "--date", "2023-01-05..2023-02-05")
    assert code == 1
    assert re.fullmatch(r"126 days rebuilt in .*; 2 failed\n", out)
    assert len(err.splitlines()) == 4
    assert [line.partition(", ")[0] for line in err.splitlines()[2:]] == ["failed: account 2", "failed: account 1"] or [
        line.partition(", ")[0] for line in err.splitlines()[2:]
    ] == ["failed: account 1", "failed: account 2"]


# -- exit codes of what makes no sense


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--account 1 --date 2023-02-28..2023-02-01", "2023-02-28..2023-02-01 ends before it begins"),
        ("--account 1 --date 2023-02-01..", "is no date"),
        ("--account 1 --date 2023-02-30", "is no date"),
        ("--account 1 --date 2023-02-01...2023-02-03", "is no date"),
        ("--account 1 --date tomorrow", "is no date; write 2026-02-11, 2026-02-01..2026-02-28, today or yesterday"),
        ("--account 1 --date 2023-02-01 --all-dates", "--date and --all-dates: one or the other, not both"),
        ("--all-accounts --account 1 --date 2023-02-01", "--account and --all-accounts: one or the other, not both"),
        ("verify --all-accounts --account 1 --all-dates", "--account and --all-accounts: one or the other, not both"),
        ("--all-accounts", "--date"),
        ("--all-dates", "--account"),
        ("--dry-run", "name the days"),
        ("--force", "name the days"),
        ("--account 1 --date 2023-02-01 --jobs 0", "--jobs takes a number from 1 to"),
        ("--account 1 --date 2023-02-01 --jobs 1000", "--jobs takes a number from 1 to"),
        ("--resume --account 1 --date 2023-02-01", "--resume goes on with what was asked for"),
        ("--resume --dry-run", "--resume"),
        ("--resume --force", "--force goes with --account and --date"),
        ("--stale --resume", "--stale finds its days itself"),
        *(
            (
                f"{command} --account 3000000000 {rest}",
                "--account: 3000000000 is no 32-bit integer, so no account has it",
            )
            for command, rest in [
                ("", "--date 2023-02-01"),
                ("", "--all-dates --dry-run"),
                ("verify", "--all-dates"),
                ("explain", "--date 2023-02-01"),
            ]
        ),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(conn: Connection, words: str, said: str) -> None:
    from backfill.__main__ import app
    from consumer.errors import WrongUse

    before = contents(conn)
    with pytest.raises(WrongUse, match=re.escape(said)) as raised:
        app(words.split(), exit_on_error=False)
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)
    assert contents(conn) == before


def test_a_range_that_comes_to_nothing_says_so(conn: Connection, run_program: RunProgram) -> None:
    tomorrow = datetime.now(UTC).date() + DAY
    code, out, err = run_program("backfill", "--account", "1", "--date", f"{tomorrow}..yesterday")
    assert (code, out, err) == (0, "there are no days to rebuild\n", "")
    assert run_program("backfill", "--account", "99", "--all-dates", "--json")[0] == 1
    conn.execute("DELETE FROM reporting_events")
    code, out, err = run_program("backfill", "--all-accounts", "--all-dates")
    assert (code, out, err) == (0, "there are no days to rebuild\n", "")
    assert built(conn) == set()


# -- on a terminal


def test_a_terminal_gets_a_bar_with_rate_and_time_left(conn: Connection, start_terminal: StartTerminal) -> None:
    conn.execute("INSERT INTO rollup_days (account_id, date, timezone, events) VALUES (3, '2023-02-01', 'UTC', 5)")
    conn.execute("UPDATE rollup_days SET timezone = 'Europe/Paris', closed = true")
    terminal = start_terminal("backfill", "--all-accounts", "--date", "2023-01-05..2023-03-05")
    code, shown = terminal.end()
    assert code == 1
    assert "account 3, 2023-02-01 (Europe/Paris): left as it is" in shown
    assert "240/240" in shown
    assert "100%" in shown
    assert re.search(r"\d+/s", shown)
    assert re.search(r"\d:\d\d:\d\d", shown)
    assert "239 days rebuilt in" in shown
    assert shown.count("account ") == 1


def test_no_bar_for_one_day_or_for_programs(start_terminal: StartTerminal) -> None:
    code, shown = start_terminal("backfill", "--account", "3", "--date", "2023-01-08").end()
    assert (code, len(shown.splitlines())) == (0, 1)
    assert shown.startswith("account 3, 2023-01-08 (Europe/Paris): rebuilt; 3 raw events")
    code, shown = start_terminal("backfill", "--account", "3", "--date", "2023-01-08..2023-01-12", "--json").end()
    assert [set(json.loads(line)) for line in shown.splitlines()] == [KEYS] * 5
    code, shown = start_terminal("backfill", "--account", "3", "--date", "2023-01-08..2023-01-12", "--quiet").end()
    assert (code, shown) == (0, "")
