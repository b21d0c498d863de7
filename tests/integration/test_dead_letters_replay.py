"""Replays of dead letters: into the same exact transaction as a live batch, once, beside everything else."""

from datetime import date, timedelta

import psycopg
import pytest

from backfill.verdict import Verdict
from backfill.verify import Verifier
from consumer.database import is_transient
from consumer.rollup.rebuild import Result
from consumer.rollup.registry import REGISTRY
from consumer.rollup.statements import STATEMENTS
from tests.fixtures.letters import ends, outcomes, replay_letters, waiting, wrapped
from tests.fixtures.rollup import NOON, TODAY, Day, Outcomes, Rollup, make_event, message_value

DAY = timedelta(days=1)
LAST_WEEK = NOON - 7 * DAY


@pytest.fixture
def paris(rollup: Rollup) -> Rollup:
    """Account 42 has been in Paris for ever."""
    rollup.always_had({42: "Europe/Paris"})
    return rollup


# -- outcomes


def test_a_letter_that_is_an_event_now_is_counted_once(paris: Rollup) -> None:
    paris.count(make_event(1), wrapped(make_event(2)), b"{", make_event(3))
    (second, broken) = waiting(paris)
    found = replay_letters(paris)
    assert outcomes(found) == ["counted", "bad"]
    assert (found[0].event_id, found[0].account_id, found[0].day) == (2, 42, TODAY)
    assert (found[1].cause, found[1].partition, found[1].offset) == ("syntax", 0, 2)
    assert waiting(paris) == [broken]
    assert ends(paris) == [("syntax", "counted", False), ("syntax", None, True)]
    assert paris.table() == paris.model(*map(make_event, (1, 2, 3)))
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=False, events=3)
    assert paris.outcomes() == Outcomes(messages=4, counted=3, duplicates=0, late=0, skipped=0, dead=1)

    before = paris.contents()
    again = replay_letters(paris, [second])
    assert outcomes(again) == ["already"]
    assert again[0].detail == "counted"
    assert paris.contents() == before


def test_stored_offsets_stay(paris: Rollup) -> None:
    paris.count(wrapped(make_event(1)), wrapped(make_event(2)))
    paris.count(wrapped(make_event(3)), partition=2)
    ahead = paris.read(make_event(4))
    replay_letters(paris)
    paris.write(ahead)  # its compare-and-swap holds
    assert paris.table() == paris.model(*map(make_event, (1, 2, 3, 4)))
    assert paris.conn.execute(
        "SELECT partition, next_offset, counted, dead FROM consumer_offsets WHERE messages > 0 ORDER BY 1"
    ).fetchall() == [(0, 3, 3, 0), (2, 1, 1, 0)]
    bits = paris.conn.execute(
        "SELECT partition, bits FROM counted_events JOIN consumer_offsets USING (shard) ORDER BY 1"
    )
    assert bits.fetchall() == [(0, b"\x16"), (2, b"\x08")]  # each partition's ids in its own shard


def test_what_was_sent_again_correctly_is_a_duplicate(paris: Rollup) -> None:
    paris.count(wrapped(make_event(1)), wrapped(make_event(2)), wrapped(make_event(1)))
    paris.count(make_event(1), partition=1)
    assert outcomes(replay_letters(paris)) == ["duplicate", "counted", "duplicate"]
    paris.count(make_event(2), partition=3)
    assert paris.table() == paris.model(make_event(1), make_event(2))
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=False, events=2)
    assert paris.outcomes() == Outcomes(messages=5, counted=2, duplicates=3, late=0, skipped=0, dead=0)


def test_two_letters_of_one_event_count_once(paris: Rollup) -> None:
    paris.count(wrapped(make_event(1)), wrapped(make_event(1)))
    assert outcomes(replay_letters(paris)) == ["counted", "duplicate"]
    assert paris.table() == paris.model(make_event(1))


def test_what_a_rebuild_counted_is_a_duplicate(paris: Rollup) -> None:
    paris.raw(make_event(1), make_event(2))
    paris.count(make_event(1), wrapped(make_event(2)))
    assert paris.rebuild(TODAY).events == 2
    assert outcomes(replay_letters(paris)) == ["duplicate"]
    assert paris.rebuild(TODAY).changed == 0
    assert paris.table() == paris.model(make_event(1), make_event(2))
    assert paris.day(TODAY) == Day("Europe/Paris", closed=False, stale=False, events=2)


def test_a_rebuild_after_a_replay_knows_the_ids(paris: Rollup) -> None:
    paris.raw(make_event(1), make_event(2))
    paris.count(make_event(1), wrapped(make_event(2)))
    replay_letters(paris)
    rebuilt = paris.rebuild(TODAY)
    assert (rebuilt.result, rebuilt.missing, rebuilt.changed) == (Result.REBUILT, 0, 0)


