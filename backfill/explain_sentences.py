"""What the findings of `explain` mean, in sentences, and what to do. Pure."""

from collections.abc import Iterator

from backfill.explain_day import DayExplained
from backfill.explain_event import EventDay, EventExplained, Fate
from backfill.letters import Unreadable
from consumer.tables import cell_text

STATES = {
    "stale": "it waits for a rebuild",
    "settling": "its account's time zone changed, and it waits for a rebuild",
    "not covered": "its account has no time zone any more",
}


def day_sentences(found: DayExplained) -> Iterator[str]:
    """What a day's findings mean, and what to do."""
    account, day = found.account, found.day
    where = f"--account {account.account_id} --date {found.date}"
    if account.timezone is None:
        yield (
            f"Account {account.account_id} has no reporting_timezone: its events are skipped. Set one in "
            "account_settings to begin; rows that are there stay as they were."
        )
    if day is None:
        yield (
            "No event of this day was ever read, and it was never rebuilt. "
            f"`python -m backfill {where}` counts what raw has."
        )
    elif day.state in STATES:
        since = f" since {cell_text(day.stale_since)}" if day.stale_since else ""
        yield f"The day is {day.state}{since}: {STATES[day.state]}."
    if day and account.timezone and day.timezone != account.timezone:
        yield f"The day was cut in {day.timezone}; the account is in {account.timezone} now."
    if day and day.registry not in (None, found.registry):
        yield f"The day was counted by registry {day.registry}, {found.registry} is in use: rebuild it for new metrics."
    if found.late:
        yield f"Late events that wait for `python -m backfill {where}`, which needs their raw rows: {found.late}."
    if found.invalid_count:
        yield f"Raw events left out of every count, because no message could have them either: {found.invalid_count}."
    if found.same:
        yield "The rollup equals the raw events."
    elif found.same is False:
        differing = sum(not row.same for row in found.rows)
        yield f"Rows that are not what the raw events give: {differing}. {_why_differs(found)}"
    yield from _on_unreadable(found.unreadable_letters, "this account")


def event_sentences(found: EventExplained) -> Iterator[str]:
    """What became of an event, and what to do."""
    raw, day = found.raw, found.day
    where = f"--account {raw.account_id} --date {day.date}" if raw and day else ""
    if found.fate is Fate.COUNTED:
        yield from _counted(found)
    elif found.fate is Fate.WAITING:
        late = found.late[0]
        rebuild = f"`python -m backfill --account {late.account_id} --date {late.date}`"
        if raw:
            yield f"Its day is not counted live; {rebuild}, or the worker of stale days, counts it."
        else:
            yield (
                f"Its day is not counted live, and its raw row is not there yet: {rebuild} counts it once the producer "
                "has committed it. If that never comes, --force gives it up."
            )
    elif found.fate is Fate.DEAD:
        yield "Its message cannot be an event. Let the producer send it again, mended."
        if raw and not raw.invalid and day:
            yield f"Its raw row is good: `python -m backfill {where}` counts it."
    elif found.fate is Fate.UNKNOWN_NAME and raw:
        yield f"No metric is fed by {raw.name!r}: the registry does not name it."
    elif found.fate is Fate.OUT_OF_RANGE and raw:
        yield (
            f"Its created_at is {raw.out_of_range}: no message may lie before 2000 or more than a day ahead, so it is "
            "on no day. Correct the raw row, then rebuild the day that it lies on."
        )
    elif found.fate is Fate.INVALID and raw:
        yield f"Its {raw.invalid}: no message could have that, so it is left out of every count."
    elif found.fate is Fate.NO_TIMEZONE and raw:
        yield f"Account {raw.account_id} has no reporting_timezone; set one in account_settings, then rebuild the day."
    elif found.fate is Fate.NOT_YET:
        yield (
            "Its message was not read yet, or never sent: `python -m backfill status` shows how far consumers are, and "
            f"`python -m backfill {where}` counts it from its raw row."
        )
    else:
        yield (
            "Neither raw rows, counted ids, late events nor dead letters know it. A message without a raw row that was "
            "skipped (its account without a time zone, or an unknown name) leaves no trace, nor does an event of a "
            "closed day whose raw row was purged."
        )
    yield from _also(found)
    yield from _on_unreadable(found.unreadable_letters, "the account")


def _counted(found: EventExplained) -> Iterator[str]:
    if found.day:
        yield f"It is in the numbers of {found.day.date} of account {found.day.account_id}{_but(found.day)}."
    elif found.raw and found.raw.out_of_range:
        yield f"Its raw row says {found.raw.out_of_range} by now, which no message may have: its day cannot be told."
    elif found.raw:
        yield f"It was counted while account {found.raw.account_id} had a time zone; it has none now."
    else:
        last = max(bit.last_day for bit in found.bits)
        yield (
            "Its raw row is not there: not committed yet, or purged. So its day cannot be told, but that it is not "
            f"after {last}."
        )
    if found.bits:
        yield "How often its message came is not kept: repetitions are only added up, in consumer_offsets.duplicates."
    else:
        yield "Its day is closed and has counted every raw event that it has; ids of closed days are not kept."


def _but(day: EventDay) -> str:
    state = day.row.state if day.row else ""
    return f", but that day is {state}: {STATES[state]}" if state in STATES else ""


def _also(found: EventExplained) -> Iterator[str]:
    """What is true besides the fate."""
    if found.late and found.fate is Fate.COUNTED:
        yield "A message of it came again when its day was not counted live: a late event until the next rebuild."
    if found.dead_letters and found.fate is not Fate.DEAD:
        yield "A message with its id is a dead letter as well."
    if any(letter.counted_today for letter in found.dead_letters):
        yield "By today's rules the dead letter would be an event."


def _on_unreadable(letters: Unreadable, whose: str) -> Iterator[str]:
    if letters.all:
        yield (
            f"Dead letters that are no JSON, so that they could be about anything: {letters.all}; with {whose}'s key: "
            f"{letters.of_account}; with its digits: {letters.with_digits}."
        )


def _why_differs(found: DayExplained) -> str:
    where = f"--account {found.account.account_id} --date {found.date}"
    state = found.day.state if found.day else None
    if state == "open":
        return (
            "On an open day that passes: raw rows whose messages were not read yet, or messages that came before their "
            f"raw rows. If it stays, `python -m backfill verify {where}` compares when nobody writes."
        )
    if state == "closed":
        return (
            "On a closed day: raw rows came without a message, were purged, or the rollup was changed by hand. "
            f"`python -m backfill verify {where} --repair` mends it."
        )
    return f"`python -m backfill {where}` counts the day from its raw events."
