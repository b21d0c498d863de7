"""What the commands print for people. Contents are shown harmless: nothing in them moves a cursor."""

import base64
import sys
import time
from collections import Counter
from collections.abc import Sequence

from consumer.dead_letters.letters import Cause, Contents, Letter
from consumer.dead_letters.replay import Outcome, Replayed
from consumer.dead_letters.selection import State
from consumer.handlers import Handler
from consumer.tables import cell_text, harmless, print_table

SHORT = 1_000
"""Characters of a value that are shown unless all of it is asked for."""
REASON = 90
"""Characters of a reason in a list."""

_WORDS = {
    Outcome.COUNTED: "counted",
    Outcome.DUPLICATE: "duplicates of events counted otherwise",
    Outcome.LATE: "late, for a rebuild of their days",
    Outcome.SKIPPED: "skipped",
    Outcome.BAD: "still bad",
    Outcome.NO_HANDLER: "of topics that KAFKA_TOPICS does not name",
    Outcome.BUSY: "in hand of others",
    Outcome.ALREADY: "replayed before",
    Outcome.DISCARDED: "discarded before",
    Outcome.UNKNOWN: "unknown",
}


def print_letters(letters: Sequence[Letter], causes: Sequence[Cause], state: State) -> None:
    """A list, newest first, and a summary of all that fit."""
    every = sum(cause.letters for cause in causes)
    if not every:
        sys.stdout.write(f"no dead letters {'' if state is State.ALL else f'({state}) '}fit\n")
        return
    columns = ["id", "recorded", "message", "cause", "reason", *(["state"] if state is not State.WAITING else [])]
    rows = [
        [
            letter.id,
            letter.recorded_at,
            place(letter.topic, letter.partition, letter.offset),
            letter.cause,
            _cut(letter.reason, REASON),
            *([ending(letter)] if state is not State.WAITING else []),
        ]
        for letter in letters
    ]
    print_table(columns, rows)
    sys.stdout.write("\n")
    print_table(("cause", "letters", "first", "last"), causes)
    if len(letters) < every:
        sys.stdout.write(f"\n{len(letters)} of {every} are listed; --limit lists more\n")


def print_letter(found: Contents, today: str, *, full: bool) -> None:
    """Everything about one letter; `today` says what the present program would make of it."""
    letter = found.letter
    facts: list[tuple[str, object]] = [
        ("id", str(letter.id)),
        ("state", ending(letter)),
        ("message", place(letter.topic, letter.partition, letter.offset)),
        ("topic id", letter.topic_id),
        ("group", letter.group_id),
        ("written", letter.message_timestamp),
        ("recorded", letter.recorded_at),
        ("cause", letter.cause),
        ("reason", letter.reason),
        ("tried", letter.tried_at),
        ("today", today),
        ("key", shown(found.key, full=full)),
        *((f"header {name}", shown(value, full=full)) for name, value in found.headers),
        ("value", shown(found.value, full=full)),
    ]
    facts = [(name, fact) for name, fact in facts if fact != ""]
    width = max(len(harmless(name)) for name, _ in facts)
    for name, fact in facts:
        sys.stdout.write(f"{harmless(name).ljust(width)}  {cell_text(fact)}\n")


def shown(value: bytes | None, *, full: bool) -> str:
    """Bytes as text if they are UTF-8, otherwise in hexadecimal (short ones) or base64; cut unless `full`."""
    if value is None:
        return "none"
    if not value:
        return "empty"
    try:
        text, kind = value.decode(), ""
    except UnicodeDecodeError:
        kind = "hex " if len(value) <= SHORT // 2 else "base64 "
        text = value.hex() if kind == "hex " else base64.b64encode(value).decode()
    if not full and len(text) > SHORT:
        return f"{kind}{text[:SHORT]}... ({len(value)} bytes; --full shows all)"
    return f"{kind}{text}"


def ending(letter: Letter) -> str:
    """The state of a letter with what is known of its end."""
    if letter.replayed_at is not None:
        return f"replayed {cell_text(letter.replayed_at)}: {letter.outcome}"
    if letter.discarded_at is not None:
        return f"discarded {cell_text(letter.discarded_at)}: {letter.discard_reason}"
    return "waiting"


def place(topic: str | None, partition: int | None, offset: int | None) -> str:
    """Where a message stood."""
    return "" if topic is None else f"{topic}[{partition}]@{offset}"


def replay_line(letter: Replayed) -> str:
    """A replayed letter in one line."""
    at = place(letter.topic, letter.partition, letter.offset)
    event = "" if letter.event_id is None else f" event {letter.event_id} of account {letter.account_id}"
    day = "" if letter.day is None else f" on {letter.day}"
    detail = f": {letter.detail}" if letter.detail else ""
    return harmless(f"{letter.id}  {at}  {letter.outcome}{event}{day}{detail}")


def replay_summary(outcomes: Counter[Outcome], *, dry_run: bool) -> str:
    """The end of a replay in one line."""
    parts = ", ".join(f"{number} {_WORDS[o]}" for o in Outcome if (number := outcomes[o]))
    every = sum(outcomes.values())
    return f"{every} letters{' would be' if dry_run else ''}: {parts}" if every else "no dead letters fit"


def today(found: Contents, handler: Handler | None) -> str:
    """What the present program would make of a letter that waits; `handler` is that of its topic, None if nobody names
    it."""
    if found.letter.replayed_at is not None or found.letter.discarded_at is not None:
        return ""
    if handler is None:
        return f"KAFKA_TOPICS does not name its topic: KAFKA_TOPICS={found.letter.topic}:json"
    decoded = handler.decode([found.value], time.time_ns() // 1000)
    if decoded.rejects:
        return f"still no event: {decoded.rejects[0].error_class}, {decoded.rejects[0].reason}"
    if len(decoded.events):
        return f"event {decoded.events.id[0]} of account {decoded.events.account_id[0]}: a replay counts it"
    return "nothing counts it: a replay skips it"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