def test_events_of_closed_days_wait_for_a_rebuild(paris: Rollup) -> None:
    old = make_event(1, created_at=LAST_WEEK)
    paris.count(wrapped(old))
    paris.raw(old)
    (late,) = replay_letters(paris)
    assert (late.outcome, late.day) == ("late", LAST_WEEK.date())
    assert paris.late() == {(LAST_WEEK.date(), 1)}
    assert paris.outcomes() == Outcomes(messages=1, counted=0, duplicates=0, late=1, skipped=0, dead=0)
    assert [r.result for r in paris.rebuild_stale()] == [Result.REBUILT]
    assert paris.table() == paris.model(old)
    assert not paris.late()


def test_what_nothing_counts_is_skipped_and_done(paris: Rollup) -> None:
    paris.count(
        wrapped(make_event(1, "conversation_opened")), wrapped(make_event(2, account_id=7)), wrapped(make_event(3))
    )
    found = replay_letters(paris)
    assert [(str(letter.outcome), letter.detail) for letter in found] == [
        ("skipped", "no metric reads its event"),
        ("skipped", "account 7 has no reporting_timezone"),
        ("counted", ""),
    ]
    assert waiting(paris) == []
    assert paris.outcomes() == Outcomes(messages=3, counted=1, duplicates=0, late=0, skipped=2, dead=0)


def test_what_is_still_bad_waits_with_its_new_reason(paris: Rollup) -> None:
    paris.count(wrapped(make_event(1, account_id=2**31)))
    assert ends(paris) == [("syntax", None, False)]
    (letter,) = replay_letters(paris)
    assert letter.detail.startswith("account_id: expected a 32-bit integer")
    assert ends(paris) == [("range", None, True)]
    assert paris.outcomes().dead == 1


def test_a_distinct_member_counts_once(paris: Rollup) -> None:
    handoffs = [make_event(i, "conversation_bot_handoff", conversation_id=c) for i, c in enumerate((1, 1, 2))]
    paris.count(handoffs[0])
    paris.count(*map(wrapped, handoffs))
    assert outcomes(replay_letters(paris)) == ["duplicate", "counted", "counted"]
    assert paris.table() == paris.model(*handoffs)


# -- the clock


def test_an_event_from_the_day_after_tomorrow_counts_when_it_is_time(paris: Rollup) -> None:
    soon = make_event(1, created_at=NOON + DAY + timedelta(hours=1))
    paris.count(message_value(soon))
    assert ends(paris) == [("timestamp", None, False)]
    assert outcomes(replay_letters(paris)) == ["bad"]
    paris.now += 2 * DAY
    assert outcomes(replay_letters(paris)) == ["counted"]
    assert paris.table() == paris.model(soon)


def test_dead_by_the_clock_and_rebuilt_since_it_is_no_drift(paris: Rollup) -> None:
    """Its raw row was good all the time: closing the day has counted it, whatever becomes of the letter."""
    soon = make_event(1, created_at=NOON + DAY + timedelta(hours=1))
    other = make_event(2, created_at=soon.created_at)
    paris.raw(soon, other)
    paris.count(message_value(soon))
    paris.now += 2 * DAY
    paris.count(other)
    paris.now += 10 * DAY
    (closed,) = paris.close_days()
    assert (closed.result, closed.drift, closed.events) == (Result.REBUILT, 0, 2)
    assert paris.conn.execute("SELECT count(*) FROM counted_events").fetchone() == (0,)  # its bit is gone
    exact = paris.model(soon, other)
    assert paris.table() == exact

    assert outcomes(replay_letters(paris)) == ["late"]
    assert paris.table() == exact
    assert paris.day(soon.created_at.date()) == Day("Europe/Paris", closed=True, stale=True, events=2)
    assert verdict(paris, soon.created_at.date()) is Verdict.BEHIND
    (rebuilt,) = paris.rebuild_stale()
    assert (rebuilt.result, rebuilt.changed) == (Result.REBUILT, 0)
    assert paris.day(soon.created_at.date()) == Day("Europe/Paris", closed=True, stale=False, events=2)
    assert verdict(paris, soon.created_at.date()) is Verdict.EXACT
    assert not paris.late()


def verdict(rollup: Rollup, day: date) -> Verdict:
    """What verifying account 42's day says."""
    return Verifier(rollup.conn, REGISTRY, rollup.open_days).look(42, day, rollup.now_us).verdict


def test_replayed_before_its_day_closes_it_is_no_drift_either(paris: Rollup) -> None:
    soon = make_event(1, created_at=NOON + DAY + timedelta(hours=1))
    paris.raw(soon)
    paris.count(message_value(soon))
    paris.now += 3 * DAY
    assert outcomes(replay_letters(paris)) == ["counted"]
    paris.now += 4 * DAY
    (closed,) = paris.close_days()
    assert (closed.result, closed.drift, closed.changed) == (Result.REBUILT, 0, 0)


# -- settings


def test_a_change_of_time_zone_is_noticed(paris: Rollup) -> None:
    paris.count(wrapped(make_event(1)))
    paris.set_timezone(42, "Asia/Tokyo")
    assert outcomes(replay_letters(paris)) == ["late"]  # its day settles
    paris.raw(make_event(1))
    paris.settle()
    paris.rebuild_stale()
    assert paris.table() == paris.model(make_event(1))


