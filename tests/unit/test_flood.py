"""When too many messages of a partition are bad: the first one that is too many, whatever came how."""

import itertools
from collections.abc import Sequence

import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from consumer.assembly import assemble
from consumer.flood import FloodWatch, Limits, Recent, before, flood
from consumer.handlers import handler_for
from consumer.rollup.batch import Batch, Partition
from consumer.rollup.registry import REGISTRY
from tests.fixtures.rollup import NOON, make_event, message_value

NOW_US = int(NOON.timestamp()) * 1_000_000
HANDLER = handler_for("json", REGISTRY)
GOOD, SYNTAX, TYPE = message_value(make_event(1)), b"{", b"[]"
NONE = Limits(1.0, 1000, 0)


class Reader:
    """Reads messages from partitions and looks at every batch."""

    def __init__(self, limits: Limits) -> None:
        self.watch = FloodWatch(limits)
        self.next: dict[Partition, int] = {}
        self.messages: list[Message] = []

    def read(self, *values: bytes, partition: int = 0, step: int = 1) -> list[tuple[str, int]]:
        """The next messages of a partition as one batch; (limit's name, offset) of what is too many."""
        return self.read_all({partition: values}, step)

    def read_all(self, values: dict[int, Sequence[bytes]], step: int = 1) -> list[tuple[str, int]]:
        starts, self.messages = dict(self.next), []
        for number, listed in values.items():
            source = Partition("t", number)
            starts.setdefault(source, 0)
            offset = starts[source]
            for value in listed:
                self.messages.append(Message(topic="t", partition=number, offset=offset, value=value))
                offset += step
            self.next[source] = offset
        excesses = self.watch.look(_batch(self.messages, starts), self.messages)
        self.found = excesses
        return [(excess.limit.partition("=")[0], excess.letter.offset) for excess in excesses]


def _batch(messages: Sequence[Message], starts: dict[Partition, int]) -> Batch:
    return assemble(messages, starts, {"t": "id"}, {"t": HANDLER}, NOW_US)


def test_single_bad_messages_pass() -> None:
    reader = Reader(Limits(0.1, 1000, 100))
    for _ in range(200):
        assert reader.read(*[GOOD] * 30, SYNTAX) == []


def test_so_many_in_a_row_pass_and_one_more_stops() -> None:
    reader = Reader(Limits(1.0, 1000, 3))
    assert reader.read(GOOD, SYNTAX, SYNTAX, SYNTAX, GOOD, TYPE, SYNTAX) == []
    assert reader.read(SYNTAX) == []
    assert reader.read(SYNTAX, GOOD) == [("DEAD_LETTER_MAX_CONSECUTIVE", 8)]
    assert "t[0]: 4 messages in a row up to offset 8 cannot be events (3 syntax, 1 type)" in str(reader.found[0])


def test_so_many_in_a_window_pass_and_one_more_stops() -> None:
    reader = Reader(Limits(0.3, 10, 0))
    assert reader.read(SYNTAX, SYNTAX, SYNTAX, *[GOOD] * 7) == []
    assert reader.read(*[SYNTAX, SYNTAX, SYNTAX], *[GOOD] * 7) == []
    assert reader.read(SYNTAX, TYPE) == []  # the window ends with the message: the first of the three has left it
    assert reader.read(GOOD, TYPE, TYPE) == [("DEAD_LETTER_MAX_RATIO", 24)]
    assert "4 of the last 10 messages up to offset 24" in str(reader.found[0])


def test_a_ratio_of_nothing_stops_at_the_first() -> None:
    assert Reader(Limits(0.0, 10, 0)).read(GOOD, SYNTAX) == [("DEAD_LETTER_MAX_RATIO", 1)]


def test_without_limits_anything_passes() -> None:
    assert Reader(NONE).read(*[SYNTAX] * 3000) == []
    assert not NONE.any
    assert Limits(1.0, 10, 1).any
    assert Limits(0.99, 10, 0).any


def test_shares_that_doubles_cannot_hold() -> None:
    assert [Limits(ratio / 100, 100, 0).most_in_window for ratio in range(101)] == list(range(101))


