"""`python -m backfill verify` as a command, and what it says while consumers and rebuilds work on the same days."""

import json
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backfill.run import Runner
from backfill.verdict import Verdict, Verified
from backfill.verify import verify_days
from backfill.verify_looks import Looks
from consumer.settings import DatabaseSettings
from local.events import Sample, produce, write_raw
from tests.fixtures.events import assert_exact, load, mixed_load, prepare, wait_until_read
from tests.fixtures.processes import Program, RunProgram, StartConsumer, wait_for
from tests.fixtures.services import MakeTopic

Connection = psycopg.Connection[Any]

EVERYTHING = ("verify", "--all-accounts", "--all-dates")
ROW = "account_id = 1 AND dimension_type = 'account' AND metric = 'reply_time'"


@pytest.fixture
def built(conn: Connection, database_url: str) -> Iterator[Sample]:
    """Twelve accounts whose days are all built and exact."""
    sample = load(1_000)
    prepare(conn, sample)
    conn.execute("UPDATE rollup_days SET stale_since = now()")
    rebuild_stale_days(conn, database_url)
    assert_exact(conn)
    yield sample


def rebuild_stale_days(conn: Connection, database_url: str) -> None:
    """Rebuild what is stale, settled or not, and then what became stale by that: late events move to their date."""
    stale = "SELECT account_id, date FROM rollup_days WHERE stale_since IS NOT NULL"
    with Runner(DatabaseSettings(database_url=database_url)) as runner:
        for _ in range(2):
            for account, day in conn.execute(stale).fetchall():
                runner.rebuild([account], day)


def corrupt(conn: Connection) -> date:
    """One reply too many and a microsecond too little, on the fullest day of account 1."""
    found = conn.execute(
        "UPDATE reporting_events_rollups SET count = count + 1, sum_value = sum_value - 0.000001"
        f" WHERE {ROW} AND date = (SELECT date FROM reporting_events_rollups WHERE {ROW} ORDER BY count DESC LIMIT 1)"
        " RETURNING date"
    ).fetchone()
    assert found is not None
    return date.fromisoformat(str(found[0]))


# -- what it says


def test_days_that_are_exact(run_program: RunProgram, built: Sample) -> None:
    code, out, err = run_program("backfill", *EVERYTHING)
    assert (code, err) == (0, "")
    days = int(out.split()[0])
    assert out == f"{days} days compared, {days} exact\n"
    assert days >= 12
    assert run_program("backfill", *EVERYTHING, "--quiet", "--strict") == (0, "", "")


def test_a_difference_is_told_row_by_row_and_repaired(conn: Connection, run_program: RunProgram, built: Sample) -> None:
    day = corrupt(conn)
    words = ("verify", "--account", "1", "--date", str(day))
    code, out, err = run_program("backfill", *words)
    assert (code, err) == (1, "")
    heading, found, *_ = out.splitlines()
    assert heading.split()[:2] == ["account", "date"]
    assert found.split()[:5] == ["1", str(day), "America/New_York", "open", "drift"]
    assert "drift (1): " in out
    assert "--repair" in out
    assert "reply_time" not in out

    code, out, _ = run_program("backfill", *words, "--rows", "--quiet")
    assert code == 1
    count, total = [line.split() for line in out.splitlines() if "reply_time" in line]
    assert count[:6] == ["1", str(day), "account", "1", "reply_time", "count"]
    assert int(count[7]) == int(count[6]) + 1
    assert count[8] == "1"
    assert (total[5], total[8]) == ("sum_value", "-0.000001")

    code, out, err = run_program("backfill", *EVERYTHING, "--repair")
    assert (code, err) == (0, "")
    assert "After the rebuild of 1 days:\n1 days compared, 1 exact\n" in out
    assert_exact(conn)
    assert run_program("backfill", *words)[0] == 0


