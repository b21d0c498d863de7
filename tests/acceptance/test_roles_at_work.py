"""Every program under its own role of deploy/roles.sql: it can do its whole job, and is refused what is not its job."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from local.events import produce
from tests.fixtures.events import assert_exact, load, mixed_load, prepare, total, wait_until_read
from tests.fixtures.processes import Program, RunProgram, StartConsumer, wait_for
from tests.fixtures.roles import RolesDatabase
from tests.fixtures.services import MakeTopic

Connection = psycopg.Connection[Any]

EVENTS = 2_000

REFUSED: dict[str, list[str]] = {
    "consumer": [
        "SELECT value FROM dead_letters",
        "UPDATE dead_letters SET reason = ''",
        "DELETE FROM dead_letters",
        "SELECT FROM reporting_events",
        "UPDATE reporting_events SET value = 0",
        "DELETE FROM reporting_events",
        "UPDATE account_settings SET reporting_timezone = 'UTC'",
        "DELETE FROM reporting_events_rollups",
        "DELETE FROM rollup_days",
        "UPDATE rollup_control SET settle_seconds = 0",
    ],
    "operator": [
        "UPDATE dead_letters SET value = ''",
        "DELETE FROM dead_letters",
        "INSERT INTO dead_letters DEFAULT VALUES",
        "SELECT FROM reporting_events",
        "DELETE FROM reporting_events_rollups",
        "UPDATE account_settings SET reporting_timezone = 'UTC'",
    ],
    "backfill": [
        "UPDATE reporting_events SET value = 0",
        "DELETE FROM reporting_events",
        "DELETE FROM rollup_days",
        "DELETE FROM account_settings",
        "UPDATE account_settings SET account_id = 1",
        "UPDATE consumer_offsets SET next_offset = 0",
        "DELETE FROM dead_letters",
        "DELETE FROM schema_migrations",
    ],
    "auditor": [
        "UPDATE reporting_events_rollups SET count = 0",
        "DELETE FROM late_events",
        "SELECT FROM rollup_days FOR UPDATE",
        "CREATE TEMPORARY TABLE t (a int)",
    ],
    "reader": [
        "SELECT value FROM dead_letters",
        "SELECT FROM dead_letters",
        "SELECT FROM reporting_events",
        "SELECT FROM rollup_days",
        "SELECT rollup_since FROM account_settings",
        "UPDATE reporting_events_rollups SET count = 0",
        "UPDATE account_settings SET reporting_events_rollup = true",
        "CREATE TEMPORARY TABLE t (a int)",
        # What runs with its owner's rights cannot be called, by whatever way.
        "SELECT rollup_lock_settings()",
        "SELECT rollup_renew_settings_version()",
    ],
}
"""Beside the table of rights in tests/integration/test_roles.py: the same as statements, where it matters most."""
REFUSED_TO_ALL = [
    "TRUNCATE reporting_events_rollups",
    "DROP TABLE reporting_events_rollups",
    "ALTER TABLE rollup_days ADD COLUMN x int",
    "CREATE TABLE x (a int)",
    "CREATE SCHEMA x",
    "ALTER TABLE account_settings DISABLE TRIGGER ALL",
]


@pytest.mark.parametrize("role", REFUSED)
def test_what_is_not_its_job_is_refused(role: str, roles_database: RolesDatabase) -> None:
    with roles_database.connect(role) as conn:
        for statement in REFUSED[role] + REFUSED_TO_ALL:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())
                pytest.fail(f"{role} may: {statement}")


@pytest.mark.parametrize("role", ["operator", "backfill"])
def test_only_letters_that_were_dealt_with_long_ago_can_be_deleted(role: str, roles_database: RolesDatabase) -> None:
    with roles_database.connect() as owner:
        waits, _, lately = add_letters(owner)
    with roles_database.connect(role) as conn:
        assert conn.execute("SELECT rollup_prune_dead_letters(1, 10)").fetchone() == (1,)
        for days in (0, -1):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="at least a day"):
                conn.execute("SELECT rollup_prune_dead_letters(%s, 10)", (days,))
        kept = conn.execute("SELECT id FROM dead_letters ORDER BY id").fetchall()
    assert kept == [(waits,), (lately,)]


def add_letters(conn: Connection) -> list[int]:
    """The ids of three dead letters: one that waits, one discarded long ago, and one discarded just now."""
    found = conn.execute(
        """
        INSERT INTO dead_letters
            (group_id, topic, topic_id, partition, "offset", error_class, reason, discarded_at, discard_reason)
        VALUES
            ('g', 't', 'i', 0, 1, 'syntax', 'bad', NULL, NULL),
            ('g', 't', 'i', 0, 2, 'syntax', 'bad', '2001-01-01', 'old'),
            ('g', 't', 'i', 0, 3, 'syntax', 'bad', now(), 'new')
        RETURNING id
        """
    )
    return [number for (number,) in found]


def test_a_trigger_of_ones_own_cannot_borrow_the_owners_rights(roles_database: RolesDatabase) -> None:
    """Temporary tables may have any columns, and triggers of ours run with the owner's rights."""
    with roles_database.connect("consumer") as conn:
        conn.execute("CREATE TEMPORARY TABLE bait (account_id int, reporting_timezone text)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="function"):
            conn.execute(
                "CREATE TRIGGER hook AFTER INSERT ON bait FOR EACH ROW EXECUTE FUNCTION rollup_timezone_changed()"
            )


def test_a_schema_named_like_the_owner_cannot_borrow_the_owners_rights(roles_database: RolesDatabase) -> None:
    """Which whoever may create schemas can make; `"$user"` comes first in PostgreSQL's own search_path."""
    reader, owner = roles_database.login("reader"), roles_database.role("owner")
    with roles_database.connect() as admin:
        add_letters(admin)
        admin.execute(f"GRANT CREATE ON DATABASE {roles_database.name} TO {reader}".encode())
        admin.execute(f"GRANT INSERT ON account_settings TO {reader}".encode())
    with roles_database.connect("reader") as conn:
        conn.execute(f"CREATE SCHEMA {owner}".encode())
        conn.execute(f"GRANT USAGE ON SCHEMA {owner} TO PUBLIC".encode())
        conn.execute(
            f"CREATE FUNCTION {owner}.rollup_lock_settings() RETURNS void LANGUAGE plpgsql AS $$ BEGIN"
            f" EXECUTE 'GRANT SELECT ON public.dead_letters TO {reader}'; END $$".encode()
        )
        conn.execute("INSERT INTO account_settings (account_id, reporting_timezone) VALUES (99, 'UTC')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT value FROM public.dead_letters")


def test_rows_that_a_policy_hides_are_an_error(roles_database: RolesDatabase, run_program: RunProgram) -> None:
    """Unseen, they would be missing from rebuilt days, and verify would find nothing wrong."""
    with roles_database.connect() as admin:
        admin.execute("INSERT INTO account_settings (account_id, reporting_timezone) VALUES (42, 'UTC')")
        admin.execute("ALTER TABLE reporting_events ENABLE ROW LEVEL SECURITY")
    day = ("--account", "42", "--date", "2026-02-11")
    for role, words in (("backfill", day), ("auditor", ("verify", *day))):
        code, out, err = run_program("backfill", *words, DATABASE_URL=roles_database.url(role))
        assert (code, out) == (8, "")
        assert_one_refusal(err, "row-level security policy for table")


def assert_one_refusal(err: str, why: str) -> None:
    [line] = err.splitlines()
    assert line.startswith("PostgreSQL refuses us: ")
    assert why in line


@pytest.fixture
def days_to_rebuild(roles_database: RolesDatabase) -> None:
    """Twelve accounts, all days of which are stale; nothing settles."""
    with roles_database.connect() as admin:
        prepare(admin, load(200))
        admin.execute("UPDATE rollup_control SET settle_seconds = 0")
        admin.execute("UPDATE account_settings SET reporting_timezone = 'Asia/Kathmandu'")
        assert admin.execute("SELECT FROM rollup_days WHERE stale_since IS NOT NULL").rowcount > 10


EVERYTHING = ("--all-accounts", "--all-dates")


@pytest.mark.parametrize(
    "words",
    [
        ("--stale",),
        ("--stale", "--json"),
        ("--stale", "--watch", "0.1"),
        ("--all-accounts", "--date", "yesterday", "--jobs", "2"),
        (*EVERYTHING, "--json"),
        ("verify", *EVERYTHING, "--repair", "--quiet"),
        ("verify", *EVERYTHING, "--repair", "--json"),
        ("set-timezone", "--account", "1", "--timezone", "Asia/Tokyo", "--rebuild"),
    ],
    ids=" ".join,
)
def test_a_right_that_is_missing_ends_all_of_it(
    roles_database: RolesDatabase, days_to_rebuild: None, run_program: RunProgram, words: tuple[str, ...]
) -> None:
    """Not each day with the same line."""
    with roles_database.connect() as admin:
        admin.execute(f"REVOKE ALL ON late_events FROM {roles_database.role('backfill')}".encode())
    url = roles_database.url("backfill")
    code, out, err = run_program("backfill", *words, DATABASE_URL=url, METRICS_PORT=0, METRICS_ADDRESS="127.0.0.1")
    assert code == 8
    assert_one_refusal(err, "permission denied for table late_events")
    assert "failed" not in out
    assert "After the rebuild" not in out


@pytest.mark.parametrize(
    "words",
    [
        (*EVERYTHING,),
        ("--stale",),
        ("--stale", "--watch", "0.1"),
        ("close",),
        ("verify", *EVERYTHING),
        ("set-timezone", "--account", "1", "--timezone", "Asia/Tokyo"),
        ("status",),
        ("explain", "--event", "1"),
    ],
    ids=" ".join,
)
def test_a_stranger_is_told_so_in_one_line(database_url: str, run_program: RunProgram, words: tuple[str, ...]) -> None:
    url = make_conninfo(database_url, user="nobody_of_that_name")
    code, _, err = run_program("backfill", *words, DATABASE_URL=url, METRICS_PORT=0, METRICS_ADDRESS="127.0.0.1")
    assert code == 8, err
    assert_one_refusal(err, "nobody_of_that_name")


def test_a_worker_that_was_let_in_waits_until_it_is_again(
    roles_database: RolesDatabase, days_to_rebuild: None, tmp_path: Path
) -> None:
    """A login may be changed under it: restarts would not help before that is known."""
    url, login = roles_database.url("backfill"), roles_database.login("backfill")
    environment = {**os.environ, "DATABASE_URL": url, "METRICS_ADDRESS": "127.0.0.1", "METRICS_PORT": "0"}
    watcher = Program(tmp_path / "watcher", ["backfill", "--stale", "--watch", "0.1"], environment)
    with roles_database.connect() as admin:

        def is_done() -> bool:
            return not admin.execute("SELECT FROM rollup_days WHERE stale_since IS NOT NULL").rowcount

        try:
            wait_for(is_done, "days rebuilt", watcher)
            admin.execute(f"ALTER ROLE {login} NOLOGIN".encode())
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (login,))
            wait_for(lambda: "not permitted to log in" in watcher.err.read_text(), "refusal", watcher)
            admin.execute(f"ALTER ROLE {login} LOGIN".encode())
            admin.execute("UPDATE rollup_days SET stale_since = now()")
            wait_for(is_done, "days rebuilt again", watcher)
        finally:
            watcher.kill()