def test_partitions_do_not_mix() -> None:
    reader = Reader(Limits(1.0, 10, 2))
    assert reader.read_all({0: [SYNTAX, SYNTAX], 1: [SYNTAX, SYNTAX]}) == []
    assert reader.read_all({0: [GOOD, SYNTAX], 1: [SYNTAX, GOOD], 2: [SYNTAX]}) == [("DEAD_LETTER_MAX_CONSECUTIVE", 2)]
    assert [str(excess.letter.source) for excess in reader.found] == ["t[1]"]


def test_holes_among_offsets_are_no_messages() -> None:
    reader = Reader(Limits(0.5, 4, 2))
    assert reader.read(SYNTAX, SYNTAX, step=5) == []
    assert reader.read(SYNTAX, step=5) == [("DEAD_LETTER_MAX_CONSECUTIVE", 10)]


def test_markers_at_a_logs_end_are_no_messages() -> None:
    reader = Reader(Limits(0.5, 4, 2))
    source = Partition("t", 0)
    assert reader.read(SYNTAX, SYNTAX) == []
    marker = assemble([], {source: 2}, {"t": "id"}, {"t": HANDLER}, NOW_US, {source: 5})
    assert reader.watch.look(marker, []) == []
    bad = [Message(topic="t", partition=0, offset=5, value=SYNTAX)]
    batch = assemble(bad, {source: 5}, {"t": "id"}, {"t": HANDLER}, NOW_US, {source: 7})
    (excess,) = reader.watch.look(batch, bad)
    assert (excess.letter.offset, excess.measure) == (5, "3 messages in a row")


def test_what_is_before_it_is_kept_and_so_are_other_partitions() -> None:
    reader = Reader(Limits(1.0, 10, 1))
    reader.read_all({0: [GOOD, SYNTAX, SYNTAX, GOOD], 1: [GOOD, SYNTAX, GOOD], 2: [SYNTAX, SYNTAX]})
    kept = before(reader.messages, reader.found)
    assert [(m.partition(), m.offset()) for m in kept] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0)]


def test_the_error_says_what_where_and_what_to_do() -> None:
    reader = Reader(Limits(1.0, 10, 1))
    reader.read_all({0: [SYNTAX, TYPE], 3: [SYNTAX, SYNTAX]})
    error = flood(reader.found)
    assert error.exit_code == 6
    said = str(error)
    assert said.startswith("t[0]: 2 messages in a row up to offset 1 cannot be events (1 syntax, 1 type), more than")
    for part in ("t[3]: 2 messages", "DEAD_LETTER_MAX_CONSECUTIVE=1", "Fix the producer"):
        assert part in said
    assert "\n" not in said
    assert "found" not in said  # reasons quote messages, and this line is logged


@pytest.mark.parametrize("limits", [Limits(0.3, 10, 0), Limits(1.0, 2, 5), Limits(0.4, 20, 4), Limits(0.0, 5, 0)])
@given(bad=st.lists(st.booleans(), max_size=60), cuts=st.sets(st.integers(1, 59)), restarts=st.sets(st.integers(0, 9)))
def test_it_stops_at_the_same_message_however_it_is_read(
    limits: Limits, bad: list[bool], cuts: set[int], restarts: set[int]
) -> None:
    """One after the other, or in any batches, with restarts between some: the plain rule says where."""
    source = Partition("t", 0)
    reader = Reader(limits)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(bad)), len(bad)]
    found: int | None = None
    for turn, (start, end) in enumerate(itertools.pairwise(bounds)):
        if start == end:
            continue
        if turn in restarts:
            reader.watch = FloodWatch(limits)
            first = max(0, start - limits.look_back)
            recent = [Recent(start - at, "syntax") for at in range(first, start) if bad[at]]
            reader.watch.start({source: recent})
        stops = reader.read(*[SYNTAX if one else GOOD for one in bad[start:end]])
        if stops:
            found = stops[0][1]
            break
    assert found == _plain(limits, bad)


def _plain(limits: Limits, bad: Sequence[bool]) -> int | None:
    for at, one in enumerate(bad):
        if not one:
            continue
        window = bad[max(0, at + 1 - limits.window) : at + 1]
        run = len(list(itertools.takewhile(bool, reversed(bad[: at + 1]))))
        if sum(window) > limits.max_ratio * limits.window or (limits.max_consecutive and run > limits.max_consecutive):
            return at
    return None
