"""The writer's thread with a real database: it commits, waits, gives up and hands over, and loses nothing."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from consumer import database
from consumer.health import Health
from consumer.metric_catalogue import PREFIX
from consumer.metrics import Metrics
from consumer.poll_cycle import Policy
from consumer.rollup.batch import Batch, Partition
from consumer.writer import Writer
from tests.fixtures.events import Connection, assert_exact, load, prepare, total
from tests.fixtures.processes import wait_for
from tests.fixtures.rollup import GROUP, TOPIC, Rollup

SECONDS = 30.0
CHUNK = 100
MOST = 3 * CHUNK
"""Events that may wait for the writer."""
NAME = "writer under test"
SOURCE = Partition(TOPIC, 0)


class Writing:
    """A writer, and the chunks of a load that it is to commit, read one after the other from partition 0."""

    def __init__(self, url: str, conn: Connection, rollup: Rollup) -> None:
        sample = load(2_000)
        rollup.now = datetime.now(UTC)  # the writer's own present is the real one, and so is the trigger's
        prepare(conn, sample)
        self.url, self.conn, self.rollup = url, conn, rollup
        self.values = [value for _, value in sample.messages()]
        self.health = Health(time.monotonic())
        self.registry = CollectorRegistry()
        # Under lag it would wait for more for an hour: only a flush or a full queue makes it write.
        policy = Policy(MOST, lag_wait=3600)
        self.writer = Writer(self._connect, rollup.rules, policy, Metrics(self.registry), self.health)

    def _connect(self) -> psycopg.Connection:
        return database.connect(self.url, statement_timeout=60, application=NAME)

    def chunk(self) -> Batch:
        """The next messages."""
        start = self.rollup.positions[SOURCE]
        return self.rollup.read(*islice(self.values, start, start + CHUNK))

    def submit(self, chunks: int = 1, *, lagging: bool = False) -> None:
        """Submit the next chunks."""
        for _ in range(chunks):
            self.writer.submit(self.chunk(), lagging=lagging)

    def read_again(self) -> None:
        """Go on from the stored offset, as the reader does after a conflict."""
        self.rollup.positions[SOURCE] = self.stored()
        self.writer.resume()

    def stored(self) -> int:
        """The partition's next offset."""
        row = self.conn.execute(
            "SELECT next_offset FROM consumer_offsets WHERE group_id = %s AND partition = 0", (GROUP,)
        ).fetchone()
        assert row is not None
        return int(row[0])

    def finish(self) -> None:
        """Commit the rest of the load, and see that all of it is exact."""
        while self.rollup.positions[SOURCE] < len(self.values):
            assert self.writer.wait_for_room(SECONDS)
            self.submit()
        assert self.writer.flush(SECONDS)
        assert self.stored() == 2_000
        assert total(self.conn).counted == 2_000
        assert_exact(self.conn)

    def metric(self, name: str, **labels: str) -> float:
        """A sample of the writer's metrics."""
        value = self.registry.get_sample_value(PREFIX + name, labels)
        assert value is not None
        return value

    def backends(self, waiting: bool = False) -> list[int]:
        """The process ids of the writer's sessions, of those only that wait for a lock if so asked."""
        rows = self.conn.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"
            " AND (wait_event_type = 'Lock' OR NOT %s)",
            (NAME, waiting),
        )
        return [pid for (pid,) in rows]

    def wait_until_blocked(self) -> int:
        """Wait until the writer's transaction waits for a lock; its session's process id."""
        return wait_for(lambda: self.backends(waiting=True), "a transaction that waits for a lock")[0]


@pytest.fixture
def writing(database_url: str, conn: Connection, rollup: Rollup) -> Iterator[Writing]:
    """A started writer."""
    made = Writing(database_url, conn, rollup)
    made.writer.start()
    yield made
    assert made.writer.stop(SECONDS)
    wait_for(lambda: not made.backends(), "the end of the writer's session")