def test_the_auditor_repairs_nothing_and_says_so_once(
    roles_database: RolesDatabase, days_to_rebuild: None, run_program: RunProgram
) -> None:
    url = roles_database.url("auditor")
    code, out, err = run_program("backfill", "verify", *EVERYTHING, "--repair", DATABASE_URL=url)
    assert code == 8
    assert_one_refusal(err, "permission denied")
    assert out.count("days compared") == 1


@pytest.mark.parametrize(
    "words", [["list"], ["show", "1"], ["replay", "--all"], ["discard", "1", "--reason=x", "--yes"]], ids=" ".join
)
def test_who_may_not_touch_letters_is_refused(
    words: list[str], roles_database: RolesDatabase, run_program: RunProgram
) -> None:
    with roles_database.connect() as admin:
        add_letters(admin)
    code, out, err = run_program("consumer", "dead-letters", *words, DATABASE_URL=roles_database.url("reader"))
    assert (code, out) == (8, "")
    assert err.startswith("PostgreSQL refuses us: permission denied for ")


def test_the_backfill_moves_late_events_to_the_day_they_lie_on(
    roles_database: RolesDatabase, run_program: RunProgram
) -> None:
    """Noted on a day in UTC; in the account's present zone the event lies on the next one."""
    with roles_database.connect() as admin:
        admin.execute("UPDATE rollup_control SET settle_seconds = 0")
        admin.execute("INSERT INTO account_settings (account_id, reporting_timezone) VALUES (42, 'Asia/Tokyo')")
        admin.execute(
            "INSERT INTO rollup_days (account_id, date, timezone, closed, stale_since, events, registry)"
            " VALUES (42, '2026-02-11', 'UTC', true, now(), NULL, 'older')"
        )
        admin.execute("INSERT INTO late_events (account_id, date, event_id) VALUES (42, '2026-02-11', 7)")
        admin.execute(
            "INSERT INTO reporting_events (id, name, value, account_id, created_at, updated_at)"
            " VALUES (7, 'reply_time', 1, 42, '2026-02-11 20:00', '2026-02-11 20:00')"
        )
    for _ in range(2):
        code, out, err = run_program("backfill", "--stale", DATABASE_URL=roles_database.url("backfill"))
        assert code == 0, out + err
    with roles_database.connect() as admin:
        assert admin.execute("SELECT * FROM late_events").fetchall() == []
        found = admin.execute("SELECT date::text, count FROM reporting_events_rollups WHERE dimension_type = 'account'")
        assert found.fetchall() == [("2026-02-12", 1)]


