"""What docs/decisions/0004-time-zones.md tells operators to do about a newer tzdata makes every day right again."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.fixtures.events import rollup_of_model, rollup_of_table
from tests.fixtures.older_tzdata import what_to_do
from tests.fixtures.processes import RunProgram


@pytest.mark.parametrize(
    ("zone", "instant", "old", "new"),
    [
        ("Europe/Berlin", datetime(2026, 1, 10, 22, 30, tzinfo=UTC), date(2026, 1, 11), date(2026, 1, 10)),
        ("America/New_York", datetime(2026, 1, 10, 5, 30, tzinfo=UTC), date(2026, 1, 9), date(2026, 1, 10)),
    ],
)
def test_an_event_moves_to_a_day_that_had_none(
    conn: psycopg.Connection[Any],
    run_program: RunProgram,
    older_tzdata: Path,
    zone: str,
    instant: datetime,
    old: date,
    new: date,
) -> None:
    conn.execute("INSERT INTO account_settings (account_id, reporting_timezone) VALUES (1, %s)", (zone,))
    conn.execute("DELETE FROM rollup_days")
    conn.execute("UPDATE account_settings SET rollup_since = '2020-01-01'")
    conn.execute(
        "INSERT INTO reporting_events (id, name, value, account_id, user_id, created_at, updated_at)"
        " VALUES (1, 'reply_time', 1.25, 1, 1, %s, %s)",
        (instant, instant),
    )
    words = ("backfill", "--account", "1", "--date", str(old))
    code, out, err = run_program(*words, PYTHONPATH=str(older_tzdata))
    assert code == 0, out + err
    assert {key.date for key in rollup_of_table(conn)} == {old}

    conn.execute(what_to_do(zone, old))
    code, out, err = run_program("backfill", "--stale")
    assert code == 0, out + err
    assert {key.date for key in rollup_of_table(conn)} == {new}
    assert rollup_of_table(conn) == rollup_of_model(conn)