def test_json_has_a_line_a_day(conn: Connection, run_program: RunProgram, built: Sample) -> None:
    day = corrupt(conn)
    code, out, err = run_program("backfill", *EVERYTHING, "--json", "--rows")
    assert (code, err) == (1, "")
    days = [json.loads(line) for line in out.splitlines()]
    assert {each["verdict"] for each in days} == {"exact", "drift"}
    (drift,) = [each for each in days if each["verdict"] == "drift"]
    assert (drift["account_id"], drift["date"], drift["state"], drift["differing"]) == (1, str(day), "open", 1)
    assert (drift["raw"], drift["behind"], drift["missing"]) == (drift["counted"], 0, 0)
    (row,) = drift["rows"]
    assert (row["dimension_type"], row["dimension_id"], row["metric"]) == ("account", 1, "reply_time")
    assert row["difference"] == {"count": 1, "sum_value": "-0.000001", "sum_value_business_hours": "0.000000"}
    assert row["found"]["count"] == row["expected"]["count"] + 1

    code, out, err = run_program("backfill", *EVERYTHING, "--json", "--repair")
    assert (code, err) == (0, "")
    repaired = [json.loads(line) for line in out.splitlines()]
    assert len(repaired) == len(days)
    assert {each["verdict"] for each in repaired} == {"exact"}
    assert [(each["date"], each["repaired"]) for each in repaired if each["repaired"]] == [(str(day), "drift")]


def test_missing_raw_events_are_no_difference_and_no_repair(
    conn: Connection, run_program: RunProgram, built: Sample
) -> None:
    day = corrupt(conn)
    conn.execute(f"UPDATE reporting_events_rollups SET count = count - 1, sum_value = sum_value + 0.000001 WHERE {ROW}")
    rebuild = ("--account", "1", "--date", str(day))
    assert run_program("backfill", "verify", *rebuild, "--repair")[0] == 0
    conn.execute("DELETE FROM reporting_events WHERE account_id = 1 AND id % 2 = 0")
    code, out, _ = run_program("backfill", "verify", *rebuild)
    assert code == 0
    assert "missing raw" in out
    assert "--force" in out
    assert run_program("backfill", "verify", *rebuild, "--strict")[0] == 1
    corrupt(conn)
    conn.execute(f"DELETE FROM reporting_events_rollups WHERE {ROW}")  # no missing event explains it
    code, _, err = run_program("backfill", "verify", *rebuild, "--repair")
    assert code == 1
    assert "events were counted that reporting_events does not have" in err
    assert "--force" in err


def test_days_that_wait_are_listed_and_rebuilt(conn: Connection, run_program: RunProgram, built: Sample) -> None:
    conn.execute("UPDATE rollup_days SET stale_since = now() WHERE account_id = 2")
    code, out, _ = run_program("backfill", *EVERYTHING)
    assert code == 0
    assert "stale" in out
    assert "--stale" in out
    code, out, _ = run_program("backfill", *EVERYTHING, "--repair", "--strict")
    assert code == 0
    assert_exact(conn)


def test_days_that_settle_say_from_when_on_a_rebuild_completes_them(
    conn: Connection, run_program: RunProgram, built: Sample
) -> None:
    conn.execute("UPDATE rollup_control SET settle_seconds = 600")
    conn.execute("UPDATE account_settings SET reporting_timezone = 'Asia/Kathmandu' WHERE account_id = 2")
    found = conn.execute(
        "SELECT date::text, to_char(settles_at AT TIME ZONE 'UTC', 'HH24:MI:SS') FROM rollup_days"
        " WHERE account_id = 2 AND stale_since IS NOT NULL ORDER BY date"
    ).fetchall()
    day, time = found[1]
    sentence = f"a change of time zone settles at {time} UTC; a rebuild after that completes its days"
    words = ("--account", "2", "--date", day)

    code, out, err = run_program("backfill", "verify", *words)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].endswith(f"not compared; {sentence}: python -m backfill --stale")
    code, out, err = run_program("backfill", "verify", *words, "--quiet")
    assert (code, err, out.count(sentence)) == (0, "", 1)
    code, out, err = run_program("backfill", "verify", *words, "--repair")
    assert (code, err) == (0, "")
    assert sentence in out.partition("After the rebuild of 1 days:\n")[2]

    code, out, err = run_program("backfill", *words)
    assert (code, err) == (0, "")
    assert f"1 days stay stale: {sentence}" in out
    for option in ("--quiet", "--json"):
        code, out, err = run_program("backfill", *words, option)
        assert (code, len(err.splitlines())) == (0, 1)
        assert sentence in err
        assert bool(out) == (option == "--json")
    code, out, err = run_program("backfill", "--stale", "--quiet")
    assert (code, out) == (0, "")
    assert err.startswith(f"{len(found)} days wait: {sentence}")

    conn.execute("UPDATE rollup_days SET settles_at = now() WHERE settles_at IS NOT NULL")
    code, out, err = run_program("backfill", *EVERYTHING)
    assert (code, err) == (0, "")
    assert "not compared; python -m backfill --stale rebuilds stale days\n" in out
    assert run_program("backfill", "--stale", "--quiet") == (0, "", "")
    assert run_program("backfill", "verify", *words, "--quiet", "--strict") == (0, "", "")