def test_the_application_changes_time_zones_with_rights_on_its_own_table_alone(roles_database: RolesDatabase) -> None:
    application = roles_database.login("reader")  # any login; these two rights are all that it gets beside reading
    with roles_database.connect() as admin:
        admin.execute(f"GRANT INSERT, UPDATE ON account_settings TO {application}")
        with roles_database.connect("reader") as conn:
            conn.execute("INSERT INTO account_settings (account_id, reporting_timezone) VALUES (42, 'Europe/Paris')")
            conn.execute("UPDATE account_settings SET reporting_timezone = 'Asia/Tokyo' WHERE account_id = 42")
        days = admin.execute("SELECT DISTINCT timezone, events, stale_since IS NULL FROM rollup_days").fetchall()
        since = admin.execute("SELECT rollup_since IS NOT NULL FROM account_settings").fetchall()
    assert days == [("Europe/Paris", None, False)]  # the second change made what was counted unknown
    assert since == [(True,)]


@pytest.mark.timeout(300)
def test_each_program_does_its_job_under_its_role(
    roles_database: RolesDatabase,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    start_consumer: StartConsumer,
    run_program: RunProgram,
) -> None:
    topic = make_topic(2)
    sample = mixed_load(EVENTS)
    with roles_database.connect() as conn:
        prepare(conn, sample)
        produce(kafka_bootstrap, topic, sample.messages())

        # The consumer: checks, adopts partitions, counts, buries, notes late events, reloads settings.
        consumer_url = roles_database.url("consumer")
        code, out, _ = run_program("consumer", "check", KAFKA_TOPICS=topic, DATABASE_URL=consumer_url)
        assert code == 0, out
        consumer = start_consumer(topic, DATABASE_URL=consumer_url)
        wait_until_read(conn, kafka_bootstrap, topic, consumer)
        became = total(conn)
        assert (became.messages, became.dead) == (sample.expected.messages, sample.expected.dead)
        assert min(became.counted, became.duplicates, became.late, became.dead) > 0
        consumer.wait_for_status("/readyz", 200)

        # The others, while the consumer runs.
        _operator_decides_about_letters(roles_database, conn, topic, run_program)
        _backfill_everything(roles_database, conn, run_program)
        _auditor_proves_it(roles_database, run_program)
        assert_exact(conn)
        assert consumer.terminate() == 0
        _reader_reads(roles_database)


