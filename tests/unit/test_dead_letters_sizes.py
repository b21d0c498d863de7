"""What dead letters weigh in memory: a producer may fill values, keys, headers' values, or their names."""

import pytest

from consumer.handlers import handler_for
from consumer.poll_cycle import Gathering, Policy
from consumer.rollup.batch import EVENT_BYTES, HEADER_BYTES, Batch, DeadLetter, Events, Partition, Span, headers_size
from consumer.rollup.registry import REGISTRY

PART = Partition("a", 0)
LARGE = 1_000_000
FULL = b"x" * LARGE
NO_EVENTS: Events = handler_for("json", REGISTRY).decode([], 0).events


def letter(
    value: bytes | None = None, key: bytes | None = None, headers: tuple[tuple[str, bytes | None], ...] = ()
) -> DeadLetter:
    return DeadLetter(PART, 0, key, value, headers, None, "syntax", "no JSON")


def batch(start: int, *letters: DeadLetter) -> Batch:
    span = Span(PART, "id of a", start, start + len(letters), len(letters), {}, len(letters), None)
    return Batch((span,), NO_EVENTS, letters)


def test_a_letter_without_contents_has_no_size() -> None:
    assert letter().size == 0


def test_all_parts_of_a_letter_have_a_size() -> None:
    found = letter(b"12345", b"123", (("ab", b"1234"), ("\N{EURO SIGN}", None), ("", b"")))
    assert found.size == 5 + 3 + (2 + 4) + 3 + 3 * HEADER_BYTES
    assert headers_size(found.headers) == found.size - 8


@pytest.mark.parametrize(
    "large",
    [
        letter(value=FULL),
        letter(key=FULL),
        letter(headers=(("trace", FULL),)),
        letter(headers=(("x" * LARGE, None),)),
        letter(headers=(("", None),) * (LARGE // HEADER_BYTES + 1)),
    ],
    ids=["value", "key", "header", "name of a header", "many headers"],
)
def test_large_letters_are_heavy_wherever_they_are_large(large: DeadLetter) -> None:
    """So that reading stops when they have gathered, as it does for that many events."""
    heavy = LARGE // EVENT_BYTES
    assert heavy <= batch(0, large).weight <= heavy + 10
    assert batch(0, large, letter(), large).weight >= 2 * heavy
    gathering = Gathering(Policy(most_events=2 * heavy))
    full = []
    for start in range(3):
        gathering.add(batch(start, large), lagging=True, now=0.0)
        full.append(gathering.full)
    assert full == [False, True, True]
    assert gathering.take(0.0).messages == 1  # together they would be more than the policy's size