@pytest.fixture
def blocker(database_url: str) -> Iterator[Connection]:
    """A session that holds the account's days once told to, until it rolls back."""
    with psycopg.connect(database_url) as connection:
        yield connection
        connection.rollback()


def block(blocker: Connection) -> None:
    """Make the writer's next transaction wait."""
    blocker.execute("SELECT FROM rollup_days FOR UPDATE")


def test_chunks_gather_while_it_writes_and_leave_together(writing: Writing, blocker: Connection) -> None:
    block(blocker)
    writing.submit()
    writing.wait_until_blocked()
    writing.submit(2)
    assert writing.writer.wait_for_room(0)
    writing.submit()
    assert not writing.writer.wait_for_room(0)  # full
    assert writing.metric("pending_events") == 4 * CHUNK
    assert not writing.writer.flush(0)
    assert writing.writer.committed == {}
    blocker.rollback()
    assert writing.writer.flush(SECONDS)
    assert writing.writer.committed == {SOURCE: 4 * CHUNK}
    assert writing.metric("transactions_total") == 2
    assert writing.metric("pending_events") == 0
    writing.finish()


def test_a_flush_does_not_wait_for_more_and_a_full_queue_leaves(writing: Writing) -> None:
    writing.submit(lagging=True)
    assert writing.writer.flush(SECONDS)
    assert writing.stored() == CHUNK
    writing.submit(3, lagging=True)
    wait_for(lambda: writing.writer.committed == {SOURCE: 4 * CHUNK}, "a full queue to leave")
    writing.finish()


def test_after_a_conflict_nothing_is_written_until_resumed(writing: Writing) -> None:
    writing.submit(2)
    assert writing.writer.flush(SECONDS)
    writing.conn.execute("UPDATE consumer_offsets SET next_offset = %s WHERE partition = 0", (CHUNK,))
    writing.submit()
    assert not writing.writer.flush(SECONDS)
    assert writing.writer.conflicted
    writing.submit()
    assert not writing.writer.wait_for_room(0)
    assert not writing.writer.flush(0)
    assert writing.metric("offset_conflicts_total") == 1
    assert writing.stored() == CHUNK
    writing.read_again()
    assert writing.writer.wait_for_room(0)
    writing.finish()
    assert total(writing.conn).duplicates == CHUNK


def test_a_batch_given_up_while_its_session_ends_is_not_written(writing: Writing, blocker: Connection) -> None:
    block(blocker)
    writing.submit(2)
    pid = writing.wait_until_blocked()
    writing.writer.abandon()
    writing.submit()
    writing.conn.execute("SELECT pg_terminate_backend(%s)", (pid,))
    wait_for(lambda: not writing.backends(), "the end of the session")
    blocker.rollback()
    wait_for(lambda: writing.metric("db_retries_total", sqlstate="57P01") == 1, "a failure")
    writing.read_again()
    assert writing.rollup.positions[SOURCE] == 0
    writing.finish()
    assert total(writing.conn).messages == 2_000


def test_a_batch_given_up_that_commits_all_the_same_conflicts_once(writing: Writing, blocker: Connection) -> None:
    block(blocker)
    writing.submit()
    writing.wait_until_blocked()
    writing.writer.abandon()
    writing.read_again()  # from 0, since nothing is committed yet
    writing.submit()
    blocker.rollback()
    wait_for(lambda: writing.writer.conflicted, "a conflict")
    assert writing.stored() == CHUNK
    writing.read_again()
    writing.finish()
    assert total(writing.conn).messages == 2_000


def test_a_lost_session_is_made_again_and_the_batch_counted_once(writing: Writing, blocker: Connection) -> None:
    block(blocker)
    writing.submit()
    pid = writing.wait_until_blocked()
    writing.conn.execute("SELECT pg_terminate_backend(%s)", (pid,))
    again = wait_for(lambda: [p for p in writing.backends(waiting=True) if p != pid], "the next attempt")
    assert len(again) == 1
    assert writing.metric("db_retries_total", sqlstate="57P01") == 1
    blocker.rollback()
    writing.finish()
    assert total(writing.conn).messages == 2_000
    assert writing.health.state.database_error is None
    assert writing.metric("db_up") == 1