def _operator_decides_about_letters(
    database: RolesDatabase, conn: Connection, topic: str, run_program: RunProgram
) -> None:
    url = database.url("operator")

    def done(*words: str, expected: int = 0) -> str:
        code, out, err = run_program("consumer", "dead-letters", *words, DATABASE_URL=url, KAFKA_TOPICS=topic)
        assert code == expected, out + err
        assert "permission" not in out + err
        return out

    done("list")
    (first, last) = conn.execute("SELECT min(id), max(id) FROM dead_letters").fetchone() or (0, 0)
    done("show", str(first))
    done("replay", str(first), "--json", expected=1)  # it is still no event
    # As if the program had learnt to read it: a replay counts it, in every table that counting writes.
    event = {"id": 10_000_001, "name": "conversation_bot_handoff", "account_id": 1, "conversation_id": 7, "user_id": 1}
    event["created_at"] = datetime.now(UTC).isoformat()
    raw = {**event, "created_at": datetime.now(UTC).replace(tzinfo=None)}
    conn.execute("UPDATE dead_letters SET value = %s WHERE id = %s", (json.dumps(event).encode(), first))
    conn.execute(
        "INSERT INTO reporting_events (id, name, account_id, conversation_id, user_id, created_at, updated_at) VALUES"
        " (%(id)s, %(name)s, %(account_id)s, %(conversation_id)s, %(user_id)s, %(created_at)s, %(created_at)s)",
        raw,
    )
    done("replay", str(first))
    done("discard", str(last), "--reason=a test", "--yes")
    assert conn.execute("SELECT outcome FROM dead_letters WHERE id = %s", (first,)).fetchone() == ("counted",)
    conn.execute("UPDATE dead_letters SET discarded_at = '2001-01-01' WHERE id = %s", (last,))
    done("prune", "--days=1")
    assert conn.execute("SELECT FROM dead_letters WHERE id = %s", (last,)).fetchone() is None


