"""The dialogue of `set-timezone`: account, UTC offset, one of the zones that have it now, a last look, the rebuild."""

from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from backfill.zone_change import (
    LEAST_ACCOUNT,
    MOST_ACCOUNT,
    change_timezone,
    connection,
    lost_by,
    lowest_account,
    timezone_of,
    waiting_days,
)
from backfill.zone_consequences import Consequences
from backfill.zone_rebuild import rebuild_account
from backfill.zones import (
    HOW_TO_WRITE_OFFSETS,
    ZoneNow,
    containing,
    named_zone,
    offset_at,
    offset_text,
    parse_offset,
    suggestion,
    zones_at_offset,
)
from consumer.dialogue import INTERRUPTED, LEFT, ask, confirm, politely, say, whole_number
from consumer.settings import DatabaseSettings

WIDE = 72
"""Terminal columns from which the list of zones has room for more than their names."""


def run(settings: DatabaseSettings) -> int:
    """Ask, change, and offer the rebuild.

    Returns:
        0 done, or nothing to do; 1 days that could not be rebuilt, or left at Ctrl-D; 130 left at Ctrl-C.

    Raises:
        ZoneChangeError: not changed.
        psycopg.Error: the database is away, or refuses us.
    """
    return politely(lambda: _ask_and_change(settings))


def _ask_and_change(settings: DatabaseSettings) -> int:
    # No connection is held while somebody thinks: it could be cut off meanwhile.
    with connection(settings) as conn:
        lowest = lowest_account(conn)
    account_id = ask(
        "Account id",
        whole_number("an account id", LEAST_ACCOUNT, MOST_ACCOUNT),
        None if lowest is None else str(lowest),
    )
    with connection(settings) as conn:
        before = timezone_of(conn, account_id)
    now = datetime.now(UTC)
    if before is None:
        say(f"Account {account_id} has no time zone, and so no rollup.")
    else:
        here = offset_at(before, now)
        say(f"Account {account_id} is in {before}: {offset_text(here)}, {(now + here):%H:%M} there now.")
    after = _ask_zone(offset_text(offset_at(before, now)) if before else "UTC+00:00", now)
    if after == before:
        with connection(settings) as conn:
            waiting = waiting_days(conn, account_id)
        say(f"Account {account_id} has this time zone already; nothing was changed.")
        return _offer_rebuild(settings, account_id, waiting.days, waiting.seconds)
    with connection(settings) as conn:
        lost = lost_by(conn, account_id, before, after)
    if lost:
        say(f"Careful: {lost}.")
    there = f"{after} ({offset_text(offset_at(after, now))} now)"
    if not confirm(f"Change account {account_id} from {before or 'no time zone'} to {there}", default=False):
        say("Nothing was changed.")
        return 0
    with connection(settings) as conn:
        consequences = Consequences.of(conn, change_timezone(conn, account_id, after, force=lost is not None))
    for line in consequences.lines(rebuilds=False):
        say(line)
    return _offer_rebuild(settings, account_id, consequences.waiting.days, consequences.waiting.seconds)


def _offer_rebuild(settings: DatabaseSettings, account_id: int, days: int, seconds: float) -> int:
    if not days:
        return 0
    wait = f", after a wait of {seconds:.0f} s" if seconds > 0 else ""
    try:
        if not confirm(f"Rebuild these {days} days now{wait}", default=True):
            return 0
    except (EOFError, KeyboardInterrupt) as left:
        # What was changed is changed, and was told; the rebuild can be had later by the command that was shown.
        say("\nLeft without a rebuild.")
        return LEFT if isinstance(left, EOFError) else INTERRUPTED
    return rebuild_account(settings, account_id)


def _ask_zone(default: str, now: datetime) -> str:
    """Ask for a zone by its offset or by its name, until one is picked."""

    def offset_or_name(text: str) -> str | list[ZoneNow]:
        if name := named_zone(text):
            return name
        try:
            offset = parse_offset(text)
        except ValueError as error:
            # Whoever wrote letters meant a name.
            if any(c.isalpha() for c in text):
                hint = suggestion(text) or f" For an offset, {HOW_TO_WRITE_OFFSETS}."
                raise ValueError(f"{text!r} is neither a UTC offset nor a time zone.{hint}") from error
            raise
        return zones_at_offset(offset, now)

    answer = ask("UTC offset, as +05:30 or -3, or the name of a time zone", offset_or_name, default)
    return answer if isinstance(answer, str) else _pick(answer, now)


def _pick(zones: list[ZoneNow], now: datetime) -> str:
    """Let one of the zones be picked by its number; a part of a name narrows the list."""
    shown = zones
    while True:
        _show(shown, now)

        def number_or_part(text: str, shown: list[ZoneNow] = shown) -> str | list[ZoneNow]:
            if text.isascii() and text.isdigit():
                if len(text) < 6 and 1 <= int(text) <= len(shown):
                    return shown[int(text) - 1].name
                raise ValueError(f"there is no number {text[:20]} here: enter one from 1 to {len(shown)}")
            if text.lower() == "all":
                return zones
            if name := named_zone(text):
                return name
            if found := containing(zones, text):
                return found
            raise ValueError(
                f"no zone at {offset_text(zones[0].offset)} has {text!r} in its name.{suggestion(text)} "
                "Enter a number, another part of a name, or all for the whole list"
            )

        answer = ask("Number, name, or a part of a name to narrow the list", number_or_part, "1")
        if isinstance(answer, str):
            return answer
        shown = answer


def _show(zones: list[ZoneNow], now: datetime) -> None:
    offset, console = zones[0].offset, Console()
    wide = console.width >= WIDE
    table = Table(box=None, title=f"{len(zones)} time zones at {offset_text(offset)}", title_justify="left")
    table.add_column("", justify="right", no_wrap=True)
    # A name is what is picked: it may be folded on a narrow terminal, and never cut.
    for heading in ("time zone", "there now", "its clocks") if wide else ("time zone",):
        table.add_column(heading, overflow="fold")
    local = f"{(now + offset):%a %H:%M}"
    for number, each in enumerate(zones, 1):
        if number > 1 and each.present_name != zones[number - 2].present_name:
            table.add_row("", "[dim]old and technical names[/dim]")
        table.add_row(str(number), each.name, *((local, each.clock) if wide else ()))
    console.print(table)
