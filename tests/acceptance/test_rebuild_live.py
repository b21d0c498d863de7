"""Days rebuilt while real consumers count them: whatever meets whatever, the end is what the plain model says.

Raw rows come before their messages and after them; days are open, closed and never seen; time zones change in between;
several rebuild the same days at once, and one of them is killed again and again. The order is by chance: the seed is
printed with a failure, and RANDOM_SEED gives the same load again.
"""

import json
import os
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from backfill.run import Runner
from consumer.rollup.rebuild import Result
from consumer.settings import DatabaseSettings
from local.events import write_raw
from tests.fixtures.events import (
    Trickle,
    assert_exact,
    mixed_load,
    prepare,
    read_messages,
    rollup_of_model,
    rollup_of_table,
    total,
    wait_until_read,
)
from tests.fixtures.processes import Program, RunProgram, StartConsumer, wait_for
from tests.fixtures.services import MakeTopic

Connection = psycopg.Connection[Any]

EVENTS = 2_000
"""Of each of the two loads."""
SECOND = 100_000
"""The first id of the second one."""
ACCOUNTS = tuple(range(1, 13))
DAY = timedelta(days=1)
ZONES = ("Pacific/Kiritimati", "America/St_Johns", "Australia/Lord_Howe")


def rebuild_until(stop: threading.Event, url: str, chance: random.Random, dates: list[date]) -> Counter[Result]:
    """Rebuild days of several accounts at random, one transaction after the other; how often each result came."""
    results: Counter[Result] = Counter()
    with Runner(DatabaseSettings(database_url=url)) as runner:
        while not stop.is_set():
            accounts = chance.sample(ACCOUNTS, chance.choice([1, 3, len(ACCOUNTS)]))
            # Mostly the last dates, on which nearly all events lie.
            day = chance.choice(dates if chance.random() < 0.3 else dates[-4:])
            results.update(r.result for r in runner.rebuild(accounts, day))
    return results


def test_whatever_meets_while_consumers_count_the_end_is_exact(
    conn: Connection,
    database_url: str,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    start_consumer: StartConsumer,
    run_program: RunProgram,
    tmp_path: Path,
) -> None:
    seed = int(os.environ.get("RANDOM_SEED") or random.SystemRandom().randrange(2**32))
    print(f"RANDOM_SEED={seed}")  # noqa: T201 - pytest shows it when the test has failed
    chance = random.Random(seed)
    topic = make_topic(3)
    before, after = mixed_load(EVENTS, seed), mixed_load(EVENTS, seed + 1, first_id=SECOND)
    prepare(conn, before)  # the other one's raw rows come after some of its messages
    conn.execute("UPDATE rollup_control SET settle_seconds = 1")
    today = datetime.now(UTC).date()
    dates = [today + n * DAY for n in range(-9, 2)]
    words = ["backfill", "--all-accounts", "--date", f"{dates[0]}..{today}", "--jobs", "2", "--quiet"]
    stop = threading.Event()
    killed = 0
    environment = {**os.environ, "DATABASE_URL": database_url}
    change = "UPDATE account_settings SET reporting_timezone = %s WHERE account_id = ANY(%s)"
    with ThreadPoolExecutor(2) as pool:
        # The same seed: both mostly want the same day at the same time.
        rebuilders = [pool.submit(rebuild_until, stop, database_url, random.Random(seed // 2), dates) for _ in range(2)]
        try:
            consumers = [start_consumer(topic) for _ in range(2)]
            with (
                Trickle(kafka_bootstrap, topic, before, per_second=250),
                Trickle(kafka_bootstrap, topic, after, per_second=250),
            ):
                for step, name in enumerate((None, *ZONES)):
                    enough = read_messages(conn) + 60
                    wait_for(lambda e=enough: read_messages(conn) >= e, f"{enough} messages", *consumers)  # type: ignore[misc]
                    program = Program(tmp_path / f"backfill-{step}", words, environment)
                    wait_for(lambda: connections(conn) > 2, "a backfill at work", *consumers)
                    threading.Event().wait(chance.uniform(0, 0.05))  # anywhere in its transactions
                    killed += program.code is None
                    program.kill()
                    if name is None:
                        # From now on raw rows come first: later than a second after their message, which is what
                        # settling takes here, they may not come while a time zone changes.
                        with conn.transaction():
                            write_raw(conn, after)
                    else:
                        conn.execute(change, (name, chance.sample(ACCOUNTS, 3)))
                enough = read_messages(conn) + 60
                wait_for(lambda: read_messages(conn) >= enough, f"{enough} messages", *consumers)
                assert read_messages(conn) < before.expected.messages + after.expected.messages
            wait_until_read(conn, kafka_bootstrap, topic, *consumers)
        finally:
            stop.set()
    results = sum((each.result(60) for each in rebuilders), Counter[Result]())
    assert killed
    # What the test is about has happened.
    assert results[Result.REBUILT] > 50
    assert results[Result.MISSING] > 0
    assert total(conn).late > 0
    assert total(conn).duplicates > 0
    assert total(conn).messages == before.expected.messages + after.expected.messages
    assert total(conn).dead == before.expected.dead + after.expected.dead
    wait_for(lambda: unsettled(conn) == 0, "end of settling")

    code, out, _ = run_program("backfill", "--resume", "--json")
    assert code == 0
    assert {json.loads(line)["result"] for line in out.splitlines()} <= {"rebuilt"}
    code, out, err = run_program("backfill", "--stale")
    assert (code, err) == (0, ""), out
    assert_exact(conn)
    assert rollup_of_table(conn) == rollup_of_model(conn)
    code, out, err = run_program("backfill", "verify", "--all-accounts", "--all-dates", "--quiet")
    assert (code, err) == (0, ""), out
    assert [consumer.terminate() for consumer in consumers] == [0, 0]


def connections(conn: Connection) -> int:
    """How many connections backfills have."""
    row = conn.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'reporting-rollup backfill'"
    ).fetchone()
    return int(row[0]) if row else 0


def unsettled(conn: Connection) -> int:
    """How many days wait for a change of time zone to settle."""
    row = conn.execute("SELECT count(*) FROM rollup_days WHERE settles_at > now()").fetchone()
    return int(row[0]) if row else 0