def _backfill_everything(database: RolesDatabase, conn: Connection, run_program: RunProgram) -> None:
    url = database.url("backfill")
    conn.execute("UPDATE rollup_control SET settle_seconds = 0")
    (account,) = conn.execute("SELECT min(account_id) FROM rollup_days").fetchone() or (0,)

    def done(*words: str, expected: int = 0, **variables: str | int) -> str:
        code, out, err = run_program("backfill", *words, DATABASE_URL=url, **variables)
        assert code == expected, out + err
        return out

    done("--stale")
    done(f"--account={account}", "--date=yesterday", "--jobs=2")
    done("set-timezone", f"--account={account}", "--timezone=Asia/Kathmandu", "--rebuild")
    done("set-timezone", "--account=99999", "--timezone=Europe/Paris", "--rebuild")
    assert "dead letters wait for a decision" in done("status", expected=1)
    done("explain", f"--account={account}", "--date=yesterday")
    done("verify", "--all-accounts", "--date=yesterday", "--repair")
    conn.execute("UPDATE rollup_days SET stale_since = now() WHERE date < current_date")
    done("--stale")
    done("close", OPEN_DAYS=1)
    assert conn.execute("SELECT FROM rollup_days WHERE closed").fetchone() is not None


def _auditor_proves_it(database: RolesDatabase, run_program: RunProgram) -> None:
    url = database.url("auditor")
    # Dead letters wait, so that the status needs somebody.
    for expected, words in ((0, ["verify", "--all-accounts", "--date=yesterday", "--json"]), (1, ["status", "--json"])):
        code, out, err = run_program("backfill", *words, DATABASE_URL=url)
        assert (code, err) == (expected, ""), out + err
        assert [json.loads(line) for line in out.splitlines()]
    code, out, err = run_program("backfill", "explain", "--account=1", "--date=yesterday", DATABASE_URL=url)
    assert "permission" not in out + err
    # What it may not, it says in a line.
    code, out, err = run_program("backfill", "--stale", DATABASE_URL=url)
    assert code == 8
    assert "permission denied" in err
    assert "Traceback" not in err


