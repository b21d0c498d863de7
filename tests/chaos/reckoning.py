"""What must hold once load and faults have ended: the promise, held to account by the plain model and by what a plain
client reads from the topic. The numbers are those of `tests/chaos/world.py`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.chaos.topic import Position
from tests.fixtures.events import assert_exact, rollup_of_model, rollup_of_table, total

if TYPE_CHECKING:
    from tests.chaos.world import World

STALE_ROUNDS = 3
"""How often `--stale` may be run: a change of time zone that settles meanwhile needs a second round."""


def hold_to_account(world: World) -> None:
    """Wait until a world has come to rest; raises AssertionError for whatever is not as it must be."""
    _offsets_are_at_the_ends(world)  # 1
    _rebuild_stale_days(world)  # 2
    _rollup_is_the_models(world)  # 3
    _messages_are_accounted_for(world)  # 4
    _verify_agrees(world)  # 5


def _offsets_are_at_the_ends(world: World) -> None:
    """Behind the last message of every partition, and not beyond the log's end."""
    world.until_everything_is_read()
    stored = world.offsets()
    ends = {partition: end for partition, (_, end) in world.topic.ranges().items()}
    assert {p: o for p, o in stored.items() if o > ends[p]} == {}, f"offsets beyond the log's ends {ends}"


def _rebuild_stale_days(world: World) -> None:
    """Also those that had to settle first."""
    world.until_settled()
    for _ in range(STALE_ROUNDS):
        code, out, err = world.run("backfill", "--stale")
        if code == 0 and not world.count("rollup_days WHERE stale_since IS NOT NULL"):
            return
    raise AssertionError(f"days stay stale: backfill ended with {code}\n{out}\n{err}")


def _rollup_is_the_models(world: World) -> None:
    """The model's over every event that was drawn; and by the proof in SQL."""
    drawn = sum(map(len, world.load.portions))
    assert world.count("reporting_events") == drawn
    expected, found = rollup_of_model(world.conn), rollup_of_table(world.conn)
    wrong = {key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)}
    assert not wrong, "\n".join(f"{k}: {found.get(k)}, must be {expected.get(k)}" for k in sorted(wrong)[:10])
    assert_exact(world.conn)


def _messages_are_accounted_for(world: World) -> None:
    """Those that stand in the topic, and those that stood there once."""
    messages = {p: value for p, value in (world.gone | world.topic.messages()).items() if p not in world.lost}
    became = total(world.conn)
    assert became.messages == len(messages) + world.read_again
    if world.ids_are_whole:  # ids, offsets and balance are of one transaction
        marked = world.conn.execute("SELECT sum(bit_count(bits))::int FROM counted_events WHERE shard <> 0")
        assert marked.fetchone() == (became.counted,)
    bad = {position for position, value in messages.items() if value in world.load.bad}
    letters = Counter(
        Position(*row)
        for row in world.conn.execute(
            'SELECT topic_id, partition, "offset" FROM dead_letters WHERE topic = %s', (world.topic.name,)
        )
    )
    assert set(letters) == bad
    assert set(letters.values()) <= {1}


def _verify_agrees(world: World) -> None:
    """The command that operators trust."""
    first, last = world.dates()
    code, out, err = world.run("backfill", "verify", "--all-accounts", "--date", f"{first}..{last}", "--quiet")
    assert (code, err) == (0, ""), out