@pytest.mark.parametrize("command", [b"COPY consumer_offsets (group_id) FROM STDIN", b"SELECT 1"])
def test_a_session_that_an_error_left_in_the_midst_of_a_command_is_made_again(writing: Writing, command: bytes) -> None:
    writing.submit()
    assert writing.writer.flush(SECONDS)
    before = writing.backends()
    assert writing.writer._conn is not None
    writing.writer._conn.pgconn.send_query(command)
    writing.submit()
    assert writing.writer.flush(SECONDS)
    assert writing.stored() == 2 * CHUNK
    writing.finish()
    assert len(writing.backends()) == 1
    assert writing.backends() != before


def test_a_database_that_is_away_shows_in_health_until_it_is_back(writing: Writing) -> None:
    url, writing.url = writing.url, "postgresql://nobody@127.0.0.1:1/nowhere"
    writing.submit()
    wait_for(lambda: writing.writer.database_away, "a failed attempt")
    wait_for(lambda: writing.metric("db_retries_total", sqlstate="none") >= 2, "two attempts")
    assert "refused" in (writing.health.state.database_error or "")
    assert writing.metric("db_up") == 0
    assert not writing.writer.conflicted
    writing.url = url
    writing.finish()
    assert not writing.writer.database_away
    assert writing.health.state.database_error is None


TOO_SLOW = """
CREATE FUNCTION too_slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.messages > OLD.messages + 150 THEN {}; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER too_slow BEFORE UPDATE ON consumer_offsets FOR EACH ROW EXECUTE FUNCTION too_slow();
"""


@pytest.mark.parametrize(
    "end",
    [
        "RAISE 'as a statement timeout' USING ERRCODE = 'query_canceled'",
        "PERFORM pg_sleep(1.1), pg_terminate_backend(pg_backend_pid())",  # as a transaction_timeout does
    ],
)
def test_a_batch_that_takes_longer_than_it_may_is_read_again_in_parts(writing: Writing, end: str) -> None:
    writing.conn.execute(TOO_SLOW.format(end).encode())
    writing.submit(3, lagging=True)
    wait_for(lambda: writing.writer.conflicted, "a batch that is given up")
    assert writing.stored() == 0
    assert writing.writer.limit == 3 * CHUNK // 2
    writing.read_again()
    writing.submit(2)
    assert writing.writer.flush(SECONDS)
    assert writing.stored() == 2 * CHUNK
    assert 3 * CHUNK // 2 < writing.writer.limit < MOST
    writing.conn.execute("DROP TRIGGER too_slow ON consumer_offsets")
    writing.finish()


def test_changed_settings_are_read_again_before_the_batch_is_counted(writing: Writing) -> None:
    writing.submit()
    assert writing.writer.flush(SECONDS)
    writing.conn.execute("DELETE FROM account_settings WHERE account_id = 1")
    writing.submit(2)
    assert writing.writer.flush(SECONDS)
    assert writing.metric("settings_reloads_total") == 1
    assert writing.metric("events_skipped_total", reason="no_timezone") > 0


def test_what_does_not_pass_is_handed_over_and_ends_it(writing: Writing) -> None:
    writing.conn.execute("ALTER TABLE consumer_offsets RENAME TO gone")
    writing.submit()
    assert not writing.writer.flush(SECONDS)
    assert isinstance(writing.writer.failure, psycopg.errors.UndefinedTable)
    assert not writing.writer.wait_for_room(0)


def test_one_that_was_never_started_stops(database_url: str, conn: Connection, rollup: Rollup) -> None:
    assert Writing(database_url, conn, rollup).writer.stop(0)