def _reader_reads(database: RolesDatabase) -> None:
    with database.connect("reader") as conn:
        report = conn.execute(
            "SELECT r.account_id, r.date, c.state, sum(r.count) FROM reporting_events_rollups AS r"
            " JOIN rollup_coverage AS c USING (account_id, date) JOIN account_settings AS s USING (account_id)"
            " WHERE r.dimension_type = 'account' AND s.reporting_timezone IS NOT NULL GROUP BY 1, 2, 3"
        ).fetchall()
    assert report


def test_the_worker_that_watches_does_its_job(roles_database: RolesDatabase, tmp_path: Path) -> None:
    with roles_database.connect() as conn:
        prepare(conn, load(500))
        conn.execute("UPDATE rollup_control SET settle_seconds = 0")
        conn.execute("UPDATE account_settings SET reporting_timezone = 'Asia/Kathmandu'")
        environment = {
            **os.environ,
            "DATABASE_URL": roles_database.url("backfill"),
            "METRICS_ADDRESS": "127.0.0.1",
            "METRICS_PORT": "0",
            "OPEN_DAYS": "1",
        }
        watcher = Program(tmp_path / "watcher", ["backfill", "--stale", "--watch", "0.1"], environment)
        try:
            none = "SELECT WHERE NOT EXISTS (SELECT FROM {})"
            stale = none.format("rollup_days WHERE stale_since IS NOT NULL")
            wait_for(lambda: conn.execute(stale.encode()).fetchone() is not None, "no stale day", watcher)
            # Days that have left the open window, and bits that nobody needs any more.
            opened = conn.execute(
                "INSERT INTO rollup_days (account_id, date, timezone, closed, events, registry)"
                " SELECT account_id, current_date - 10, reporting_timezone, false, 0, '' FROM account_settings"
                " WHERE reporting_timezone IS NOT NULL"
            ).rowcount
            conn.execute("INSERT INTO counted_events VALUES (-7, 0, '', '2001-01-01')")
            waits, old, lately = add_letters(conn)
            audited = "SELECT FROM rollup_days WHERE closed AND audited_at IS NOT NULL"
            wait_for(lambda: conn.execute(audited).rowcount == opened, f"{opened} days audited and closed", watcher)
            pruned = none.format("counted_events WHERE last_day < '2002-01-01'")
            wait_for(lambda: conn.execute(pruned.encode()).fetchone() is not None, "bits pruned", watcher)
            letters = none.format(f"dead_letters WHERE id = {old}")
            wait_for(lambda: conn.execute(letters.encode()).fetchone() is not None, "letter pruned", watcher)
            kept = conn.execute("SELECT id FROM dead_letters ORDER BY id").fetchall()
            assert kept == [(waits,), (lately,)]
        finally:
            watcher.kill()
        assert "permission" not in watcher.tail()
        assert_exact(conn)
