"""Letters are looked at a portion at a time, however large any part of them is."""

import base64
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest

from consumer.dead_letters import session as sessions
from consumer.dead_letters.commands import app
from consumer.dead_letters.letters import PORTION_BYTES, contents
from consumer.dead_letters.selection import Filters
from consumer.dead_letters.session import Session
from consumer.handlers import handler_for
from consumer.rollup.batch import Batch, DeadLetter, Events, Partition, Span
from consumer.rollup.graveyard import bury
from consumer.rollup.registry import REGISTRY
from consumer.settings import DatabaseSettings

Connection = psycopg.Connection[Any]

PART = Partition("a", 0)
NO_EVENTS: Events = handler_for("json", REGISTRY).decode([], 0).events
THIRD = PORTION_BYTES // 3 + 1000
"""Two of this size go together, three do not."""


@pytest.fixture
def session(conn: Connection, database_url: str) -> Iterator[Session]:
    with Session(DatabaseSettings(database_url=database_url)) as opened:
        yield opened


@pytest.fixture
def portions(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The ids of letters whose contents were fetched together."""
    fetched: list[list[int]] = []

    def watched(conn: Connection, ids: list[int]) -> object:
        fetched.append(ids)
        return contents(conn, ids)

    monkeypatch.setattr(sessions, "contents", watched)
    return fetched


def set_aside(
    conn: Connection,
    *letters: tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]],
) -> list[DeadLetter]:
    """Letters of these values, keys and headers, as a batch buries them; their ids are 1, 2, ..."""
    dead = [
        DeadLetter(PART, at, key, value, headers, None, "syntax", "no JSON")
        for at, (value, key, headers) in enumerate(letters)
    ]
    span = Span(PART, "id of a", 0, len(dead), len(dead), {}, len(dead), None)
    bury(conn, Batch((span,), NO_EVENTS, tuple(dead)), "g")
    return dead


def test_the_size_of_a_letter_is_told_beforehand(conn: Connection, session: Session) -> None:
    """All of it, though PostgreSQL stores it compressed."""
    x, noise = b"x" * 30_000, random.Random(1).randbytes(30_000)
    dead = set_aside(
        conn,
        (b"{", b"42", []),
        (x, None, []),
        (None, x, []),
        (b"{", b"42", [("trace", b"0af7651916cd43dd8448eb211c80319c"), ("empty", None)]),
        (b"{", b"42", [(noise[:15].hex(), noise[at : at + 1]) for at in range(15)]),
        (b"{", b"42", [("trace", noise)]),
        (b"{", b"42", [(base64.b85encode(noise).decode(), None)]),
        (b"{", b"42", [("trace", x)]),
        (b"{", b"42", [("x" * 30_000, None)]),
        (b"{", b"42", [("a", b"")] * 3_000),
    )
    [picked] = session.pages(Filters())
    *plain, compressed, compressed_name, compressed_many = [told.size for told in picked]
    assert min(compressed, compressed_name, compressed_many) > PORTION_BYTES
    assert [size >= letter.size for size, letter in zip(plain, dead, strict=False)] == [True] * len(plain)
    assert max(plain[:3]) <= 30_000 + 100
    assert max(plain) <= 15 * 30_000


def test_contents_are_fetched_in_portions(conn: Connection, session: Session, portions: list[list[int]]) -> None:
    x, noise = b"x" * THIRD, random.Random(1).randbytes(PORTION_BYTES // 25)
    dead = set_aside(
        conn,
        (b"{", x, []),
        (b"{", x, []),
        (b"{", x, []),
        (b"{", None, [("large", noise)]),
        (b"{", None, [("large", noise)]),
        (b"{", None, [("x" * 900_000, None)]),
        (b"{", None, []),
        (b"{", None, [("many", b"")] * 300_000),
        (b"x" * PORTION_BYTES, None, []),
        (b"{", None, []),
        (b"{", None, []),
    )
    found = list(session.contents(Filters()))
    assert [(c.key, c.value, list(c.headers)) for c in found] == [(d.key, d.value, d.headers) for d in dead]
    assert portions == [[1, 2], [3, 4], [5], [6], [7], [8], [9], [10, 11]]


def test_letters_are_shown_a_portion_at_a_time(
    conn: Connection,
    database_url: str,
    portions: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_aside(conn, *[(b"{", None, [("x" * 900_000, None)])] * 3)
    for name, value in {
        "DATABASE_URL": database_url,
        "KAFKA_BOOTSTRAP_SERVERS": "localhost:9",
        "KAFKA_TOPICS": "a",
    }.items():
        monkeypatch.setenv(name, value)
    for words in ("show 3 2 1 9 2", "show 3 2 1 9 2 --json"):
        assert app(words, exit_on_error=False, result_action="return_value") == 1
        shown = capsys.readouterr()
        assert shown.err == "there is no dead letter 9\n"
        if "--json" in words:
            assert [json.loads(line)["id"] for line in shown.out.splitlines()] == [1, 2, 3]
        else:
            assert [text.split()[:2] for text in shown.out.split("\n\n")] == [["id", "1"], ["id", "2"], ["id", "3"]]
    assert portions == [[1], [2], [3]] * 2
