"""Words of the command line about dead letters: what they choose, and what they are refused for."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone

import pytest

from consumer.dead_letters.commands import app
from consumer.dead_letters.letters import PORTION_BYTES, Picked, portions_to_read, portions_to_replay
from consumer.dead_letters.selection import Filters, State, parse_instant, select, select_to_change
from consumer.errors import WrongUse

NOW = datetime(2026, 3, 11, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-02-11", datetime(2026, 2, 11, tzinfo=UTC)),
        ("2026-02-11T09:30:00Z", datetime(2026, 2, 11, 9, 30, tzinfo=UTC)),
        ("2026-02-11T09:30:00+05:30", datetime(2026, 2, 11, 4, tzinfo=UTC)),
        ("2026-02-11 09:30", datetime(2026, 2, 11, 9, 30, tzinfo=UTC)),
        ("45s", NOW - timedelta(seconds=45)),
        ("90m", NOW - timedelta(minutes=90)),
        (" 1.5h ", NOW - timedelta(minutes=90)),
        ("3d", NOW - timedelta(days=3)),
        ("2w", NOW - timedelta(weeks=2)),
    ],
)
def test_points_in_time(text: str, instant: datetime) -> None:
    assert parse_instant(text, NOW.astimezone(timezone(timedelta(hours=3)))) == instant


@pytest.mark.parametrize(
    "text", ["", "yesterdayish", "2h3m", "-2h", "999999999w", "2026-13-01", "h", "0001-01-01T00:00+23:59"]
)
def test_what_is_no_point_in_time_is_refused(text: str) -> None:
    with pytest.raises(WrongUse, match="is no point in time: write 2026-02-11, 2026-02-11T09:30:00Z or 2h"):
        parse_instant(text, NOW)


def test_nothing_asks_for_all_that_wait() -> None:
    assert select(now=NOW) == Filters()
    asked = Filters().parameters()
    assert asked.pop("state") == "waiting"
    assert set(asked.values()) == {None}


def test_everything_that_can_be_asked_for() -> None:
    chosen = select(
        (7, 8, 7),
        cause=("type", "range"),
        group=("g",),
        topic=("t",),
        partition=(0, 3),
        since="2h",
        until="1h",
        state=State.ALL,
        now=NOW,
    )
    assert chosen.parameters() == {
        "ids": [7, 8],
        "causes": ["type", "range"],
        "groups": ["g"],
        "topics": ["t"],
        "partitions": [0, 3],
        "since": NOW - timedelta(hours=2),
        "until": NOW - timedelta(hours=1),
        "state": "all",
    }


def test_letters_to_change_are_named_in_one_way() -> None:
    ids, filters, anything = select((7,), now=NOW), select(cause=("type",), now=NOW), select(now=NOW)
    assert select_to_change((7,), ids, every=False) == ids
    assert select_to_change((), filters, every=False) == filters
    assert select_to_change((), anything, every=True) == anything
    both = select((7,), cause=("type",), now=NOW)
    for named, chosen, every in (((), anything, False), ((7,), both, False), ((7,), ids, True), ((), filters, True)):
        with pytest.raises(WrongUse, match="either ids, or filters"):
            select_to_change(named, chosen, every=every)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("list --since soon", "'soon' is no point in time"),
        ("list --since 1h --until 2h", "--since must be before --until"),
        ("list --limit 0", "--limit takes a number"),
        ("list --partition -1", "--partition takes"),
        ("show", "name the letters to show"),
        ("show 0", "0 cannot be the id of a dead letter"),
        ("show 9223372036854775808", "cannot be the id of a dead letter"),
        ("export 0", "cannot be the id of a dead letter"),
        ("replay", "name the letters: either ids, or filters"),
        ("replay 1 --all", "name the letters in one way: either ids, or filters"),
        ("replay 1 --cause type", "name the letters in one way: either ids, or filters"),
        ("discard --reason x --yes", "name the letters: either ids, or filters"),
        ("discard 1 --reason ' ' --yes", "--reason says why"),
        ("discard 1 --reason x", "without a terminal to ask on, discard needs --yes"),
        ("prune --days 0", "--days takes a number"),
    ],
)
def test_wrong_use_is_refused_before_the_database_is_asked(words: str, said: str) -> None:
    with pytest.raises(WrongUse, match=said):
        app(words, exit_on_error=False, print_error=False)


HALF = PORTION_BYTES // 2
PICKED = [
    Picked(1, "g", "a", 0, 1, value_bytes=HALF, size=HALF),
    Picked(2, "g", "b", 0, 1, value_bytes=10, size=HALF),
    Picked(3, "g", "a", 0, 2, value_bytes=HALF, size=3 * HALF),
    Picked(4, "g", "a", 0, 3, value_bytes=1, size=1),
    Picked(5, "h", "a", 0, 1, value_bytes=3 * HALF, size=3 * HALF),
    Picked(6, "h", "a", 0, 2, value_bytes=1, size=HALF),
    Picked(7, "h", "b", 0, 2, value_bytes=1, size=1),
]


def numbers(portions: Iterable[list[Picked]]) -> list[list[int]]:
    return [[letter.id for letter in portion] for portion in portions]


def test_portions_to_replay_are_of_one_topic_and_their_values_fit_the_memory() -> None:
    assert numbers(portions_to_replay(PICKED)) == [[1, 3], [4], [2], [5], [6], [7]]


def test_portions_to_read_fit_the_memory_with_keys_and_headers() -> None:
    assert numbers(portions_to_read(PICKED)) == [[1, 2], [3], [4], [5], [6, 7]]
    assert numbers(portions_to_read([])) == []


def test_a_cause_that_there_is_not_is_a_slip() -> None:
    with pytest.raises(WrongUse, match=r"'timestam' is none; did you mean timestamp\?"):
        select(cause=("type", "timestam"), now=NOW)
    with pytest.raises(WrongUse, match="'xyz' is none: syntax, encoding, type"):
        select(cause=("xyz",), now=NOW)