# -- a partition that is forgotten


def test_without_its_partitions_row_it_is_claimed_as_by_a_rebuild(paris: Rollup) -> None:
    paris.count(wrapped(make_event(1)), wrapped(make_event(2)))
    paris.conn.execute("DELETE FROM consumer_offsets")
    paris.conn.execute("INSERT INTO counted_events VALUES (0, 0, '\\x08', %s)", (TODAY,))  # id 3, by a rebuild
    assert outcomes(replay_letters(paris)) == ["counted", "counted"]
    assert paris.conn.execute("SELECT shard, bits FROM counted_events").fetchall() == [(0, b"\x0e")]
    paris.adopt()
    paris.count(make_event(1), make_event(2))
    assert paris.table() == paris.model(make_event(1), make_event(2))
    assert paris.outcomes().duplicates == 2


def test_without_the_rows_of_several_partitions_all_are_claimed_as_by_a_rebuild(paris: Rollup) -> None:
    paris.count(wrapped(make_event(1)), partition=0)
    paris.count(wrapped(make_event(2)), partition=1)
    paris.conn.execute("DELETE FROM consumer_offsets")
    assert outcomes(replay_letters(paris)) == ["counted", "counted"]
    assert paris.conn.execute("SELECT shard, bits FROM counted_events").fetchall() == [(0, b"\x06")]
    assert paris.table() == paris.model(make_event(1), make_event(2))


def test_without_its_partitions_row_it_waits_for_rebuilds_that_claim(paris: Rollup) -> None:
    paris.count(wrapped(make_event(1)))
    paris.conn.execute("DELETE FROM consumer_offsets")
    rebuild = paris.connect()
    with rebuild.transaction():
        rebuild.execute(STATEMENTS["lock_rebuild_bits"])
        with pytest.raises(psycopg.errors.LockNotAvailable):
            replay_letters(paris)
    assert outcomes(replay_letters(paris)) == ["counted"]


def test_a_balance_that_began_anew_stays(paris: Rollup) -> None:
    paris.count(wrapped(make_event(1)))
    paris.conn.execute("UPDATE consumer_offsets SET messages = 0, dead = 0")
    assert outcomes(replay_letters(paris)) == ["counted"]
    assert paris.outcomes() == Outcomes(0, 0, 0, 0, 0, 0)


# -- dry runs


def test_a_dry_run_tells_and_writes_nothing(paris: Rollup) -> None:
    paris.count(make_event(1), wrapped(make_event(1)), wrapped(make_event(2)), b"{")
    before = paris.contents()
    assert outcomes(replay_letters(paris, dry_run=True)) == ["duplicate", "counted", "bad"]
    assert paris.contents() == before
    assert outcomes(replay_letters(paris)) == ["duplicate", "counted", "bad"]


# -- others at the same time


def test_two_replays_share_the_letters(paris: Rollup) -> None:
    paris.count(*(wrapped(make_event(i)) for i in range(4)))
    ids = waiting(paris)
    first = paris.connect()
    with first.transaction():
        assert outcomes(replay_letters(paris, ids[:2], conn=first)) == ["counted", "counted"]
        other = paris.connect()
        other.execute("SET lock_timeout = '300ms'")
        # It passes over the letters that are in hand, and would have to wait for the partition's balance.
        with pytest.raises(psycopg.errors.LockNotAvailable) as caught:
            replay_letters(paris, ids, conn=other)
        assert is_transient(caught.value)
        (busy, _) = replay_letters(paris, ids[:2], conn=other)
        assert (busy.outcome, busy.detail) == ("busy", "another replay has it in hand")
    assert outcomes(replay_letters(paris, ids, conn=other)) == ["already", "already", "counted", "counted"]
    assert paris.table() == paris.model(*map(make_event, range(4)))
    assert paris.outcomes().counted == 4


def test_it_does_not_keep_consumers_waiting_while_it_waits_for_a_day(paris: Rollup) -> None:
    paris.count(wrapped(make_event(1)), make_event(2, created_at=NOON - DAY))
    rebuild = paris.connect()
    with rebuild.transaction():
        rebuild.execute("SELECT FROM rollup_days WHERE date = %s FOR UPDATE", (TODAY - DAY,))
        late = wrapped(make_event(3, created_at=NOON - DAY))
        paris.count(late)
        with pytest.raises(psycopg.errors.LockNotAvailable) as caught:
            replay_letters(paris)
        assert is_transient(caught.value)
        paris.count(make_event(4))  # the partition is free, and so are other days
    assert outcomes(replay_letters(paris)) == ["counted", "counted"]


def test_lock_timeouts_end_with_the_transaction(paris: Rollup) -> None:
    paris.count(wrapped(make_event(1)))
    replay_letters(paris)
    assert paris.conn.execute("SHOW lock_timeout").fetchone() == ("0",)
