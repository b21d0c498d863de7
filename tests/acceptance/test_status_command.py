"""`python -m backfill status` and `explain` as commands: exit codes, what goes where, and wrong use."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from local.events import produce
from tests.fixtures.events import load, prepare, wait_until_read
from tests.fixtures.processes import RunProgram, StartConsumer
from tests.fixtures.services import MakeTopic

Connection = psycopg.Connection[Any]
NOWHERE = "127.0.0.1:9"


def test_a_consumer_that_has_read_all_needs_nobody(
    conn: Connection,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    start_consumer: StartConsumer,
    run_program: RunProgram,
) -> None:
    topic, sample = make_topic(2), load(400)
    prepare(conn, sample)
    produce(kafka_bootstrap, topic, sample.messages())
    consumer = start_consumer(topic)
    wait_until_read(conn, kafka_bootstrap, topic, consumer)
    code, out, err = run_program("backfill", "status", "--json")
    assert (code, err) == (0, "")
    (found,) = map(json.loads, out.splitlines())
    assert [p["lag"] for p in found["partitions"]] == [0, 0]
    assert sum(p["counted"] for p in found["partitions"]) == 400
    assert found["accounts"]["with_timezone"] == sample.workload.accounts
    code, out, err = run_program("backfill", "status")
    assert (code, err) == (0, "")
    assert f"{kafka_bootstrap} answered" in out
    assert "\x1b" not in out
    assert out.endswith("Nothing needs anybody.\n")
    # Any of its events is counted, and its day is what raw gives.
    event, account, day = conn.execute(
        "SELECT e.id, e.account_id, (e.created_at AT TIME ZONE 'UTC' AT TIME ZONE s.reporting_timezone)::date"
        " FROM reporting_events AS e JOIN account_settings AS s USING (account_id) ORDER BY random() LIMIT 1"
    ).fetchall()[0]
    code, out, err = run_program("backfill", "explain", "--event", str(event), "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["fate"], found["day"]["date"], found["day"]["account_id"]) == ("counted", str(day), account)
    code, out, err = run_program("backfill", "explain", "--account", str(account), "--date", str(day))
    assert (code, err) == (0, "")
    assert "The rollup equals the raw events." in out
    conn.execute("UPDATE reporting_events_rollups SET count = count + 1 WHERE account_id = %s", (account,))
    words = ("--account", str(account), "--date", str(day), "--json")
    code, out, _ = run_program("backfill", "explain", *words)
    assert code == 1
    assert json.loads(out)["same"] is False


def test_what_needs_somebody_is_exit_code_1(conn: Connection, run_program: RunProgram) -> None:
    conn.execute("INSERT INTO account_settings (account_id, reporting_timezone) VALUES (1, 'Europe/Paris')")
    conn.execute("UPDATE rollup_days SET stale_since = now() - interval '2 hours'")
    code, out, err = run_program("backfill", "status", KAFKA_BOOTSTRAP_SERVERS=NOWHERE)
    assert (code, err) == (1, "")
    assert "PROBLEM  5 days wait for a rebuild for longer than an hour" in out
    assert "do  run `python -m backfill --stale`" in out
    assert "No consumer has read anything yet." in out


def test_dead_letters_that_wait_need_somebody(conn: Connection, run_program: RunProgram) -> None:
    conn.execute(
        """
        INSERT INTO dead_letters
            (group_id, topic, topic_id, partition, "offset", error_class, reason, created_at, replayed_at, discarded_at,
            outcome, discard_reason)
        VALUES
            ('g', 't', 'i', 0, 1, 'syntax', 'bad', '2026-02-11 12:00Z', NULL, NULL, NULL, NULL),
            ('g', 't', 'i', 0, 2, 'type', 'bad', '2026-02-10 12:00Z', NULL, NULL, NULL, NULL),
            ('g', 't', 'i', 0, 3, 'type', 'bad', '2026-02-09 12:00Z', now(), NULL, 'counted', NULL),
            ('g', 't', 'i', 0, 4, 'type', 'bad', '2026-02-08 12:00Z', NULL, now(), NULL, 'old')
        """
    )
    code, out, err = run_program("backfill", "status")
    assert (code, err) == (1, "")
    assert "PROBLEM  2 dead letters wait for a decision, the oldest since 2026-02-10 12:00:00Z" in out
    assert "python -m consumer dead-letters list" in out
    assert "Nothing needs anybody." not in out
    code, out, err = run_program("backfill", "status", "--json")
    assert [letter["oldest"][:10] for letter in json.loads(out)["dead_letters"]] == ["2026-02-11", "2026-02-10"]
    conn.execute("UPDATE dead_letters SET discarded_at = now(), discard_reason = 'x' WHERE outcome IS NULL")
    assert run_program("backfill", "status")[0] == 0


def test_a_broker_that_is_away_costs_no_more_than_the_lags(conn: Connection, run_program: RunProgram) -> None:
    conn.execute(
        "INSERT INTO consumer_offsets (group_id, topic, topic_id, partition, next_offset) VALUES ('g', 't', 'i', 0, 5)"
    )
    code, out, err = run_program("backfill", "status", "--json", KAFKA_BOOTSTRAP_SERVERS=NOWHERE)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["kafka"].startswith(f"unknown: {NOWHERE} does not answer")
    assert found["partitions"][0]["lag"] is None


def test_yesterday_is_the_accounts_own(conn: Connection, run_program: RunProgram) -> None:
    conn.execute("INSERT INTO account_settings (account_id, reporting_timezone) VALUES (1, 'Pacific/Kiritimati')")
    before = datetime.now(UTC)
    code, out, err = run_program("backfill", "explain", "--account", "1", "--date", "yesterday", "--json")
    assert (code, err) == (0, "")
    ahead, day = timedelta(hours=14), timedelta(days=1)
    days = {str((moment + ahead - day).date()) for moment in (before, datetime.now(UTC))}
    assert json.loads(out)["date"] in days


def test_an_event_nobody_has_seen(run_program: RunProgram) -> None:
    code, out, err = run_program("backfill", "explain", "--event", "-17")
    assert (code, err) == (1, "")
    assert "never seen" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["explain"], "name a day, --account A --date D, or an event, --event ID"),
        (["explain", "--account", "1"], "name a day, --account A --date D"),
        (["explain", "--date", "2026-02-11"], "name a day, --account A --date D"),
        (["explain", "--event", "1", "--account", "1"], "--event goes alone"),
        (["explain", "--event", "1", "--metric", "reply_time"], "--event goes alone"),
        (["explain", "--event", str(2**63)], "is no 64-bit integer"),
        (["explain", "--account", str(2**31), "--date", "2026-02-11"], "is no 32-bit integer"),
        (["explain", "--account", "1", "--date", "11.2.2026"], "'11.2.2026' is no date"),
        (["explain", "--account", "1", "--date", "2026-02-11..2026-02-12"], "is more than one day"),
        (["explain", "--account", "1", "--date", "9999-12-31"], "9999-12-31 cannot have events"),
        (["explain", "--account", "1", "--date", "0001-01-01"], "0001-01-01 cannot have events"),
        (
            ["explain", "--account", "1", "--date", "2026-02-11", "--metric", "replytime"],
            "--metric: there is no 'replytime'; there are bot_handoffs_count,",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_one_line(run_program: RunProgram, words: list[str], said: str) -> None:
    code, out, err = run_program("backfill", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("words", [["status"], ["explain", "--event", "1"]], ids=" ".join)
def test_a_database_that_is_away_is_one_line(run_program: RunProgram, words: list[str]) -> None:
    code, out, err = run_program("backfill", *words, DATABASE_URL="postgresql://nobody@127.0.0.1:9/none")
    assert (code, out) == (1, "")
    assert err.startswith("database: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["status", "explain"])
def test_help_has_examples_and_exit_codes(run_program: RunProgram, command: str) -> None:
    code, out, err = run_program("backfill", command, "--help")
    assert (code, err) == (0, "")
    assert f" python -m backfill {command} --" in out  # an example
    assert "Exit codes: 0" in out