def test_only_days_that_were_rebuilt_are_counted_as_such(
    conn: Connection, run_program: RunProgram, built: Sample
) -> None:
    day = corrupt(conn)
    conn.execute(f"ALTER TABLE reporting_events_rollups ADD CONSTRAINT no CHECK (NOT ({ROW})) NOT VALID")
    code, out, err = run_program("backfill", "verify", "--account", "1", "--date", str(day), "--repair")
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "\nAfter the rebuild of 0 of 1 days:\n" in out


def test_rows_of_dates_without_raw_events_are_found(conn: Connection, run_program: RunProgram, built: Sample) -> None:
    conn.execute("INSERT INTO reporting_events_rollups VALUES (3, '2020-02-29', 'agent', 1, 'reply_time', 0, 0, 0)")
    code, out, _ = run_program("backfill", *EVERYTHING, "--rows")
    assert code == 1
    assert "2020-02-29" in out
    assert run_program("backfill", *EVERYTHING, "--repair")[0] == 0
    assert_exact(conn)


def test_accounts_without_a_time_zone(run_program: RunProgram, built: Sample) -> None:
    code, out, err = run_program("backfill", "verify", "--account", "99", "--account", "1", "--date", "yesterday")
    assert code == 1
    assert out == "1 days compared, 1 exact\n"
    assert err.startswith("account 99 has no reporting_timezone")
    assert len(err.splitlines()) == 1


