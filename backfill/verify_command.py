"""`python -m backfill verify`: days compared with their raw events, and rebuilt where they differ if asked to."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import psycopg
from cyclopts import Parameter
from rich.console import Console
from rich.progress import track

from backfill.report import LINE_SECONDS, PROBLEMS, describe
from backfill.run import Runner
from backfill.selection import Resolved, select
from backfill.verdict import Day, Verdict
from backfill.verify import verify_days
from backfill.verify_looks import Looks, in_order
from backfill.verify_report import Report, differs, is_exact, print_day
from consumer.access import refused_by_database
from consumer.database import one_line
from consumer.settings import DatabaseSettings


def verify(
    *,
    account: Annotated[tuple[int, ...], Parameter(help="Account id; repeatable.", negative=())] = (),
    all_accounts: Annotated[bool, Parameter(help="Every account that has a time zone.", negative=())] = False,
    day: Annotated[
        tuple[str, ...],
        Parameter(
            name="--date",
            help="Local date, as 2026-02-11, 2026-02-01..2026-02-28, today or yesterday; repeatable.",
            negative=(),
        ),
    ] = (),
    all_dates: Annotated[
        bool,
        Parameter(help="From the first raw event to yesterday, and all days that are open.", negative=()),
    ] = False,
    rows: Annotated[
        bool, Parameter(help="List the rows that differ: expected, found, difference.", negative=())
    ] = False,
    repair: Annotated[
        bool, Parameter(help="Rebuild the days that differ or are stale, and verify them again.", negative=())
    ] = False,
    strict: Annotated[
        bool, Parameter(help="Exit with 1 unless every day was compared and is exact.", negative=())
    ] = False,
    json: Annotated[bool, Parameter(help="One JSON object a day on standard output.", negative=())] = False,
    quiet: Annotated[bool, Parameter(help="Print nothing unless a day is not exact.", negative=())] = False,
) -> int:
    """Recompute days from the raw events, by queries of its own, and compare every row exactly.

    It writes nothing and waits for nobody: consumers and rebuilds go on, and what they do meanwhile is never taken for
    a difference. Days whose raw events may still be on their way are looked at again for a few seconds.

    Exit codes: 0 nothing differs (any more, with --repair), 1 a day differs or could not be looked at, 2 wrong use;
    3 and 8 as in python -m backfill --help.
    Days that are known to be behind, or that contain events which raw lacks (purged, or not committed yet), are
    listed, and are no difference; with --strict they exit with 1 as well.

    With --json each day is an object with account_id, date, timezone, state (open, closed, stale, settling, outdated,
    unknown, not covered), verdict (exact, drift, uncounted, never built, missing raw, behind, not covered, failed),
    raw, counted, behind, missing, invalid (numbers of events), differing (rows and members), repaired (the verdict
    before a rebuild, or null) and problem. With --rows also rows: objects with dimension_type, dimension_id, metric,
    member_id, expected, found (null, or count, sum_value, sum_value_business_hours) and difference; sums are decimal
    strings, in seconds.

    For example:

    - python -m backfill verify --all-accounts --date yesterday
    - python -m backfill verify --account 42 --date 2026-02-01..2026-02-28 --rows
    - python -m backfill verify --all-accounts --all-dates --repair --json
    """
    selection = select(account, all_accounts, day, all_dates, now=datetime.now(UTC))
    # A SIGTERM ends it as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    looks = Looks(DatabaseSettings.load())
    try:
        resolved, kept = looks.resolve(selection)
        return _run(looks, resolved, kept, _Options(rows, repair, strict, json, quiet))
    except psycopg.Error as error:
        if refused_by_database(error):
            raise
        sys.stderr.write(f"database: {one_line(error)}. Nothing more was compared; check DATABASE_URL\n")
    except KeyboardInterrupt:
        sys.stderr.write("stopped before all days were compared\n")
    finally:
        looks.close()
    return 1


@dataclass(frozen=True, slots=True)
class _Options:
    """What the command line chose."""

    rows: bool
    repair: bool
    strict: bool
    json: bool
    quiet: bool


def _run(looks: Looks, resolved: Resolved, kept: list[Day], options: _Options) -> int:
    for account in resolved.without_timezone:
        sys.stderr.write(
            f"account {account} has no reporting_timezone, so its days have no bounds and nothing to compare: set one "
            f"with python -m backfill set-timezone --account {account} --timezone Europe/Paris (any IANA name)\n"
        )
    for account, name in resolved.unknown_timezone.items():
        sys.stderr.write(f"account {account}: this program's tzdata does not know {name}: deploy a newer release\n")
    repairs: dict[Day, Verdict] = {}
    report = Report(rows=options.rows)
    days = _shown(in_order(resolved, kept), resolved.count + len(kept), options)
    for verified in verify_days(looks.look, days):
        report.add(verified)
        if options.repair and verified.repairable:
            repairs[verified.day] = verified.verdict
        elif options.json:
            print_day(verified, rows=options.rows, repaired=None)
    _print(report, looks, options)
    verdicts, good = report.verdicts, not (resolved.without_timezone or resolved.unknown_timezone)
    if repairs:
        rebuilt = _rebuild(looks.settings, repairs)
        good &= rebuilt == len(repairs)
        again = Report(rows=options.rows)
        for verified in verify_days(looks.look, repairs):
            again.add(verified)
            if options.json:
                print_day(verified, rows=options.rows, repaired=repairs[verified.day])
        if not options.json:
            of_all = f" of {len(repairs)}" if rebuilt < len(repairs) else ""
            sys.stdout.write(f"\nAfter the rebuild of {rebuilt}{of_all} days:\n")
        _print(again, looks, options)
        verdicts = verdicts - Counter(repairs.values()) + again.verdicts
    return 0 if good and (is_exact(verdicts) if options.strict else not differs(verdicts)) else 1


def _print(report: Report, looks: Looks, options: _Options) -> None:
    if not options.json and not (options.quiet and is_exact(report.verdicts)):
        report.print(looks.settling(report.behind), summary=not options.quiet)


def _rebuild(settings: DatabaseSettings, days: Iterable[Day]) -> int:
    """Rebuild days; how many of them could be. Problems go to standard error."""
    done = 0
    runner = Runner(settings)
    try:
        for account, day in days:
            try:
                results = runner.rebuild([account], day)
            except psycopg.Error as error:
                if refused_by_database(error) or not runner.connected:
                    raise
                sys.stderr.write(f"account {account}, {day}: {one_line(error)}\n")
                continue
            for result in results:
                if result.result in PROBLEMS:
                    sys.stderr.write(f"{describe(result)}\n")
                else:
                    done += 1
    finally:
        runner.close()
    return done


def _shown(days: Iterator[Day], total: int, options: _Options) -> Iterable[Day]:
    """The days, with a progress bar on standard error if that is a terminal, and lines now and then elsewhere."""
    if options.quiet or options.json:
        return days
    if sys.stderr.isatty():
        return track(days, "days", total=total, console=Console(stderr=True), transient=True)
    return _told(days, total)


def _told(days: Iterator[Day], total: int) -> Iterator[Day]:
    began = told = time.monotonic()
    for done, day in enumerate(days):
        now = time.monotonic()
        if now - told >= LINE_SECONDS:
            told, rate = now, done / (now - began)
            left = (total - done) / max(1e-9, rate)
            sys.stderr.write(f"{done:,} of {total:,} days, {rate:,.0f} days/s, about {left:,.0f} s left\n")
        yield day