def test_its_help_has_examples_and_exit_codes(run_program: RunProgram) -> None:
    code, out, err = run_program("backfill", "verify", "--help")
    assert (code, err) == (0, "")
    assert "python -m backfill verify --all-accounts --date yesterday" in out
    assert "Exit codes: 0" in out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--account", "1"],
        ["--all-accounts", "--date", "tomorrow"],
        ["--all-accounts", "--all-dates", "--date", "yesterday"],
    ],
    ids=" ".join,
)
def test_wrong_use_is_one_line(run_program: RunProgram, words: list[str]) -> None:
    code, out, err = run_program("backfill", "verify", *words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_a_database_that_is_away_is_one_line(run_program: RunProgram) -> None:
    code, out, err = run_program("backfill", *EVERYTHING, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert (code, out) == (1, "")
    assert err.startswith("database: ")
    assert "check DATABASE_URL" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_it_stops_at_once(
    conn: Connection, database_url: str, tmp_path: Path, built: Sample, number: signal.Signals
) -> None:
    with psycopg.connect(database_url) as keeper:
        keeper.execute("LOCK reporting_events_rollups")
        verify = Program(tmp_path / "verify", ["backfill", *EVERYTHING], {**os.environ, "DATABASE_URL": database_url})
        try:
            waiting = (
                "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE '%verify' AND wait_event_type = 'Lock'"
            )
            wait_for(lambda: conn.execute(waiting).fetchall(), "look that waits", verify)
            verify.send(number)
            assert verify.wait() == 1
        finally:
            verify.kill()
    assert verify.err.read_text() == "stopped before all days were compared\n"


def test_a_connection_that_breaks_is_made_again(conn: Connection, database_url: str, built: Sample) -> None:
    looks = Looks(DatabaseSettings(database_url=database_url))
    day = corrupt(conn)
    try:
        assert looks.look((1, day)).verdict is Verdict.DRIFT
        conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%verify'")
        assert looks.look((1, day)).verdict is Verdict.DRIFT
    finally:
        looks.close()


# -- while consumers and rebuilds work

ROUNDS = 45
FIRST_ID = 100_000


def test_under_load_it_never_takes_for_a_difference_what_is_none(
    conn: Connection, database_url: str, kafka_bootstrap: str, make_topic: MakeTopic, start_consumer: StartConsumer
) -> None:
    """Duplicates, late events, raw rows before and after their messages, rebuilds and a change of time zone."""
    settings = DatabaseSettings(database_url=database_url)
    topic = make_topic(3)
    prepare(conn, load(600))
    conn.execute("UPDATE rollup_days SET stale_since = now()")
    rebuild_stale_days(conn, database_url)
    consumers = [start_consumer(topic, BATCH_MAX_EVENTS=30, FETCH_MAX_EVENTS=15) for _ in range(2)]
    for consumer in consumers:
        consumer.wait_for_log("partitions_assigned")
    today = datetime.now(UTC).date()
    days = [(account, today - timedelta(days=n)) for account in range(1, 13) for n in range(-1, 9)]
    seen: Counter[str] = Counter()
    over = threading.Event()
    looks = Looks(settings)
    with ThreadPoolExecutor(2) as pool:
        traffic = pool.submit(_traffic, database_url, kafka_bootstrap, topic, over)
        rebuilds = pool.submit(_rebuild_at_random, settings, days, over)
        try:
            while not over.is_set():
                found = [looks.look(day) for day in days]
                assert [each for each in found if each.verdict in {Verdict.DRIFT, Verdict.FAILED}] == []
                seen.update(_kinds(found))
        finally:
            over.set()
        traffic.result()
        assert rebuilds.result() > 20
    assert seen["exact"] > 100
    assert seen["missing raw"] > 0
    assert seen["lag"] > 0
    assert seen["behind"] > 0
    wait_until_read(conn, kafka_bootstrap, topic, *consumers)
    conn.execute("UPDATE rollup_days SET settles_at = now() WHERE settles_at IS NOT NULL")
    rebuild_stale_days(conn, database_url)
    final = list(verify_days(looks.look, days))
    looks.close()
    assert {(each.verdict, each.behind) for each in final if each.verdict is not Verdict.EXACT} == set()
    assert_exact(conn)


def _kinds(found: list[Verified]) -> Iterator[str]:
    """What a look saw of the traffic."""
    for each in found:
        yield each.verdict if each.counted or each.raw else "empty"
        if each.verdict is Verdict.EXACT and each.behind:
            yield "lag"


def _traffic(database_url: str, bootstrap: str, topic: str, over: threading.Event) -> None:
    """Small loads, one after the other: raw rows committed before their messages are sent, or after."""
    try:
        with psycopg.connect(database_url, autocommit=True) as conn:
            for number in range(ROUNDS):
                part = mixed_load(60, seed=number, first_id=FIRST_ID + number * 100)
                raw_first = number % 2 == 0
                if raw_first:
                    write_raw(conn, part)
                produce(bootstrap, topic, part.messages())
                # Whatever the consumers do meanwhile is right: they may be ahead of the raw rows, or behind them.
                over.wait(0.05)
                if not raw_first:
                    write_raw(conn, part)
                if number == ROUNDS // 2:
                    conn.execute("UPDATE account_settings SET reporting_timezone = 'Asia/Tokyo' WHERE account_id = 5")
    finally:
        over.set()


def _rebuild_at_random(settings: DatabaseSettings, days: list[tuple[int, date]], over: threading.Event) -> int:
    chance, runner, rebuilt = random.Random(1), Runner(settings), 0
    try:
        while not over.is_set():
            account, day = chance.choice(days)
            rebuilt += len(runner.rebuild([account], day))
            over.wait(0.01)
    finally:
        runner.close()
    return rebuilt
